"""Baselines of a report by name: which are made, with which settings, and what they rank."""

from dataclasses import replace

import numpy as np
import pytest

from genrec_hf.evaluation import evaluate_data, evaluate_recommendations
from genrec_hf.evaluation.display import markdown_report, text_report
from genrec_hf.evaluation.report_baselines import (
    BASELINES,
    SETTINGS,
    TEXT_BASELINES,
    choose_baselines,
    make_baselines,
)
from genrec_hf.fusion import WeightedSum
from genrec_hf.models import Ease, ItemKnn, TextKnn

ITEMS = 24
EMBEDDINGS = np.random.default_rng(0).normal(size=(ITEMS, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def report(toy_data):
    candidates = toy_data.cases("test").candidates(ITEMS, 5)
    return evaluate_data(toy_data, "test", embeddings=EMBEDDINGS, candidates=candidates, progress=False)


def test_a_report_has_a_row_of_every_baseline_in_each_section(report):
    for rows in (report["baselines"], report["unfiltered"]["baselines"], report["candidates"]["systems"]):
        assert list(rows) == list(BASELINES)
    assert report["baselines"]["item_knn"]["recall@10"] > 0.9 > report["baselines"]["random"]["recall@10"]
    assert "baselines_left_out" not in report["protocol"]


def test_rows_are_those_of_the_models_themselves(report, toy_data):
    sequences, cases = toy_data.training_sequences(), toy_data.cases("test")
    rankers = {
        "item_knn": ItemKnn.from_sequences(sequences, ITEMS, window=10, recent=5, prior=10.0),
        "ease": Ease.from_sequences(sequences, ITEMS, regularization=100.0),
        "text_knn": TextKnn.from_embeddings(EMBEDDINGS, recent=5, pooling="max"),
        "text_knn_mean": TextKnn.from_embeddings(EMBEDDINGS, recent=5, pooling="mean"),
    }
    settings = report["protocol"]["baseline_settings"]["item_knn_text"]
    parts = {name: rankers[name] for name in ("item_knn", "text_knn")}
    rankers["item_knn_text"] = WeightedSum(parts, settings["weights"], settings["normalizations"])
    for name, ranker in rankers.items():
        for section, filter_seen in ((report, True), (report["unfiltered"], False)):
            lists = ranker.rank(cases.histories, 20, filter_seen=filter_seen).items
            row = evaluate_recommendations(lists, cases.users, cases.targets, items=ITEMS)
            for metric in ("recall@1", "recall@10", "ndcg@10", "mrr@20"):
                assert section["baselines"][name][metric] == row[metric], (name, metric)


def test_the_protocol_and_the_tables_state_the_settings(report):
    settings = report["protocol"]["baseline_settings"]
    assert set(settings) == {name for name in BASELINES if SETTINGS[name]}
    assert settings["item_knn"] == {"window": 10, "recent": 5, "prior": 10.0}
    assert settings["ease"] == {"regularization": 100.0} and settings["text_knn_mean"]["pooling"] == "mean"
    assert settings["item_knn_text"]["fitted_on"] == "validation"
    assert sum(settings["item_knn_text"]["weights"].values()) == pytest.approx(1)
    for text in (markdown_report(report), " ".join(text_report(report).split())):
        assert "item_knn: window 10, recent 5, prior 10.0; ease: regularization 100.0; text_knn: recent 5" in text
        assert "Left out" not in text


def test_weights_are_fitted_on_validation_events_alone(toy_data):
    """Changing the last event of every user, which is the test event, changes no weight; changing validation does."""
    cluster = np.arange(ITEMS) // 6
    embeddings = np.eye(4)[cluster] + np.random.default_rng(1).normal(scale=0.01, size=(ITEMS, 4))

    def weights(changed_split: str | None) -> dict[str, float]:
        interactions = toy_data.interactions.copy()
        if changed_split is not None:
            changed = (interactions["split"] == changed_split).to_numpy()
            rng = np.random.default_rng(2)
            interactions.loc[changed, "item_id"] = rng.choice(toy_data.item_ids, changed.sum())
        data = replace(toy_data, interactions=interactions)
        return make_baselines(data, ["item_knn_text"], embeddings=embeddings)[1]["item_knn_text"]["weights"]

    assert weights("test") == weights(None)
    assert weights("validation") != weights(None)


def test_a_catalogue_too_large_for_ease_is_said_and_the_row_left_out(toy_data, monkeypatch):
    monkeypatch.setattr("genrec_hf.evaluation.report_baselines.MAX_EASE_ITEMS", 23)
    with pytest.warns(UserWarning, match="no baseline 'ease': it takes minutes for more than 23 items; name it"):
        report = evaluate_data(toy_data, "test", embeddings=EMBEDDINGS, progress=False)
    assert list(report["baselines"]) == [name for name in BASELINES if name != "ease"]
    assert "Left out: ease (it takes minutes for more than 23 items" in markdown_report(report)
    named = evaluate_data(toy_data, "test", baselines=["ease"], progress=False)
    assert list(named["baselines"]) == ["ease"]
    monkeypatch.setattr("genrec_hf.models.ease.MAX_ITEMS", 23)
    with pytest.raises(ValueError, match="got 24 items: EASE inverts a dense matrix"):
        choose_baselines(["ease"], items=ITEMS, has_embeddings=True)


def test_baselines_of_text_without_embeddings_are_left_out_unless_they_are_named(toy_data):
    report = evaluate_data(toy_data, "test", progress=False)
    assert list(report["baselines"]) == [name for name in BASELINES if name not in TEXT_BASELINES]
    assert set(report["protocol"]["baselines_left_out"]) == set(TEXT_BASELINES)
    assert "Left out: text_knn (the data set has no item_embeddings.safetensors" in text_report(report)
    for name in TEXT_BASELINES:
        with pytest.raises(ValueError, match=f"got the baseline '{name}', which cannot be made: the data set has no"):
            evaluate_data(toy_data, "test", baselines=["popularity", name], progress=False)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["item-knn"], "got baselines='item-knn'; use one of random, popularity"),
        (["ease", "ease"], "some of them twice"),
    ],
)
def test_names_are_checked_before_anything_is_made(names, message):
    with pytest.raises(ValueError, match=message):
        choose_baselines(names, items=ITEMS, has_embeddings=True)


def test_without_validation_cases_no_weights_are_fitted():
    names, left_out = choose_baselines(None, items=ITEMS, has_embeddings=True, has_validation=False)
    assert set(left_out) == {"item_knn_text"} and "text_knn" in names
