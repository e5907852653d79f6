"""Ranking while a model trains: the figures of the recommender, and training that does not notice."""

import json

import pytest
import torch
from test_sft import make_trainer, world

from genrec_hf.evaluation import per_case_metrics
from genrec_hf.evaluation.display import draw_curves
from genrec_hf.generation import Recommender
from genrec_hf.tasks import dense_dataset
from genrec_hf.training.watching import RankingCallback

HOW = {"max_history": 5, "score": "full"}


def trained(toy_data, toy_sids, folder, steps=None, users=200):
    model, tokenizer, vocabulary = world(toy_sids, "llama", True)
    dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    trainer = make_trainer(model, tokenizer, vocabulary, dataset, folder, "full", max_steps=6)
    if steps is not None:
        callback = RankingCallback(trainer, toy_sids, toy_data.cases("validation"), steps, users, **HOW)
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
    cases = toy_data.cases("validation")
    ranked = Recommender(watched.model, watched.processing_class, toy_sids, **HOW).rank(cases.histories, 10)
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
    one, other = (RankingCallback(trainer, toy_sids, cases, 1, users=7).cases for _ in range(2))
    assert len(one) == 7 and one.users.tolist() == other.users.tolist()
    for wrong in ({"steps": 0}, {"steps": 1, "users": 0}):
        with pytest.raises(ValueError, match="give at least one of each"):
            RankingCallback(trainer, toy_sids, cases, **wrong)
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="where weights may be in shards"):
        RankingCallback(trainer, toy_sids, cases, 1)


def test_a_run_without_a_log_has_no_curves(tmp_path):
    draw_curves([{"train_runtime": 3.0, "step": 5}], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
