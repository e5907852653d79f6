"""Seconds and peak memory of a block of code, for reports and benchmarks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class ResourceUsage:
    """What a block took: `seconds`, and `peak_mb` above what was in use before, `None` where the system is silent."""

    seconds: float = 0.0
    peak_mb: float | None = None


@contextmanager
def track_resources() -> Iterator[ResourceUsage]:
    """Measure the block under `with`: main memory of this process, Linux only; the figures are there at its end.

    Memory that was freed before and that the process still holds counts as in use before.
    """
    result = ResourceUsage()
    before = _megabytes("VmRSS")
    if before is not None:
        try:
            _RESET.write_text("5")  # the high-water mark starts anew
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
