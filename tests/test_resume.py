"""`Run`: the same run goes on, any other is refused, and a torn checkpoint counts for nothing."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl import SFTConfig

from genrec_hf import SemanticIds
from genrec_hf.models import SasRec, SasRecConfig
from genrec_hf.training.resume import SETTINGS_FILE, Run
from genrec_hf.training.sasrec_training import ItemWindows, SasRecTrainer, SasRecTrainingArguments


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
    run = Run(training, semantic_ids or sids(), own, dataset=dataset)
    trainer = SimpleNamespace(
        _run_epoch=None, train=lambda resume_from_checkpoint: passed.append(resume_from_checkpoint)
    )
    passed = []
    run.train(trainer)
    assert passed == [run.checkpoint]
    return run.checkpoint


def add_checkpoint(output_dir, step, whole=True):
    folder = output_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "optimizer.pt").write_bytes(b"")
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
        ("max_steps", 10, 5),
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


# Finished and longer runs, and settings that would be ignored


def finish(output_dir, steps=10, planned=10, result="genrec_hf.json", **changes):
    """A run that has saved its result."""
    training = settings(output_dir, **changes)
    resume(training)
    (output_dir / result).write_text("{}")
    state = SimpleNamespace(global_step=steps, max_steps=planned)
    Run(training, sids(), OwnArguments(), dataset=DATASET).finish(SimpleNamespace(state=state))


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("result", ["genrec_hf.json", "config.json"])
@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_finished_run_says_so_and_nothing_changes(tmp_path, capsys, result, checkpoints):
    finish(tmp_path, result=result)
    if checkpoints:
        add_checkpoint(tmp_path, 10)
        (tmp_path / "checkpoint-10" / "optimizer.pt").unlink()  # it is not needed any more
    before = tree(tmp_path)
    assert Run(settings(tmp_path), sids(), OwnArguments(), dataset=DATASET).is_finished()
    told = capsys.readouterr().out
    assert told.startswith(
        f"Finished: {tmp_path} holds the result of this run after 10 steps, so nothing was done; raise"
    )
    assert "max_steps" in told and "choose another output_dir to start a new run" in told and "push" not in told
    pushing = settings(tmp_path, push_to_hub=True)
    assert Run(pushing, sids(), OwnArguments(), dataset=DATASET).is_finished()
    assert "push it with genrec_hf.hub.push_recommender" in capsys.readouterr().out
    assert tree(tmp_path) == before


def test_a_run_whose_result_was_deleted_goes_on(tmp_path):
    finish(tmp_path)
    last = add_checkpoint(tmp_path, 10)
    (tmp_path / "genrec_hf.json").unlink()
    run = Run(settings(tmp_path), sids(), OwnArguments(), dataset=DATASET)
    assert not run.is_finished() and run.checkpoint == last
    assert resume(settings(tmp_path)) == last
    (tmp_path / "genrec_hf.json").write_text("{}")
    assert not Run(settings(tmp_path), sids(), OwnArguments(), dataset=DATASET).is_finished()


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ({"max_steps": 10}, {"max_steps": 20}, "max_steps=10, and this one has 20"),
        (
            {"max_steps": -1, "num_train_epochs": 1.0},
            {"max_steps": -1, "num_train_epochs": 2.5},
            r"num_train_epochs=1\.0, and this one has 2\.5",
        ),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_longer_run_goes_on_from_the_end(tmp_path, capsys, before, after, key, finished):
    if finished:
        finish(tmp_path, **before)
    else:
        resume(settings(tmp_path, **before))
    last = add_checkpoint(tmp_path, 10)
    run = Run(settings(tmp_path, **after), sids(), OwnArguments(), dataset=DATASET)
    told = capsys.readouterr().out
    assert re.match(
        rf"Resuming from .*checkpoint-10, of a run with {key}\. .*learning rate schedule \(linear\) follows", told
    )
    assert not run.is_finished() and run.checkpoint == last
    assert resume(settings(tmp_path, **after)) == last
    with pytest.raises(ValueError, match="resuming would mix the two"):
        resume(settings(tmp_path, **before))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"max_steps": 10}, {"max_steps": -1, "num_train_epochs": 50.0}),
        ({"max_steps": -1}, {"max_steps": 10**6}),
        ({"max_steps": 10}, {"max_steps": 20, "learning_rate": 1.0}),
        ({"max_steps": -1, "num_train_epochs": 2.0}, {"max_steps": -1, "num_train_epochs": 1.0}),
    ],
)
def test_a_run_that_is_not_only_longer_is_refused(tmp_path, before, after):
    finish(tmp_path, **before)
    add_checkpoint(tmp_path, 10)
    written = tree(tmp_path)
    with pytest.raises(ValueError, match="resuming would mix the two; choose another output_dir"):
        resume(settings(tmp_path, **after))
    assert tree(tmp_path) == written


def test_epochs_do_not_matter_beside_max_steps(tmp_path):
    finish(tmp_path)
    again = Run(settings(tmp_path, num_train_epochs=7), sids(), OwnArguments(), dataset=DATASET)
    assert again.is_finished()


def test_a_result_without_checkpoints_is_neither_replaced_nor_continued(tmp_path):
    finish(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"result of a run with learning_rate=0\.001, and .* it would be replaced"):
        resume(settings(tmp_path, learning_rate=2e-3))
    with pytest.raises(ValueError, match="with max_steps=10, and this one has 20, and no checkpoint to resume from"):
        resume(settings(tmp_path, max_steps=20))
    assert tree(tmp_path) == before


def test_a_run_that_ended_by_itself_is_finished_at_any_length(tmp_path, capsys):
    finish(tmp_path, steps=6)
    add_checkpoint(tmp_path, 6)
    assert Run(settings(tmp_path, max_steps=99), sids(), OwnArguments(), dataset=DATASET).is_finished()
    assert (
        "after 6 steps, so nothing was done; training stopped early, before the planned 10 steps"
        in capsys.readouterr().out
    )


def test_a_checkpoint_that_is_asked_for_is_used_or_refused(tmp_path):
    resume(settings(tmp_path))
    first, last = add_checkpoint(tmp_path, 5), add_checkpoint(tmp_path, 10)
    half = add_checkpoint(tmp_path, 15, whole=False)
    elsewhere = add_checkpoint(tmp_path / "elsewhere", 5)
    assert resume(settings(tmp_path, resume_from_checkpoint=f"{first}/")) == first
    for asked in (elsewhere, half, "true", str(tmp_path)):
        with pytest.raises(ValueError, match="which is no complete checkpoint in") as error:
            resume(settings(tmp_path, resume_from_checkpoint=asked))
        assert f"leave it out to resume from the last one there ({last})" in str(error.value)


def test_what_a_killed_run_left_half_saved_is_removed(tmp_path):
    half, of_others = add_checkpoint(tmp_path / "a", 5, whole=False), add_checkpoint(tmp_path / "b", 5, whole=False)
    (tmp_path / "a" / SETTINGS_FILE).write_text("{}")
    (tmp_path / "a" / "checkpoint-best").mkdir()
    resume(settings(tmp_path / "a"))
    resume(settings(tmp_path / "b"))
    assert not Path(half).exists() and (tmp_path / "a" / "checkpoint-best").exists() and Path(of_others).exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"save_only_model": True}, "got save_only_model=True: a run cannot be resumed from checkpoints without"),
        ({"ignore_data_skip": True}, "got ignore_data_skip=True: a resumed run would train on its first"),
        (
            {"train_sampling_strategy": "group_by_length"},
            "got train_sampling_strategy='group_by_length' with save_strategy='steps': a run cannot be resumed within",
        ),
        (
            {"push_to_hub": True, "hub_strategy": "checkpoint"},
            "got hub_strategy='checkpoint': only the final result is",
        ),
        ({"load_best_model_at_end": True, "save_strategy": "no"}, "got load_best_model_at_end=True: nothing is"),
    ],
)
def test_what_could_not_go_on_exactly_or_does_nothing_is_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        resume(settings(tmp_path, **given))
    assert not list(tmp_path.iterdir())
    assert resume(settings(tmp_path, save_only_model=True, save_strategy="no")) is None


def test_the_trainer_pushes_nothing_of_its_own(tmp_path):
    training = settings(tmp_path, push_to_hub=True)
    resume(training)
    assert training.hub_strategy == "end" and settings(tmp_path).hub_strategy == "every_save"


def test_a_checkpoint_without_optimizer_state_is_refused(tmp_path):
    resume(settings(tmp_path))
    last = Path(add_checkpoint(tmp_path, 10))
    (last / "optimizer.pt").unlink()
    with pytest.raises(
        ValueError, match=r"checkpoint-10 has no optimizer state, so the run cannot be resumed exactly"
    ):
        resume(settings(tmp_path))
    (last / "global_step10").mkdir()  # DeepSpeed's
    assert resume(settings(tmp_path)) == str(last)


def trained(toy_data, folder, steps):
    """A SASRec trained for real, constant rate, four steps an epoch."""
    torch.manual_seed(0)
    training = SasRecTrainingArguments(
        str(folder), use_cpu=True, report_to="none", max_steps=steps, save_steps=1, per_device_train_batch_size=16,
        disable_tqdm=True, eval_strategy="no", save_strategy="steps", load_best_model_at_end=False,
        save_total_limit=None, train_sampling_strategy="random",
    )  # fmt: skip
    run = Run(training, None, dataset=toy_data.info)
    if run.is_finished():
        return None
    model = SasRec(SasRecConfig(items=len(toy_data.item_ids), hidden_size=16, intermediate_size=32))
    windows = ItemWindows(toy_data.training_sequences(), model.config.max_history)
    trainer = SasRecTrainer(model, training, windows, cases=toy_data.cases("validation"))
    run.train(trainer)
    assert trainer.state.global_step == steps
    model.save_pretrained(folder)
    return run, trainer


def test_a_trained_run_is_finished_once_and_a_longer_one_is_that_of_its_length(toy_data, tmp_path, capsys):
    def weights(trainer):
        return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}

    run, trainer = trained(toy_data, tmp_path / "run", 6)
    first = weights(trainer)
    # Killed after its last checkpoint and before its result was whole: no step more.
    run, trainer = trained(toy_data, tmp_path / "run", 6)
    assert all(torch.equal(weights(trainer)[name], tensor) for name, tensor in first.items())
    run.finish(trainer)
    before = tree(tmp_path / "run")
    assert "checkpoint-1/optimizer.pt" in before
    assert trained(toy_data, tmp_path / "run", 6) is None
    assert tree(tmp_path / "run") == before
    run, longer = trained(toy_data, tmp_path / "run", 10)
    run.finish(longer)
    _, whole = trained(toy_data, tmp_path / "whole", 10)
    assert all(torch.equal(weights(longer)[name], tensor) for name, tensor in weights(whole).items())
    assert not all(torch.equal(weights(longer)[name], tensor) for name, tensor in first.items())
    assert trained(toy_data, tmp_path / "run", 10) is None
    capsys.readouterr()
