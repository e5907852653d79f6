"""Scores of every item are those of one plain forward pass an item, in any parts and batches."""

from functools import cache

import numpy as np
import pytest
import torch
from conftest import make_model
from test_recommender import HISTORIES, IDS, ITEMS, attentive, brute_force, recommender, windowed_model

from genrec_hf import Recommender
from genrec_hf.fused_ranker import FusedRanker
from genrec_hf.generation import SearchSettings, item_scoring
from genrec_hf.generation.prompt_cache import SharedPromptCache
from genrec_hf.generation.trie import SidTrie
from genrec_hf.item_scores import ItemScorer

NORMALIZATIONS = ["full", "level", "trie"]
# Most prefixes have a single SID below, some have several.
SPARSE = np.unique(np.random.default_rng(3).integers(6, size=(20, 4)), axis=0)


def brute_scores(rec, histories=HISTORIES):
    return np.stack([brute_force(rec, history) for history in histories])


@cache
def attentive_scores():
    rec = attentive()
    return rec, rec.score(HISTORIES)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_scores_equal_brute_force(tiny_model, normalization):
    rec = recommender(tiny_model, normalization=normalization)
    scores = rec.score(HISTORIES)
    assert scores.dtype == np.float32 and scores.shape == (5, ITEMS) == (5, rec.num_items)
    np.testing.assert_allclose(scores, brute_scores(rec), atol=1e-4)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("make", [make_model, windowed_model])
def test_sparse_tries_and_models_that_cannot_share_prompts_score_alike(make, normalization, monkeypatch):
    rec = recommender(make(), codes=SPARSE, sizes=(6,) * 4, normalization=normalization)
    expected = brute_scores(rec, HISTORIES[:3])
    np.testing.assert_allclose(rec.score(HISTORIES[:3]), expected, atol=1e-4)
    monkeypatch.setattr(item_scoring, "MAX_COPIES", 7)
    np.testing.assert_allclose(rec.score(HISTORIES[:3]), expected, atol=1e-4)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_scores_of_given_items_are_those_of_all(normalization):
    rec = recommender(normalization=normalization)
    scores, items = rec.score(HISTORIES), [7, 2, 7, ITEMS - 1]
    np.testing.assert_allclose(rec.score(HISTORIES, items), scores[:, items], atol=1e-5)
    assert rec.score(HISTORIES, []).shape == (5, 0) and rec.score([]).shape == (0, ITEMS)


def test_scores_are_those_of_wide_beams():
    rec, scores = attentive_scores()
    ranking = rec.rank(HISTORIES, ITEMS, filter_seen=False, search=SearchSettings(1000))
    np.testing.assert_allclose(np.take_along_axis(scores, ranking.items, axis=1), ranking.scores, atol=1e-4)


@pytest.mark.parametrize("normalization", ["level", "trie"])
def test_the_prompt_is_that_of_rank(normalization):
    base = attentive()
    titles = [f"Title {row}" for row in range(ITEMS)]
    rec = Recommender(
        base.model, base.tokenizer, base.semantic_ids, max_history=2, titles=titles, normalization=normalization
    )
    ranking = rec.rank(HISTORIES, ITEMS, filter_seen=False, search=SearchSettings(1000))
    scores = rec.score(HISTORIES)
    np.testing.assert_allclose(np.take_along_axis(scores, ranking.items, axis=1), ranking.scores, atol=1e-4)
    assert not np.allclose(scores[2], recommender(attentive().model, normalization=normalization).score(HISTORIES)[2])


@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("parts", [(1, 4096), (5, 4096), (1024, 8)])
def test_parts_and_batches_change_nothing(parts, batch_size, monkeypatch):
    rec, expected = attentive_scores()
    for name, value in zip(("PREFIXES_AT_ONCE", "MAX_PREFIXES"), parts, strict=True):
        monkeypatch.setattr(item_scoring, name, value)
    monkeypatch.setattr(rec, "search", SearchSettings(batch_size=batch_size))
    np.testing.assert_allclose(rec.score(HISTORIES), expected, atol=1e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_every_prefix_is_read_once(normalization, monkeypatch):
    rec = recommender(codes=SPARSE, sizes=(6,) * 4, normalization=normalization)
    read, extend = [], SharedPromptCache.extend

    def counted(self, tokens, parents):
        read.append(tokens.shape[1])
        return extend(self, tokens, parents)

    monkeypatch.setattr(SharedPromptCache, "extend", counted)
    rec.score(HISTORIES)
    prefixes = [np.unique(SPARSE[:, :level], axis=0, return_counts=True)[1] for level in (1, 2, 3)]
    expected = [int((counts > 1).sum() if normalization == "trie" else len(counts)) for counts in prefixes]
    assert read == [number for number in expected if number]


def test_rows_may_stand_for_the_items_of_a_data_set():
    rec, _ = attentive_scores()
    rows = np.random.default_rng(5).permutation(ITEMS)[:12]
    place = {int(row): place for place, row in enumerate(rows)}
    renumbered = rec.with_items([IDS[row] for row in rows])
    histories = [rows[[3]], rows[[11, 0, 5]], rows[:0]]
    expected = rec.score(histories)[:, rows]
    found = renumbered.score([[place[row] for row in history] for history in histories])
    assert renumbered.num_items == 12
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(renumbered.score([[3]], [4, 1]), expected[:1, [4, 1]], atol=1e-5)
    with pytest.raises(ValueError, match="items holds item rows 3 to 12 for 12 items"):
        renumbered.score([[3]], [3, 12])
    with pytest.raises(ValueError, match=r"histories\[0\] holds item rows 12 to 12 for 12 items"):
        renumbered.score([[12]])


@pytest.mark.parametrize("wrong", [[3, -1], [0.5], np.ones(ITEMS, dtype=bool), ["i1"]], ids=str)
def test_what_is_no_row_is_refused_as_by_an_item_scorer(wrong):
    rec, _ = attentive_scores()

    class Zeros(ItemScorer):
        num_items = ITEMS

        def score_batch(self, histories):
            return np.zeros((len(histories), ITEMS), dtype=np.float32)

    for arguments in ([[[1]], wrong], [[wrong]]):
        with pytest.raises(ValueError) as expected:
            Zeros().score(*arguments)
        with pytest.raises(ValueError) as raised:
            rec.score(*arguments)
        assert str(raised.value) == str(expected.value)


def test_a_recommender_is_fused_with_other_rankers():
    rec, scores = attentive_scores()

    class Rows(ItemScorer):
        num_items = ITEMS

        def score_batch(self, histories):
            return np.tile(np.arange(ITEMS, dtype=np.float32), (len(histories), 1))

    fused = FusedRanker({"llm": rec, "rows": Rows()}, {"llm": 1.0, "rows": 0.1})
    uniform = np.arange(ITEMS) - np.log(np.exp(np.arange(ITEMS)).sum())
    total = scores - np.log(np.exp(scores.astype(float)).sum(axis=1, keepdims=True)) + 0.1 * uniform
    np.testing.assert_allclose(fused.score(HISTORIES), total, atol=1e-4)


def test_logits_that_hold_nan_are_refused():
    model = make_model()
    rec = recommender(model)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits that hold NaN"):
        rec.score([[1]])


def test_the_number_of_users_at_once_bounds_the_prefixes():
    trie = SidTrie(np.array([[0, 0], [0, 1], [2, 0], [2, 1]]))
    counts = [item_scoring.count_prefixes(trie, torch.tensor(items, dtype=int)) for items in ([0, 1], [3, 0, 0], [])]
    assert counts == [1, 2, 0]
    assert item_scoring.users_at_once(1682, 32) == 4 and item_scoring.users_at_once(0, 32) == 32
    assert item_scoring.users_at_once(3000, 1) == 1
