"""What the benchmarks ask of a device: its name, its clock, and computing in bfloat16."""

import platform
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter

import torch


def device_name(device: str) -> str:
    """Name of the first GPU, or the threads of a CPU."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads, {platform.machine()} CPU"


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def now(device: str) -> float:
    """Seconds of the clock, once the device has done what it was given."""
    wait(device)
    return perf_counter()


def autocast(device: str, dtype: str) -> AbstractContextManager:
    """Compute in `dtype` where that is safe; as weights are when it is float32."""
    return nullcontext() if dtype == "float32" else torch.autocast(device, getattr(torch, dtype))
