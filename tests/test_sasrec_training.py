"""Training SASRec: windows that hold every event, a toy world learnt by heart, the best epoch kept."""

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback

from genrec_hf.models import SasRec, SasRecConfig
from genrec_hf.training.sasrec_training import ItemWindows, SasRecTrainer, SasRecTrainingArguments


def test_windows_are_whole_sequences_or_cut_at_places_of_the_epoch():
    sequences = [np.arange(4), np.array([7]), np.arange(100, 130), np.array([], dtype=np.int64), np.array([8, 9])]
    windows = ItemWindows(sequences, 10, seed=3)
    assert len(windows) == 1 + 3 + 1
    first = [row["input_ids"].tolist() for row in windows]
    assert first[0] == [0, 1, 2] and first[-1] == [8] and windows[0]["labels"].tolist() == [1, 2, 3]
    for row in list(windows)[1:4]:
        assert len(row["input_ids"]) == 10 and (row["labels"] == row["input_ids"] + 1).all()
        assert row["input_ids"].min() >= 100 and row["labels"].max() < 130
    windows.set_epoch(1)
    assert [row["input_ids"].tolist() for row in windows] != first
    windows.set_epoch(0)
    assert [row["input_ids"].tolist() for row in windows] == first
    seen = set()
    for epoch in range(30):
        windows.set_epoch(epoch)
        seen |= {item for row in windows for item in row["labels"].tolist()}
    assert seen == {1, 2, 3, 9, *range(101, 130)}, "every event after a user's first is a label some time"
    with pytest.raises(ValueError, match="got 2 training sequences, none with two items"):
        ItemWindows([np.array([1]), np.array([2])], 10)


def train(toy_data, folder, seed=0, epochs=30, rate=1e-2, evaluate=True, **shape):
    torch.manual_seed(seed)
    own = {} if evaluate else {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    shape = {"hidden_size": 16, "intermediate_size": 32, "dropout": 0.1} | shape
    config = SasRecConfig(items=len(toy_data.item_ids), **shape)
    model = SasRec(config)
    arguments = SasRecTrainingArguments(
        str(folder), use_cpu=True, report_to="none", num_train_epochs=epochs, per_device_train_batch_size=16,
        learning_rate=rate, disable_tqdm=True, seed=seed, **own,
    )  # fmt: skip
    windows = ItemWindows(toy_data.training_sequences(), config.max_history, seed)
    trainer = SasRecTrainer(model, arguments, windows, cases=toy_data.cases("validation"))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    trainer.train()
    return trainer, before


def test_patience_counts_on_when_an_interrupted_run_goes_on(toy_data, tmp_path):
    def patient(folder, resume=None):
        torch.manual_seed(0)
        arguments = SasRecTrainingArguments(
            str(folder),
            use_cpu=True,
            report_to="none",
            num_train_epochs=30,
            per_device_train_batch_size=16,
            learning_rate=1e-2,
            disable_tqdm=True,
            save_total_limit=None,
        )
        model = SasRec(SasRecConfig(items=len(toy_data.item_ids), hidden_size=8, intermediate_size=8))
        windows = ItemWindows(toy_data.training_sequences(), model.config.max_history)
        trainer = SasRecTrainer(
            model, arguments, windows, cases=toy_data.cases("validation"), callbacks=[EarlyStoppingCallback(3)]
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = patient(tmp_path / "whole")
    last, step = whole.state.global_step, len(whole.get_train_dataloader())
    assert whole.state.best_global_step == last - 3 * step and last < 30 * step
    resumed = patient(tmp_path / "resumed", str(tmp_path / "whole" / f"checkpoint-{last - step}"))
    assert (resumed.state.global_step, resumed.state.best_global_step) == (last, last - 3 * step)


@pytest.mark.parametrize(
    ("shape", "epochs", "rate"),
    [
        ({}, 60, 1e-2),
        ({"encoder": "gru"}, 60, 1e-2),
        ({"loss": "sampled_softmax", "negatives": 16}, 60, 1e-2),
        # Binary losses learn the same more slowly.
        ({"loss": "bce", "negatives": 8, "hidden_size": 32, "dropout": 0.2}, 300, 3e-3),
        ({"loss": "gbce", "negatives": 8, "calibration": 0.5, "hidden_size": 32, "dropout": 0.2}, 300, 3e-3),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_world_where_the_next_item_is_known_is_learnt(shape, epochs, rate, toy_data, tmp_path):
    trainer, before = train(toy_data, tmp_path, epochs=epochs, rate=rate, evaluate=False, **shape)
    model = trainer.model
    for name, weight in model.named_parameters():
        unread = name == "position_embedding.weight"  # of positions beyond the toy's sequences
        changed = (weight != before[name]).any(dim=-1) if weight.dim() > 1 else (weight != before[name])
        assert changed.any() if unread or name == "item_embedding.weight" else changed.all(), name
    assert not model.item_embedding.weight[-1].any(), "padding stays nothing"
    cases = toy_data.cases("test")
    assert (model.rank(cases.histories, 1).items[:, 0] == cases.targets).mean() > 0.9


def test_the_best_epoch_is_what_is_left(toy_data, tmp_path):
    trainer, _ = train(toy_data, tmp_path, epochs=6)
    log = [entry for entry in trainer.state.log_history if "eval_ndcg@10" in entry]
    assert len(log) == 6 and {"eval_recall@10", "eval_ndcg@10", "eval_mrr@10", "epoch", "step"} <= set(log[0])
    assert trainer.evaluate()["eval_ndcg@10"] == max(entry["eval_ndcg@10"] for entry in log)
    ranked = trainer.model.rank(trainer.cases.histories, 10).items
    hits = (ranked == trainer.cases.targets[:, None]).any(axis=1).mean()
    assert trainer.evaluate()["eval_recall@10"] == pytest.approx(hits)
