"""Prints versions, device, and measured peak rates of a machine as one line of JSON.

    python benchmarks/gpu/environment.py --device cuda

The peak rates are those of a large copy on the device (bytes read and written) and of a large product of random
bfloat16 matrices; later measurements are reported as shares of them. `outside` lists packages whose installed version
`pyproject.toml` does not allow.
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
    """Return the version of an installed package; `None` if it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def outside(root: Path) -> dict[str, str]:
    """Return the dependencies that are missing or have a version that the library does not allow."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = {}
    for requirement in map(Requirement, project["dependencies"]):
        present = installed(requirement.name)
        if present is None or not requirement.specifier.contains(present, prereleases=True):
            packages[requirement.name] = f"{present or 'missing'}, needs {requirement.specifier}"
    return packages


def seconds(run: Callable[[], object], device: str, rounds: int = 10) -> float:
    """Measure the median seconds of `run`, after two warmup runs."""
    times = []
    for _ in range(rounds + 2):
        start = perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(perf_counter() - start)
    return median(times[2:])


def ceilings(device: str) -> dict[str, float]:
    """Measure copied gigabytes and bfloat16 operations per second; sizes that fill a GPU, small ones on a CPU."""
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
    """Measure the machine and print the results."""
    if device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("error: torch finds no GPU: use --dry to try the steps on a CPU")
    name = f"{torch.get_num_threads()} threads, {platform.machine()} CPU"
    memory = None
    if device != "cpu":
        properties = torch.cuda.get_device_properties(0)
        name, memory = properties.name, properties.total_memory / 2**30
    names = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "numpy", "pandas", "pyarrow")
    environment = {
        "device": name,
        "memory_gib": memory,
        "python": platform.python_version(),
        "versions": {package: installed(package) for package in names},
        "outside": outside(ROOT),
        **ceilings(device),
    }
    print(json.dumps(environment))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    main(parser.parse_args().device)
