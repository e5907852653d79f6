"""What a command line may name as a ranker, and what becomes of it."""

import numpy as np
import pytest

from genrec_hf import ranker_sources
from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.data.item_embeddings import save_embeddings
from genrec_hf.models import Ease, ItemKnn, TextKnn
from genrec_hf.ranker_sources import choose_normalizations, open_rankers, read_normalizations, read_sources


def test_sources_are_named_once_each():
    assert read_sources(["a=item_knn", "b=you/name@v1", "c=x=y"]) == {"a": "item_knn", "b": "you/name@v1", "c": "x=y"}
    for pairs, message in (
        (["a=x", "a=y"], "got the ranker 'a=y': give each name once"),
        (["a=x", "b"], "got the ranker 'b'"),
        (["a=x", "=y"], "got the ranker '=y'"),
        (["a=x", "b="], "got the ranker 'b='"),
        (["a=x", "popularity=y"], "none of model, random, popularity"),
        (["a=x"], "there is nothing to fuse"),
        (["a=x", "../b=y"], "use letters, digits, _ and - only"),
    ):
        with pytest.raises(ValueError, match=message):
            read_sources(pairs)


def test_normalizations_are_of_the_rankers():
    assert read_normalizations(["b=z_score"], ["a", "b"]) == {"b": "z_score"}
    for pairs, message in (
        (["c=z_score"], "give the name of each ranker once: a, b"),
        (["a=z_score", "a=z_score"], "give the name of each ranker once"),
        (["a=rank"], "got the normalization of a='rank'; use one of log_softmax, z_score"),
    ):
        with pytest.raises(ValueError, match=message):
            read_normalizations(pairs, ["a", "b"])


def test_rankers_without_training_are_those_of_the_training_events(toy_data, tmp_path):
    items, sequences = len(toy_data.item_ids), toy_data.training_sequences()
    embeddings = np.random.default_rng(0).normal(size=(items, 4)).astype(np.float32)
    save_embeddings(tmp_path / "item_embeddings.safetensors", embeddings, toy_data.item_ids)
    sources = {"counts": "item_knn", "linear": "ease", "text": "text_knn"}
    rankers = open_rankers(sources, toy_data, tmp_path, item_knn_prior=2.0)
    expected = {
        "counts": ItemKnn.from_sequences(sequences, items, prior=2.0),
        "linear": Ease.from_sequences(sequences, items),
        "text": TextKnn.from_embeddings(embeddings),
    }
    for name, ranker in rankers.items():
        np.testing.assert_array_equal(ranker.score([[0, 3], []]), expected[name].score([[0, 3], []]))
        assert ranker.config.catalogue == catalogue_fingerprint(toy_data.item_ids)
        assert ranker.config.dataset == toy_data.info["fingerprint"]
    chosen = choose_normalizations(rankers, {"linear": "log_softmax"})
    assert chosen == {"counts": "log_softmax", "linear": "log_softmax", "text": "z_score"}


def test_what_is_not_there_is_told(toy_data, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"got text=text_knn, .* holds no item_embeddings\.safetensors: run"):
        open_rankers({"text": "text_knn"}, toy_data, tmp_path)
    with pytest.raises(FileNotFoundError, match="got the ranker x=nothing, which is none of item_knn, ease, text_knn"):
        open_rankers({"x": "nothing"}, toy_data, tmp_path)
    monkeypatch.setattr(ranker_sources, "MAX_ITEMS", 10)
    with pytest.warns(UserWarning, match=r"got e=ease for 24 items: .*; it is left out"):
        assert list(open_rankers({"e": "ease", "c": "item_knn"}, toy_data, tmp_path)) == ["c"]
