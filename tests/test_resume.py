"""`checkpoint_to_resume`: the same run goes on, any other is refused, and a torn checkpoint counts for nothing."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from trl import SFTConfig

from genrec_hf import SemanticIds
from genrec_hf.training.resume import SETTINGS_FILE, checkpoint_to_resume


@dataclass
class OwnArguments:
    passes: int = 1
    tasks: tuple[str, ...] = ("a", "b")


DATASET = {"fingerprint": "d1", "name": "toy"}


def settings(output_dir, **changes):
    fixed = {"use_cpu": True, "bf16": False, "activation_checkpointing": False, "report_to": "none"}
    return SFTConfig(output_dir=str(output_dir), **fixed, **{"learning_rate": 1e-3, "max_steps": 10, **changes})


def sids(codes=((0, 0), (0, 1))):
    return SemanticIds(np.array(codes), (2, 2), ["x", "y"])


def resume(training, semantic_ids=None, own=OwnArguments(), dataset=DATASET):  # noqa: B008
    return checkpoint_to_resume(training, semantic_ids or sids(), own, dataset=dataset)


def add_checkpoint(output_dir, step, whole=True):
    folder = output_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    if whole:
        (folder / "trainer_state.json").write_text("{}")
    return str(folder)


def test_a_first_start_has_nothing_to_resume_and_writes_its_settings_down(tmp_path):
    training = settings(tmp_path / "new" / "run")
    assert resume(training) is None
    written = json.loads((tmp_path / "new" / "run" / SETTINGS_FILE).read_text())
    assert written["learning_rate"] == 1e-3
    assert written["passes"] == 1
    assert written["tasks"] == ["a", "b"]
    assert written["dataset"] == "d1"
    assert written["semantic_ids"] == sids().fingerprint


def test_the_same_run_goes_on_from_its_last_checkpoint(tmp_path):
    assert resume(settings(tmp_path)) is None
    add_checkpoint(tmp_path, 5)
    last = add_checkpoint(tmp_path, 10)
    add_checkpoint(tmp_path, 9)
    before = (tmp_path / SETTINGS_FILE).read_bytes()
    assert resume(settings(tmp_path)) == last
    assert (tmp_path / SETTINGS_FILE).read_bytes() == before


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path):
    resume(settings(tmp_path))
    add_checkpoint(tmp_path, 10, whole=False)
    assert resume(settings(tmp_path)) is None
    whole = add_checkpoint(tmp_path, 5)
    add_checkpoint(tmp_path, "best")
    assert resume(settings(tmp_path)) == whole


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("learning_rate", 1e-3, 2e-3),
        ("max_steps", 10, 20),
        ("per_device_train_batch_size", 8, 4),
        ("seed", 42, 1),
        ("max_length", 1024, 512),
        ("packing", False, True),
    ],
)
def test_another_training_is_refused(tmp_path, name, old, new):
    assert getattr(settings(tmp_path), name) == old
    resume(settings(tmp_path))
    add_checkpoint(tmp_path, 5)
    before = (tmp_path / SETTINGS_FILE).read_bytes()
    with pytest.raises(
        ValueError, match=rf"checkpoints of a run with {name}={old}, and this one has {new}: "
    ) as error:
        resume(settings(tmp_path, **{name: new}))
    assert "choose another output_dir" in str(error.value) and "\n" not in str(error.value)
    assert (tmp_path / SETTINGS_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("passes", {"own": OwnArguments(passes=2)}),
        ("tasks", {"own": OwnArguments(tasks=("a",))}),
        ("dataset", {"dataset": {"fingerprint": "d2", "name": "toy"}}),
        ("semantic_ids", {"semantic_ids": sids([[0, 1], [0, 0]])}),
    ],
)
def test_other_arguments_data_or_sids_are_refused(tmp_path, name, change):
    resume(settings(tmp_path))
    add_checkpoint(tmp_path, 5)
    with pytest.raises(ValueError, match=f"checkpoints of a run with {name}="):
        resume(settings(tmp_path), **change)


def test_another_number_of_processes_is_refused(tmp_path, monkeypatch):
    resume(settings(tmp_path))
    add_checkpoint(tmp_path, 5)
    monkeypatch.setattr(SFTConfig, "world_size", 2)
    with pytest.raises(ValueError, match="world_size=1, and this one has 2"):
        resume(settings(tmp_path))


def test_logging_and_saving_may_change(tmp_path):
    resume(settings(tmp_path))
    last = add_checkpoint(tmp_path, 5)
    assert resume(settings(tmp_path, logging_steps=1, save_steps=3, save_total_limit=2, run_name="again")) == last


def test_without_a_checkpoint_other_settings_start_anew(tmp_path):
    resume(settings(tmp_path))
    assert resume(settings(tmp_path, learning_rate=2e-3)) is None
    assert json.loads((tmp_path / SETTINGS_FILE).read_text())["learning_rate"] == 2e-3


def test_checkpoints_of_an_unknown_run_are_refused(tmp_path):
    add_checkpoint(tmp_path, 5)
    with pytest.raises(ValueError, match=f"holds checkpoints and no {SETTINGS_FILE}.*choose another output_dir"):
        resume(settings(tmp_path))
    assert not (tmp_path / SETTINGS_FILE).exists()


def test_one_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(SFTConfig, "process_index", 1)
    assert resume(settings(tmp_path / "run")) is None
    assert not (tmp_path / "run").exists()
