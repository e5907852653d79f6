"""Device functions of the benchmarks: name, synchronized clock, and autocast."""

import platform
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter

import torch


def device_name(device: str) -> str:
    """Return the name of the first GPU, or the number of CPU threads."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads, {platform.machine()} CPU"


def wait(device: str) -> None:
    """Wait until the device is idle."""
    if device != "cpu":
        torch.cuda.synchronize()


def now(device: str) -> float:
    """Return the time in seconds, after the device is idle."""
    wait(device)
    return perf_counter()


def autocast(device: str, dtype: str) -> AbstractContextManager:
    """Return a context of mixed precision in `dtype`; without autocast if it is float32."""
    return nullcontext() if dtype == "float32" else torch.autocast(device, getattr(torch, dtype))
