"""Measures the time and the peak memory of a block of code, for reports and benchmarks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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


def _megabytes(name: str) -> float | None:
    if not _STATUS.exists() or not _RESET.exists():
        return None
    line = next((line for line in _STATUS.read_text().splitlines() if line.startswith(name)), None)
    return None if line is None else int(line.split()[1]) / 1e3
