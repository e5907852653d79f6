"""First embeddings of SID tokens: rows from centroids by arithmetic, and what stays as it was."""

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer

from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.semantic_ids import RqKmeans
from genrec_hf.token_initialization import residual_centroids

# Twelve items; no item has code 1 of the first level, and the last level numbers items with equal codes.
CODES = np.array([[2 * (item // 6), item // 3 % 2, item % 3] for item in range(12)])
SIDS = SemanticIds(CODES, (3, 2, 3), [f"i{item}" for item in range(12)], info={"collisions": "extra-level"})
VECTORS = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
TEXTS = [f"{color} thing {word}" for color in ("red", "green", "blue", "black") for word in ("title", "user", "next")]
OLD = len(make_tokenizer())


def tables(model):
    pair = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    return pair[:1] if pair[0] is pair[1] else pair


def text_vectors(old, tokenizer, texts=TEXTS):
    return torch.stack([old[tokenizer(text, add_special_tokens=False)["input_ids"]].mean(dim=0) for text in texts])


def fit_ridge(inputs, targets, penalty):
    """Closed form with an intercept that is not penalized; returns the map `[d, hidden]` and the means."""
    centered = inputs - inputs.mean(axis=0)
    gram = centered.T @ centered + penalty * np.eye(inputs.shape[1])
    return np.linalg.solve(gram, centered.T @ (targets - targets.mean(axis=0)))


def leave_one_out_error(inputs, targets, penalty):
    error = 0.0
    for item in range(len(inputs)):
        others = np.arange(len(inputs)) != item
        weights = fit_ridge(inputs[others], targets[others], penalty)
        predicted = targets[others].mean(axis=0) + (inputs[item] - inputs[others].mean(axis=0)) @ weights
        error += np.square(predicted - targets[item]).mean()
    return error


def expected_rows(old, targets, vectors=VECTORS):
    """Rows of the first two levels, in float64."""
    vectors, targets = vectors.astype(np.float64), targets.double().numpy()
    penalties = np.logspace(-3, 3, 7) * vectors.var(axis=0).mean() * len(vectors)
    best = min(penalties, key=lambda penalty: leave_one_out_error(vectors, targets, penalty))
    weights = fit_ridge(vectors, targets, best)
    distance = np.sqrt(np.square(old.numpy() - old.numpy().mean(axis=0)).sum(axis=1).mean())
    residual, rows = vectors - vectors.mean(axis=0), []
    for level, codes in ((0, (0, 2)), (1, (0, 1))):
        centroids = np.stack([residual[CODES[:, level] == code].mean(axis=0) for code in codes])
        residual = residual - centroids[np.searchsorted(codes, CODES[:, level])]
        rows.append(centroids @ weights)
    scale = distance / np.sqrt(np.square(np.concatenate(rows)).sum(axis=1).mean())
    return [torch.tensor(targets.mean(axis=0) + scale * level, dtype=torch.float32) for level in rows]


@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_centroids_mapped_by_ridge_regression_and_other_rows_stay(tied):
    tokenizer, model = make_tokenizer(), make_model(tied=tied, vocabulary=OLD)
    olds = [table.detach().clone() for table in tables(model)]
    vocabulary = SidVocabulary(SIDS, markers=True).extend(
        tokenizer, model, init="centroids", item_texts=TEXTS, item_vectors=VECTORS
    )
    by_text, ids = make_model(tied=tied, vocabulary=OLD), vocabulary.level_token_ids
    SidVocabulary(SIDS, markers=True).extend(make_tokenizer(), by_text, item_texts=TEXTS)
    assert len(tables(model)) == len(olds) == (1 if tied else 2)
    for table, text_table, old in zip(tables(model), tables(by_text), olds, strict=True):
        assert torch.equal(table[:OLD], old)
        targets = text_vectors(old, tokenizer)
        first, second = expected_rows(old, targets)
        torch.testing.assert_close(table[ids[0][[0, 2]]], first, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(table[ids[1]], second, rtol=1e-4, atol=1e-6)
        spread = (table[[*ids[0][[0, 2]], *ids[1]]] - targets.mean(dim=0)).square().sum(dim=1).mean()
        torch.testing.assert_close(spread, old.var(dim=0, correction=0).sum())
        # A code without items, and the markers.
        for unused in (ids[0][1], *vocabulary.all_token_ids[-2:]):
            torch.testing.assert_close(table[unused], old.mean(dim=0))
        # The level that numbers colliding items has no centroids.
        assert torch.equal(table[ids[2]], text_table[ids[2]])
        assert not torch.isclose(table[ids[1]], text_table[ids[1]]).all()


def test_every_level_has_centroids_where_no_level_numbers_items():
    sids = SemanticIds(CODES, (3, 2, 3), SIDS.item_ids, info={"collisions": "nearest"})
    tokenizer, model = make_tokenizer(), make_model(vocabulary=OLD)
    old = tables(model)[0].detach().clone()
    vocabulary = SidVocabulary(sids).extend(tokenizer, model, init="centroids", item_texts=TEXTS, item_vectors=VECTORS)
    used = [token for token in vocabulary.all_token_ids if token != vocabulary.level_token_ids[0][1]]
    shifts = tables(model)[0][used] - text_vectors(old, tokenizer).mean(dim=0)
    centroids = np.concatenate(residual_centroids(VECTORS, CODES, (3, 2, 3)))[[0, 2, 3, 4, 5, 6, 7]]
    # A linear map of the centroids, of three dimensions.
    weights, error, *_ = np.linalg.lstsq(centroids, shifts.detach().numpy(), rcond=None)
    assert np.linalg.matrix_rank(weights) == 3 and error.max() < 1e-8


def test_items_without_text_count_in_centroids_and_not_in_the_map():
    tokenizer, model = make_tokenizer(), make_model(vocabulary=OLD)
    old = tables(model)[0].detach().clone()
    vocabulary = SidVocabulary(SIDS).extend(
        tokenizer, model, init="centroids", item_texts=[*TEXTS[:11], ""], item_vectors=VECTORS
    )
    targets, ids = text_vectors(old, tokenizer, TEXTS[:11]), vocabulary.level_token_ids
    shifts = tables(model)[0][ids[0][[0, 2]]] - targets.mean(dim=0)
    # Six items each: the centroids are opposite to each other, which they would not be without the last item.
    torch.testing.assert_close(shifts[0], -shifts[1], rtol=1e-4, atol=1e-6)


def test_a_level_with_one_code_gives_the_mean_of_the_texts():
    tokenizer, model = make_tokenizer(), make_model(vocabulary=OLD)
    old = tables(model)[0].detach().clone()
    codes = np.stack([np.zeros(12, dtype=int), np.arange(12)], axis=1)
    vocabulary = SidVocabulary(SemanticIds(codes, (1, 12), SIDS.item_ids)).extend(
        tokenizer, model, init="centroids", item_texts=TEXTS, item_vectors=VECTORS
    )
    row = tables(model)[0][vocabulary.level_token_ids[0][0]]
    torch.testing.assert_close(row, text_vectors(old, tokenizer).mean(dim=0))


def test_a_large_catalogue_is_sampled_by_the_seed(monkeypatch):
    monkeypatch.setattr("genrec_hf.token_initialization.FITTED_ITEMS", 6)
    rows = []
    for seed in (0, 0, 1):
        model = make_model(vocabulary=OLD)
        vocabulary = SidVocabulary(SIDS).extend(
            make_tokenizer(), model, init="centroids", item_texts=TEXTS, item_vectors=VECTORS, seed=seed
        )
        rows.append(tables(model)[0][vocabulary.all_token_ids])
    assert torch.equal(rows[0], rows[1]) and not torch.isclose(rows[0], rows[2]).all()
    assert rows[2].isfinite().all()


def test_items_with_equal_vectors_get_the_mean_row():
    model = make_model(vocabulary=OLD)
    old = tables(model)[0].detach().clone()
    vocabulary = SidVocabulary(SIDS).extend(
        make_tokenizer(), model, init="centroids", item_texts=TEXTS, item_vectors=np.ones((12, 3), dtype=np.float32)
    )
    row = tables(model)[0][vocabulary.level_token_ids[0][0]]
    torch.testing.assert_close(row, old.mean(dim=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"item_texts": TEXTS}, "got no item vectors for 12 items with init='centroids': pass item_vectors="),
        ({"item_texts": TEXTS, "item_vectors": VECTORS[:5]}, "got 5 item vectors for 12 items"),
        ({"item_vectors": VECTORS}, "got no item texts for 12 items with init='centroids': pass item_texts="),
        ({"item_texts": TEXTS, "item_vectors": VECTORS * np.nan}, "is NaN or infinite"),
        ({"item_texts": TEXTS, "item_vectors": VECTORS[:, 0]}, r"pass \[items, d\]"),
        ({"item_texts": ["red", *[""] * 11], "item_vectors": VECTORS}, "got 1 item texts that are not blank"),
    ],
)
def test_missing_texts_and_vectors_are_refused_before_anything_changes(arguments, message):
    tokenizer, model = make_tokenizer(), make_model(vocabulary=OLD)
    with pytest.raises(ValueError, match=message):
        SidVocabulary(SIDS).extend(tokenizer, model, init="centroids", **arguments)
    assert len(tokenizer) == OLD and len(tables(model)[0]) == OLD


def test_centroids_are_the_codebooks_of_residual_k_means():
    vectors = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    quantizer = RqKmeans(level_sizes=(4, 5)).fit(vectors, progress=False)
    first, second = residual_centroids(vectors, quantizer.encode(vectors), (4, 5))
    np.testing.assert_allclose(first, quantizer.codebooks[0] - vectors.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(second, quantizer.codebooks[1], atol=1e-5)


def test_a_code_without_items_has_no_centroid():
    first, second = residual_centroids(VECTORS, CODES[:, :2], (3, 2))
    assert np.isnan(first[1]).all() and np.isfinite(first[[0, 2]]).all() and np.isfinite(second).all()
