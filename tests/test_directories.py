"""Output directories: what is refused, one run at a time, nothing half-written, what killed runs left removed."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import make_model

from genrec_hf import SemanticIds
from genrec_hf.data import load_data, save_data
from genrec_hf.data.item_embeddings import save_embeddings
from genrec_hf.directories import (
    LOCK_FILE,
    PREFIX,
    as_directory,
    lock_directory,
    lock_for_recipe,
    refuse_foreign,
    replace_file,
    write_files,
    write_text,
)
from genrec_hf.evaluation import write_report
from genrec_hf.evaluation.comparison import write_comparison
from genrec_hf.hub import push_recommender, save_recommender
from genrec_hf.model_card import write_model_card
from genrec_hf.models import LlaraForCausalLM, SasRec, SasRecConfig
from genrec_hf.models.export import export_checkpoint
from genrec_hf.semantic_ids import RqKmeans
from genrec_hf.semantic_ids import write_report as write_sid_report
from genrec_hf.training.probe_report import write_probes

HOLD = """
import sys, time
from genrec_hf.directories import lock_directory
with lock_directory(sys.argv[1]) as directory:
    (directory / ".genrec_hf-left").mkdir()
    (directory / ".genrec_hf-left" / "model.safetensors").write_text("half")
    print("held", flush=True)
    time.sleep(600)
"""


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def other_run(tmp_path):
    """Another process that holds `out`; it has written half a model there."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


# What is refused


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_would_mean_the_current_directory(path):
    with pytest.raises(ValueError, match=r"got data_dir='\s?', which would mean the current directory; name a folder"):
        as_directory(path, "data_dir")


def make_llara():
    return LlaraForCausalLM.from_language_model(make_model(), np.eye(2, 4, dtype=np.float32))


WRITERS = {
    "semantic ids": lambda path, data, sids: sids.save_pretrained(path),
    "quantizer": lambda path, data, sids: RqKmeans((2,)).fit(np.eye(4, dtype=np.float32)).save_pretrained(path),
    "data": lambda path, data, sids: save_data(data, path),
    "loaded data": lambda path, data, sids: load_data(path),
    "report": lambda path, data, sids: write_report({"protocol": {"dataset": "toy"}}, path),
    "comparison": lambda path, data, sids: write_comparison({}, path),
    "SID report": lambda path, data, sids: write_sid_report({}, {}, np.eye(2), directory=path),
    "probes": lambda path, data, sids: write_probes(None, {}, {}, protocol={}, directory=path),
    "recommender": lambda path, data, sids: save_recommender(
        path, None, None, semantic_ids=sids, max_history=5, normalization="full"
    ),
    "pushed recommender": lambda path, data, sids: push_recommender(path, "someone/toy"),
    "card": lambda path, data, sids: write_model_card(path),
    "SASRec": lambda path, data, sids: SasRec(SasRecConfig(items=2, hidden_size=4)).save_pretrained(path),
    "LLaRA": lambda path, data, sids: make_llara().save_pretrained(path),
    "checkpoint": lambda path, data, sids: export_checkpoint("no-such-model", path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_no_writer_takes_an_empty_path_or_a_file(writer, toy_data, toy_sids, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="would mean the current directory; name a folder"):
        WRITERS[writer]("", toy_data, toy_sids)
    for path in ("file", "file/below"):
        with pytest.raises(ValueError, match=f"='{path}', but 'file' is a file; name a folder"):
            WRITERS[writer](path, toy_data, toy_sids)
    assert tree(tmp_path) == {"file": b"kept"}


FOREIGN = [
    "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
    "adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin",
    "weights.Q4_1.gguf", "consolidated.00.pth", "tf_model.h5",
]  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("writer", ["semantic ids", "data", "recommender", "checkpoint"])
def test_a_folder_with_weights_of_others_is_left_alone(name, writer, toy_data, toy_sids, tmp_path):
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(ValueError, match=rf"holds {name}, which genrec_hf did not write .*choose another folder"):
        WRITERS[writer](str(tmp_path), toy_data, toy_sids)
    assert tree(tmp_path) == {name: b"weights"}


@pytest.mark.parametrize("name", ["genrec_hf.json", "run_settings.json", LOCK_FILE])
def test_weights_beside_a_file_of_ours_are_ours(name, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / name).write_text("")
    with lock_directory(tmp_path):
        refuse_foreign(tmp_path)


def test_other_files_are_replaced_only_where_they_are_ours(tmp_path):
    (tmp_path / "README.md").write_text("the user's")
    refuse_foreign(tmp_path)
    with lock_directory(tmp_path), pytest.raises(ValueError, match=r"holds README\.md, which genrec_hf did not write"):
        refuse_foreign(tmp_path, replaced=["README.md"])
    (tmp_path / "genrec_hf.json").write_text("{}")
    refuse_foreign(tmp_path, replaced=["README.md"])


def test_what_a_run_starts_from_is_not_where_it_saves(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "genrec_hf.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "base")
    for path in ("base", "base/", "link", "other/../base"):
        (tmp_path / "other").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="which the run reads and would replace; choose another folder"):
            refuse_foreign(f"{tmp_path}/{path}", sources=[None, str(tmp_path / "base")])
    refuse_foreign(tmp_path / "new", sources=["owner/model", str(tmp_path / "base")])


def test_an_export_does_not_replace_the_model_it_reads(tmp_path):
    make_model().save_pretrained(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"holds model\.safetensors, which genrec_hf did not write"):
        export_checkpoint(str(tmp_path), tmp_path, num_hidden_layers=1)
    assert tree(tmp_path) == before


# One run at a time


def test_the_second_run_is_told_who_holds_the_folder_at_once(other_run, toy_data, tmp_path):
    before = tree(tmp_path)
    message = rf"output_dir='.*out' is in use by process {other_run.pid} on {os.uname().nodename}: two runs would mix"
    with pytest.raises(ValueError, match=message), lock_directory(tmp_path / "out"):
        pass
    with pytest.raises(ValueError, match=rf"data_dir='.*out' is in use by process {other_run.pid} on "):
        save_data(toy_data, tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(ValueError, match=f"is in use by process {other_run.pid}"), lock_directory(tmp_path / "link"):
        pass
    (tmp_path / "link").unlink()
    assert tree(tmp_path) == before


def test_the_lock_ends_with_its_process_and_what_it_left_is_removed(other_run, tmp_path):
    out = tmp_path / "out"
    kept = [".git", "tmpabcd", f"nested/{LOCK_FILE}", f"nested/{PREFIX}x", "checkpoint-best/trained"]
    for name in kept:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("kept")
    (out / "checkpoint-best" / f"{PREFIX}trained").write_text("half")
    assert (out / f"{PREFIX}left" / "model.safetensors").is_file()
    other_run.send_signal(signal.SIGKILL)
    other_run.wait()
    assert (out / LOCK_FILE).is_file()
    with lock_directory(out):
        assert set(tree(out)) == {*kept, LOCK_FILE}
        assert (out / LOCK_FILE).read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"
    assert set(tree(out)) == set(kept)


def test_processes_of_one_launch_are_one_run(other_run, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with lock_directory(tmp_path / "out") as directory:
        assert (directory / f"{PREFIX}left").is_dir()
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="is in use by"), lock_directory(tmp_path / "out"):
        pass


def test_a_run_holds_its_folder_more_than_once_and_leaves_no_trace(tmp_path):
    with lock_directory(tmp_path / "a" / "out") as directory:
        with lock_directory(tmp_path / "a" / "out"):
            assert (directory / LOCK_FILE).is_file()
        assert (directory / LOCK_FILE).is_file(), "the outer one holds it still"
    assert not directory.exists(), "nothing was written"
    with lock_directory(directory):
        (directory / "metrics.json").write_text("{}")
    assert set(tree(directory)) == {"metrics.json"}


def test_a_recipe_holds_the_folder_that_its_arguments_name(tmp_path):
    @dataclass
    class Own:
        data_dir: str = "data"

    @dataclass
    class Training:
        output_dir: str

    seen = []

    @lock_for_recipe("output_dir")
    def main(own, training):
        """What it does."""
        seen.extend(tree(tmp_path))
        raise KeyError(own.data_dir)

    with pytest.raises(KeyError, match="data"):
        main(Own(), Training(str(tmp_path / "out")))
    assert seen == [f"out/{LOCK_FILE}"] and main.__doc__ == "What it does." and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="got output_dir='', which would mean the current directory"):
        main(Own(), Training(""))


# Nothing half-written


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new" / "metrics.json"
    write_text(file, "é")
    assert file.read_bytes() == "é".encode()
    with pytest.raises(OSError, match="disk full"), replace_file(file) as partial:
        assert partial.suffix == ".json" and partial.name.startswith(PREFIX)
        partial.write_text("hal")
        raise OSError("disk full")
    assert tree(tmp_path) == {"new/metrics.json": "é".encode()}


def test_readers_never_see_a_file_in_between(tmp_path):
    file, texts, seen, done = tmp_path / "report.json", ["a" * 200_000, "b" * 100_000], set(), threading.Event()
    write_text(file, texts[0])

    def read():
        while not done.is_set():
            seen.add(file.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(50):
        write_text(file, texts[step % 2])
    done.set()
    reader.join()
    assert seen <= set(texts)


def test_a_folder_is_filled_as_a_whole_and_its_last_file_last(tmp_path, monkeypatch):
    for name in ("last.json", "model.safetensors", "metrics.md", "own.txt"):
        (tmp_path / name).write_text("old")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "codes").write_text("old")
    before = tree(tmp_path)
    with pytest.raises(OSError, match="disk full"), write_files(tmp_path, "last.json") as partial:
        (partial / "model.safetensors").write_text("new")
        raise OSError("disk full")
    assert tree(tmp_path) == before
    moved = []
    monkeypatch.setattr("shutil.move", lambda source, target: moved.append(target.name) or source.replace(target))
    with write_files(tmp_path, "last.json", ["metrics.*", "sub"]) as partial:
        for name in ("last.json", "a", "z"):
            (partial / name).write_text("new")
    assert set(moved) == {"a", "z", "last.json"} and moved[-1] == "last.json"
    assert {name: text.decode() for name, text in tree(tmp_path).items()} == {
        "last.json": "new",
        "a": "new",
        "z": "new",
        "model.safetensors": "old",
        "own.txt": "old",
    }


def test_a_model_that_a_full_disk_cut_short_is_still_ours(tmp_path, monkeypatch):
    def unplugged(source, target):
        if target.name == "config.json":
            raise OSError("disk full")
        source.replace(target)

    monkeypatch.setattr("shutil.move", unplugged)
    with (
        pytest.raises(OSError, match="disk full"),
        lock_directory(tmp_path),
        write_files(tmp_path, "config.json") as partial,
    ):
        make_model().save_pretrained(partial)
    assert (tmp_path / "model.safetensors").is_file() and not (tmp_path / "config.json").exists()
    monkeypatch.undo()
    with lock_directory(tmp_path), write_files(tmp_path, "config.json") as partial:
        make_model().save_pretrained(partial)
    assert set(tree(tmp_path)) == {"model.safetensors", "config.json", "generation_config.json"}
    with pytest.raises(ValueError, match="which genrec_hf did not write"):
        refuse_foreign(tmp_path)


def test_semantic_ids_that_are_saved_over_others_never_load_mixed(tmp_path, toy_sids, monkeypatch):
    (tmp_path / "quantizer").mkdir()
    (tmp_path / "quantizer" / "quantizer.json").write_text("{}")
    toy_sids.save_pretrained(tmp_path)
    assert not (tmp_path / "quantizer").exists()
    other = SemanticIds(toy_sids.codes[::-1], toy_sids.level_sizes, toy_sids.item_ids)
    monkeypatch.setattr("shutil.move", lambda source, target: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        other.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError):
        SemanticIds.from_pretrained(tmp_path)


def test_embeddings_and_their_stamp_are_written_whole(tmp_path, monkeypatch):
    save_embeddings(tmp_path / "item_embeddings.safetensors", np.eye(2), ["a", "b"])
    before = tree(tmp_path)

    def half(tensors, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("genrec_hf.data.item_embeddings.save_file", half)
    with pytest.raises(OSError, match="disk full"):
        save_embeddings(tmp_path / "item_embeddings.safetensors", np.ones((2, 2)), ["a", "b"])
    assert tree(tmp_path) == before


# Every place in library and recipes that writes a result goes through this module.
PARTIAL = ("partial", "written")


def test_nothing_else_writes_results_in_place():
    root = Path(__file__).parents[1]
    in_place = [
        f"{file.relative_to(root)}:{number}: {line.strip()}"
        for folder in ("genrec_hf", "recipes", "benchmarks")
        for file in (root / folder).glob("**/*.py")
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if any(call in line for call in ("write_text(", "write_bytes(", "savefig(", "save_file(", ".to_parquet("))
        and not any(each in line for each in (*PARTIAL, "import ", "def "))
        and file.name not in ("directories.py", "resource_usage.py")
        and not line.strip().startswith("write_text(")
    ]
    allowed = {
        "catalogue_file.py": "directory / CODES_FILE",
        "stored_quantizer.py": "write_bytes(content)",
        "wrapped_lm.py": "saved_file",
        "quantizer.py": "partial",
    }
    assert [each for each in in_place if not any(f"{k}:" in each and v in each for k, v in allowed.items())] == []


def test_json_of_a_killed_writer_is_the_old_one(tmp_path):
    code = (
        "import os, signal, sys\nfrom genrec_hf.directories import replace_file\n"
        "with replace_file(sys.argv[1]) as partial:\n"
        "    partial.write_text('{\"half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "run_settings.json").write_text("{}")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run_settings.json")], cwd=Path(__file__).parents[1])
    assert json.loads((tmp_path / "run_settings.json").read_text()) == {} and len(tree(tmp_path)) == 2
    with lock_directory(tmp_path):
        pass
    assert set(tree(tmp_path)) == {"run_settings.json"}
