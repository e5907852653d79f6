"""Ranking while a model trains: the figures of the recommender, and training that does not notice."""

import json

import numpy as np
import pytest
import torch
from test_sft import make_trainer, world
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from genrec_hf.evaluation import per_case_metrics
from genrec_hf.evaluation.display import draw_curves
from genrec_hf.generation import Recommender
from genrec_hf.tasks import dense_dataset
from genrec_hf.training.validation import BEST_FILE, RankingCallback, ValidationArguments, validate_while_training

HOW = {"max_history": 5, "normalization": "full"}


def recommender_of(trainer, sids):
    return lambda model: Recommender(model, trainer.processing_class, sids, **HOW)


def trained(toy_data, toy_sids, folder, steps=None, users=200):
    model, tokenizer, vocabulary = world(toy_sids, "llama", True)
    dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    trainer = make_trainer(model, tokenizer, vocabulary, dataset, folder, "full", max_steps=6)
    trainer.args.logging_strategy, trainer.args.logging_steps = IntervalStrategy.STEPS, 2
    if steps is not None:
        cases = toy_data.cases("validation")
        callback = RankingCallback(trainer, recommender_of(trainer, toy_sids), cases, steps=steps, users=users)
        trainer.add_callback(callback)
    trainer.train()
    return trainer


def test_a_sample_is_ranked_and_training_does_not_notice(toy_data, toy_sids, tmp_path):
    watched, plain = (trained(toy_data, toy_sids, tmp_path / name, steps) for name, steps in (("a", 2), ("b", None)))
    weights = [dict(trainer.model.named_parameters()) for trainer in (watched, plain)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert watched.model.training == plain.model.training
    rows = [row for row in watched.state.log_history if "ranking/recall@10" in row]
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    losses = [
        [(row["step"], row["loss"]) for row in each.state.log_history if "loss" in row] for each in (watched, plain)
    ]
    assert losses[0] == losses[1] and [step for step, _ in losses[0]] == [2, 4, 6], "no log is lost to a ranking"
    cases = toy_data.cases("validation")
    ranked = Recommender(watched.model, watched.processing_class, toy_sids, **HOW).rank(cases.histories, 10).items
    found = per_case_metrics(ranked, cases.targets, ks=(10,))
    for name in ("recall@10", "ndcg@10"):
        assert rows[-1][f"ranking/{name}"] == pytest.approx(found[name].mean())
    draw_curves(watched.state.log_history, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    json.dumps(watched.state.log_history)


def test_a_sample_is_drawn_once_and_is_no_larger_than_asked(toy_data, toy_sids, tmp_path):
    model, tokenizer, vocabulary = world(toy_sids, "llama", True)
    dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    trainer = make_trainer(model, tokenizer, vocabulary, dataset, tmp_path, "full")
    cases = toy_data.cases("validation")
    one, other = (RankingCallback(trainer, Recommender, cases, steps=1, users=7).cases for _ in range(2))
    assert len(one) == 7 and one.users.tolist() == other.users.tolist()
    for wrong in ({"steps": 0}, {"steps": 1, "users": 0}, {"steps": 1, "patience": 0}):
        with pytest.raises(ValueError, match=r"got (steps|users|patience)=0; give 1 or more"):
            RankingCallback(trainer, Recommender, cases, **wrong)
    with pytest.raises(ValueError, match="got cases=0; give 1 or more"):
        RankingCallback(trainer, Recommender, cases.select([]), steps=1)
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="which may shard the weights"):
        RankingCallback(trainer, Recommender, cases, steps=1)


def test_users_are_ranked_where_the_arguments_ask_for_it(toy_data, toy_sids, tmp_path):
    model, tokenizer, vocabulary = world(toy_sids, "llama", True)
    dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    trainer = make_trainer(model, tokenizer, vocabulary, dataset, tmp_path, "full")
    before, cases = len(trainer.callback_handler.callbacks), toy_data.cases("validation")
    validate_while_training(trainer, ValidationArguments(), toy_sids, cases=cases, **HOW)
    assert len(trainer.callback_handler.callbacks) == before
    validate_while_training(
        trainer, ValidationArguments(validation_steps=3, validation_users=7, patience=2), toy_sids, cases=cases, **HOW
    )
    added = trainer.callback_handler.callbacks[-1]
    assert (added.steps, len(added.cases), added.patience, added.k) == (3, 7, 2, 10)
    made, expected = added.ranker_of(model), recommender_of(trainer, toy_sids)(model)
    assert repr(made) == repr(expected) and made.model is model
    with pytest.raises(ValueError, match="got validation_users=0; give 1 or more"):
        ValidationArguments(validation_steps=1, validation_users=0)
    with pytest.raises(ValueError, match="got patience=2 without validation_steps"):
        ValidationArguments(patience=2)


def test_a_run_without_a_log_has_no_curves(tmp_path):
    draw_curves([{"train_runtime": 3.0, "step": 5}], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def watched(toy_data, toy_sids, folder, until=40, resume=None, patience=2):
    """A run whose learning rate leads away from where it starts, perhaps left after `until` steps."""
    model, tokenizer, vocabulary = world(toy_sids, "llama", True)
    dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    how = {"max_steps": 40, "learning_rate": 0.01, "warmup_steps": 4}
    trainer = make_trainer(model, tokenizer, vocabulary, dataset, folder, "full", **how)
    trainer.args.save_strategy, trainer.args.save_steps = SaveStrategy.STEPS, 3
    trainer.state.save_steps = 3
    cases = toy_data.cases("validation")
    callback = RankingCallback(trainer, recommender_of(trainer, toy_sids), cases, steps=2, patience=patience)
    trainer.add_callback(callback)
    if until < 40:
        on_step_end = callback.on_step_end

        def leave(args, state, control, **kwargs):
            on_step_end(args, state, control, **kwargs)
            if state.global_step == until:
                raise KeyboardInterrupt

        callback.on_step_end = leave
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    else:
        trainer.train(resume_from_checkpoint=resume)
    return trainer, callback


def test_patience_ends_a_run_with_the_best_weights(toy_data, toy_sids, tmp_path):
    trainer, _ = watched(toy_data, toy_sids, tmp_path / "whole")
    rows = [row for row in trainer.state.log_history if "ranking/ndcg@10" in row]
    values = [row["ranking/ndcg@10"] for row in rows]
    best = int(np.argmax(values))
    assert len(values) == best + 3 and trainer.state.global_step == rows[-1]["step"] < 40, "two more, then it stops"
    ranked = Recommender(trainer.model, trainer.processing_class, toy_sids, **HOW)
    cases = toy_data.cases("validation")
    found = per_case_metrics(ranked.rank(cases.histories, 10).items, cases.targets, ks=(10,))
    assert found["ndcg@10"].mean() == pytest.approx(values[best]) and values[-1] < values[best]
    again, _ = watched(toy_data, toy_sids, tmp_path / "whole", resume=str(last_checkpoint(tmp_path / "whole")))
    for one, other in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other), "a run that is started again when it is done ends with the same weights"

    until = rows[best]["step"] + 1
    watched(toy_data, toy_sids, tmp_path / "left", until)
    kept = tmp_path / "left" / BEST_FILE
    kept.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="is missing, the best weights of the run"):
        watched(toy_data, toy_sids, tmp_path / "left", resume=str(last_checkpoint(tmp_path / "left")))
    (tmp_path / "elsewhere").rename(kept)
    resumed, _ = watched(toy_data, toy_sids, tmp_path / "left", resume=str(last_checkpoint(tmp_path / "left")))
    assert resumed.state.global_step == trainer.state.global_step
    for one, other in zip(trainer.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def last_checkpoint(folder):
    return max(folder.glob("checkpoint-[0-9]*"), key=lambda path: int(path.name.split("-")[1]))
