"""Prints what a machine is and what it can do, as one line of JSON: versions, device, and two ceilings.

    python benchmarks/gpu/environment.py --device cuda

The ceilings are a large copy on the device (bytes read and written) and a large product of random bfloat16 matrices:
what is measured afterwards is a share of these. `outside` names the installed versions that `pyproject.toml` does not
admit.
"""

import argparse
import json
import platform
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def installed(name: str) -> str | None:
    """Version of an installed package; `None` without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def outside(root: Path) -> dict[str, str]:
    """Packages that the library needs and that are missing or of another version than it admits."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = {}
    for requirement in map(Requirement, project["dependencies"]):
        there = installed(requirement.name)
        if there is None or not requirement.specifier.contains(there, prereleases=True):
            found[requirement.name] = f"{there or 'missing'}, wanted {requirement.specifier}"
    return found


def seconds(run: Callable[[], object], device: str, rounds: int = 10) -> float:
    """Median seconds of `run`, after two runs that do not count."""
    taken = []
    for _ in range(rounds + 2):
        start = perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(perf_counter() - start)
    return median(taken[2:])


def ceilings(device: str) -> dict[str, float]:
    """Copied gigabytes and bfloat16 operations a second; sizes that fill a GPU, small ones on a CPU."""
    numbers, side = (2**28, 8192) if device != "cpu" else (2**22, 128)
    source = torch.randn(numbers, device=device)
    copied = torch.empty_like(source)
    left, right = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    copy_seconds = seconds(lambda: copied.copy_(source), device)
    product_seconds = seconds(lambda: left @ right, device)
    return {
        "copy_gb_per_s": 2 * source.nbytes / copy_seconds / 1e9,
        "bfloat16_tflops": 2 * side**3 / product_seconds / 1e12,
    }


def main(device: str) -> None:
    """Look, measure, print."""
    if device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("error: torch sees no GPU here; --dry tries the steps on a CPU")
    name = f"{torch.get_num_threads()} threads, {platform.machine()} CPU"
    memory = None
    if device != "cpu":
        properties = torch.cuda.get_device_properties(0)
        name, memory = properties.name, properties.total_memory / 2**30
    names = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "numpy", "pandas", "pyarrow")
    found = {
        "device": name,
        "memory_gib": memory,
        "python": platform.python_version(),
        "versions": {each: installed(each) for each in names},
        "outside": outside(ROOT),
        **ceilings(device),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    main(parser.parse_args().device)
