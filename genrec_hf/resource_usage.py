"""Measures the time and the peak memory of a block of code, for reports and benchmarks."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CPU = Path("/proc/cpuinfo")


@dataclass
class ResourceUsage:
    """Resource usage of a block of code, set when the block ends.

    Args:
        seconds (`float`, defaults to 0.0): wall-clock time.
        peak_mb (`float`, *optional*): peak resident memory (10^6 bytes) above what was in use when the block began;
            `None` where the system does not report it.
    """

    seconds: float = 0.0
    peak_mb: float | None = None


@contextmanager
def track_resources() -> Iterator[ResourceUsage]:
    """Measure the block under `with`: wall-clock time and, on Linux, main memory of this process.

    Memory that the process freed before the block and has not returned to the system counts as in use before.

    Yields:
        `ResourceUsage`: filled in when the block ends.
    """
    result = ResourceUsage()
    before = _megabytes("VmRSS")
    if before is not None:
        try:
            _RESET.write_text("5")  # resets the peak (VmHWM)
        except OSError:
            before = None
    start = perf_counter()
    yield result
    result.seconds = perf_counter() - start
    if before is not None:
        result.peak_mb = max(0.0, (_megabytes("VmHWM") or before) - before)


def device_name(device: "str | torch.device" = "cpu") -> str:
    """Return the name of a GPU or of the CPU, for reports.

    Args:
        device (`str` or `torch.device`, defaults to `"cpu"`): device that was computed on.

    Returns:
        `str`: such as `"NVIDIA H100 80GB HBM3"`; the type of the device or of the machine where the system does not
        report a name.
    """
    kind = str(device).partition(":")[0]
    if kind == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    if kind != "cpu":
        return kind
    lines = _CPU.read_text().splitlines() if _CPU.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()


def _megabytes(name: str) -> float | None:
    if not _STATUS.exists() or not _RESET.exists():
        return None
    line = next((line for line in _STATUS.read_text().splitlines() if line.startswith(name)), None)
    return None if line is None else int(line.split()[1]) / 1e3
