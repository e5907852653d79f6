"""Metrics against arithmetic, brute force and scikit-learn."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from genrec_hf.evaluation.metrics import (
    coverage,
    duplicate_rate,
    intra_list_similarity,
    invalid_rate,
    list_ndcg,
    per_case_metrics,
    target_ranks,
)

LISTS = [[5, 3, 8, 1], [2, 2, 7, -1], [0, 1, 2, 3], [-1, -1, -1, -1]]
TARGETS = [5, 7, 9, 0]


def test_target_ranks_counts_duplicates_as_ranks():
    assert target_ranks(LISTS, TARGETS).tolist() == [0, 2, -1, -1]


def test_target_ranks_takes_the_first_occurrence():
    assert target_ranks([[1, 4, 4]], [4]).tolist() == [1]


def test_per_case_metrics_are_the_arithmetic():
    metrics = per_case_metrics(LISTS, TARGETS, ks=[1, 2, 4])
    assert list(metrics) == [f"{name}@{k}" for k in (1, 2, 4) for name in ("recall", "ndcg", "mrr")]
    assert metrics["recall@1"].tolist() == metrics["ndcg@1"].tolist() == metrics["mrr@1"].tolist() == [1, 0, 0, 0]
    assert metrics["recall@2"].tolist() == [1, 0, 0, 0]
    assert metrics["recall@4"].tolist() == [1, 1, 0, 0]
    np.testing.assert_allclose(metrics["ndcg@4"], [1 / math.log2(2), 1 / math.log2(4), 0, 0])
    np.testing.assert_allclose(metrics["mrr@4"], [1 / 1, 1 / 3, 0, 0])


@st.composite
def scored_lists(draw):
    cases, ranks, items = draw(st.integers(1, 6)), draw(st.integers(1, 8)), draw(st.integers(1, 9))
    row = st.lists(st.integers(-1, items - 1), min_size=ranks, max_size=ranks)
    lists = draw(st.lists(row, min_size=cases, max_size=cases))
    return lists, draw(st.lists(st.integers(0, items - 1), min_size=cases, max_size=cases)), items


@settings(max_examples=60, deadline=None)
@given(scored_lists())
def test_metrics_equal_brute_force(case):
    lists, targets, items = case
    k = (len(lists[0]) + 1) // 2
    metrics = per_case_metrics(lists, targets, ks=[k])
    for i, (row, target) in enumerate(zip(lists, targets, strict=True)):
        rank = row[:k].index(target) if target in row[:k] else None
        assert metrics[f"recall@{k}"][i] == (rank is not None)
        assert metrics[f"ndcg@{k}"][i] == pytest.approx(0 if rank is None else 1 / math.log2(rank + 2))
        assert metrics[f"mrr@{k}"][i] == pytest.approx(0 if rank is None else 1 / (rank + 1))
    ranks = [item for row in lists for item in row]
    assert invalid_rate(lists, items - 1) == pytest.approx(
        sum(item == -1 or item == items - 1 for item in ranks) / len(ranks)
    )
    repeats = sum(item != -1 and item in row[:j] for row in lists for j, item in enumerate(row))
    assert duplicate_rate(lists) == pytest.approx(repeats / len(ranks))
    assert coverage(lists, items, k) == pytest.approx(len({item for row in lists for item in row[:k]} - {-1}) / items)


def test_lists_of_several_targets_score_as_scikit_learn_has_it():
    rng = np.random.default_rng(0)
    lists = np.array([rng.permutation(12)[:5] for _ in range(40)])
    relevant = [rng.choice(12, rng.integers(1, 8), replace=False).tolist() for _ in range(40)]
    for ranked, wanted, found in zip(lists, relevant, list_ndcg(lists, relevant), strict=True):
        scores = np.zeros(12)
        scores[ranked] = np.arange(5, 0, -1)
        assert found == pytest.approx(ndcg_score([np.isin(np.arange(12), wanted)], [scores], k=5))
    one = [[wanted[0]] for wanted in relevant]
    expected = per_case_metrics(lists, [wanted[0] for wanted in relevant], ks=[5])["ndcg@5"]
    np.testing.assert_allclose(list_ndcg(lists, one), expected)
    assert list_ndcg([[3, 3, -1]], [[3, 4]]) == pytest.approx([1 / (1 + 1 / math.log2(3))]), "once is enough"
    for broken in ([[1]], [[1], []]):
        with pytest.raises(ValueError, match="of them without a relevant item"):
            list_ndcg([[1, 2], [3, 4]], broken)


def test_ndcg_equals_scikit_learn():
    rng = np.random.default_rng(0)
    scores, targets = rng.random((30, 12)), rng.integers(12, size=30)
    lists = np.argsort(-scores, axis=1)
    for k in (1, 5, 12):
        expected = ndcg_score(np.eye(12)[targets], scores, k=k)
        assert per_case_metrics(lists, targets, ks=[k])[f"ndcg@{k}"].mean() == pytest.approx(expected)


def test_a_longer_list_never_lowers_a_metric():
    rng = np.random.default_rng(1)
    metrics = per_case_metrics(rng.integers(20, size=(200, 10)), rng.integers(20, size=200), ks=range(1, 11))
    for name in ("recall", "ndcg", "mrr"):
        assert (np.diff([metrics[f"{name}@{k}"].mean() for k in range(1, 11)]) >= 0).all()


def test_rates_of_the_example():
    assert invalid_rate(LISTS, items=8) == (1 + 1 + 0 + 4) / 16
    assert duplicate_rate(LISTS) == 1 / 16
    assert coverage(LISTS, items=9, k=2) == len({5, 3, 2, 0, 1}) / 9
    assert coverage([[99, -1]], items=9, k=2) == 0


def test_ranks_that_nothing_is_left_for_are_not_invalid():
    # A catalogue of 7 and lists of 10: 4 items are left for the first user, 7 for the second, none for the third.
    lists = np.full((3, 10), -1)
    lists[0, :4], lists[1, :7] = [2, 3, 5, 6], np.arange(7)
    assert invalid_rate(lists, 7, [4, 7, 0]) == 0
    assert invalid_rate(lists, 7) == (6 + 3 + 10) / 30
    lists[0, 1], lists[1, 6] = -1, 9
    assert invalid_rate(lists, 7, [4, 7, 0]) == (1 + 1 + 0) / (4 + 7 + 0)
    assert invalid_rate(lists, 7, [0, 0, 0]) == 0 and invalid_rate(lists, 7, [99, 99, 99]) == (7 + 4 + 10) / 30
    with pytest.raises(ValueError, match="got 3 lists and available of shape"):
        invalid_rate(lists, 7, [4, 7])


@pytest.mark.parametrize("k", [0, -1, 5])
def test_a_cutoff_beyond_the_list_is_refused(k):
    with pytest.raises(ValueError, match=f"got k={k} for lists of 4 ranks"):
        per_case_metrics(LISTS, TARGETS, ks=[k])
    with pytest.raises(ValueError, match=f"got k={k}"):
        coverage(LISTS, 9, k)


def test_a_negative_target_is_not_a_hit_on_an_empty_rank():
    with pytest.raises(ValueError, match="got target -1"):
        target_ranks(LISTS, [5, 7, 9, -1])


@pytest.mark.parametrize("targets", [[5], [5, 7, 9, 0, 1], [[5], [7], [9], [0]]])
def test_every_list_needs_its_target(targets):
    with pytest.raises(ValueError, match="got 4 lists and targets of shape"):
        target_ranks(LISTS, targets)


@pytest.mark.parametrize("lists", [[1, 2], [[0.5]], np.zeros((0, 3), int), np.zeros((3, 0), int)])
def test_lists_must_be_integer_rows(lists):
    with pytest.raises(ValueError, match="pass integers"):
        target_ranks(lists, [1])


def test_the_metrics_import_without_torch_and_matplotlib():
    code = (
        "import sys, genrec_hf.evaluation; "
        "print({'torch', 'transformers', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_intra_list_similarity_is_the_mean_cosine_over_pairs():
    vectors = np.random.default_rng(0).normal(size=(9, 4))
    vectors[8] = 0
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    lists = [[5, 3, 8, 1], [2, 7, 0, -1], [4, -1, -1, -1], [-1, -1, -1, -1]]
    per_list = [
        np.mean([unit[a] @ unit[b] for place, a in enumerate(row) for b in row[:place]])
        for row in ([5, 3, 8, 1], [2, 7, 0])
    ]
    assert intra_list_similarity(lists, vectors, k=4) == pytest.approx(np.mean(per_list))
    assert intra_list_similarity(lists[:1], vectors, k=2) == pytest.approx(unit[5] @ unit[3])
    assert intra_list_similarity(lists[2:], vectors, k=4) == 0
    with pytest.raises(ValueError, match="a single item has no pair"):
        intra_list_similarity(lists, vectors, k=1)
