"""Capped beams against the best list that keeps to the cap, and re-ranking against the formula of MMR."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf.generation import Mmr, PrefixCap, RequestFilters, SidTrie
from genrec_hf.generation.beam_search import BestBeams
from genrec_hf.generation.decoding import decode
from genrec_hf.generation.diversity import CappedBeams, _rank_in_group
from genrec_hf.ranking import Ranking

OTHER_TOKENS = 5


class TablePrompts:
    """A model whose logits depend on the row and the codes so far, by a table that a seed fills."""

    def __init__(self, trie, seed, favourite=None):
        self.seed, self.favourite = seed, favourite
        self.vocabulary = OTHER_TOKENS + sum(trie.sizes)

    def following(self, row, path):
        logits = np.random.default_rng([self.seed, row, *path]).normal(size=self.vocabulary)
        if self.favourite is not None:
            logits[self.favourite] += 20
        return logits

    def read(self, prompt, mask):
        self.paths = [[()] for _ in mask]
        return self._next()

    def extend(self, tokens, parents):
        self.paths = [
            [(*before[parent], token) for token, parent in zip(*row, strict=True)]
            for before, row in zip(self.paths, zip(tokens.tolist(), parents.tolist(), strict=True), strict=True)
        ]
        return self._next()

    def logits(self, states, token_ids):
        return states[..., token_ids]

    def log_norm(self, states, temperature):
        return (states / temperature).logsumexp(dim=-1)

    def _next(self):
        table = [[self.following(row, path) for path in paths] for row, paths in enumerate(self.paths)]
        return torch.tensor(np.array(table), dtype=torch.float32)


def make_trie(codes):
    trie = SidTrie(np.array(codes))
    ends = OTHER_TOKENS + np.cumsum(trie.sizes)
    trie.token_ids = [torch.arange(end - size, end) for end, size in zip(ends, trie.sizes, strict=True)]
    return trie


def search(trie, select, rows=2, seed=0, favourite=None, **options):
    return decode(TablePrompts(trie, seed, favourite), {}, torch.ones(rows, 3), trie=trie, select=select, **options)


def log_probs_of(trie, sids, row, seed, score):
    """Log-probability of every SID, or of every prefix of one length, one logit after the other."""
    model, totals = TablePrompts(trie, seed), []
    for sid in sids:
        tokens = [int(ids[code]) for ids, code in zip(trie.token_ids, sid, strict=False)]
        total = 0.0
        for level, token in enumerate(tokens):
            logits = model.following(row, tokens[:level])
            siblings = sorted({other[level] for other in sids if other[:level] == sid[:level]})
            over = {"full": slice(None), "level": trie.token_ids[level], "trie": trie.token_ids[level][siblings]}
            total += logits[token] - np.log(np.exp(logits[over[score]]).sum())
        totals.append(total)
    return totals


def taken_under_the_cap(sids, log_probs, cap):
    """Every SID, best first, that the cap still has room for."""
    taken, of_prefix = [], Counter()
    for leaf in np.argsort(log_probs)[::-1].tolist():
        prefix = sids[leaf][: cap.length]
        if of_prefix[prefix] < cap.items:
            taken.append(leaf)
            of_prefix[prefix] += 1
    return taken


def most_under_the_cap(sids, cap):
    return sum(min(cap.items, many) for many in Counter(sid[: cap.length] for sid in sids).values())


def random_codes(seed, levels, items=40, size=4):
    return [tuple(row) for row in np.random.default_rng(seed).integers(size, size=(items, levels)).tolist()]


@pytest.mark.parametrize("normalization", ["full", "level", "trie"])
@pytest.mark.parametrize(("levels", "items", "length"), [(2, 1, 1), (2, 3, 1), (3, 2, 1), (3, 1, 2), (4, 4, 2)])
def test_a_search_that_sees_everything_takes_the_best_under_the_cap(normalization, levels, items, length):
    codes, cap = random_codes(7, levels), PrefixCap(items, length)
    sids, trie = sorted(set(codes)), make_trie(codes)
    found = search(trie, CappedBeams(1000, 5, cap=cap, levels=levels), normalization=normalization)
    for row in range(2):
        log_probs = log_probs_of(trie, sids, row, 0, normalization)
        expected = taken_under_the_cap(sids, log_probs, cap)
        kept = found.leaves[row] >= 0
        assert found.leaves[row][kept].tolist() == expected and not kept[len(expected) :].any()
        np.testing.assert_allclose(found.log_probs[row][kept], np.array(log_probs)[expected], atol=1e-5)
    assert found.leaves[0].tolist() != found.leaves[1].tolist()


@st.composite
def searches(draw):
    levels = draw(st.integers(2, 4))
    code = st.tuples(*[st.integers(0, 3)] * levels)
    codes = draw(st.lists(code, min_size=1, max_size=40))
    cap = PrefixCap(draw(st.integers(1, 4)), draw(st.integers(1, levels - 1)))
    k = draw(st.integers(1, 10))
    num_beams = draw(st.just(k) | st.integers(k, 20))
    return codes, cap, k, num_beams, draw(st.integers(0, 1000))


@given(searches(), st.data())
@settings(max_examples=200, deadline=None)
def test_a_narrow_search_holds_the_cap_and_fills_the_list(case, data):
    codes, cap, k, num_beams, seed = case
    trie = make_trie(codes)
    item = st.integers(0, len(codes) - 1)
    denied = data.draw(st.lists(st.lists(item, max_size=len(codes)), min_size=2, max_size=2))
    found = search(
        trie,
        CappedBeams(num_beams, k, cap=cap, levels=trie.levels),
        seed=seed,
        normalization="trie",
        filters=RequestFilters(trie, denied),
    )
    sids = sorted(set(codes))
    for row, deny in enumerate(denied):
        leaves = [leaf for leaf in found.leaves[row].tolist() if leaf >= 0]
        left = {code for item, code in enumerate(codes) if item not in deny}
        listed = [sids[leaf] for leaf in leaves]
        assert len(set(listed)) == len(listed) <= num_beams and set(listed) <= left
        assert all(many <= cap.items for many in Counter(sid[: cap.length] for sid in listed).values())
        assert len(leaves[:k]) == min(k, most_under_the_cap(left, cap))
        log_probs = found.log_probs[row, : len(leaves)]
        assert log_probs.isfinite().all() and bool((log_probs.diff() <= 0).all())


@pytest.mark.parametrize("num_beams", [3, 6, 10])
def test_a_cap_of_the_whole_list_changes_nothing(num_beams):
    trie = make_trie(random_codes(1, 3))
    plain, capped = (
        search(trie, BestBeams(num_beams)),
        search(trie, CappedBeams(num_beams, 3, cap=PrefixCap(3 * num_beams), levels=3)),
    )
    assert torch.equal(plain.leaves, capped.leaves) and torch.equal(plain.log_probs, capped.log_probs)


def test_a_cap_of_one_gives_each_prefix_once_and_its_best_item():
    codes = random_codes(3, 2, items=60, size=6)
    trie, sids = make_trie(codes), sorted(set(codes))
    found = search(trie, CappedBeams(36, 6, cap=PrefixCap(1), levels=2))
    for row in range(2):
        log_probs = np.array(log_probs_of(trie, sids, row, 0, "full"))
        listed = [leaf for leaf in found.leaves[row].tolist() if leaf >= 0]
        assert sorted(sids[leaf][0] for leaf in listed) == list(range(6))
        for leaf in listed:
            assert log_probs[leaf] == max(log_probs[n] for n, sid in enumerate(sids) if sid[0] == sids[leaf][0])


@pytest.mark.parametrize("k", [3, 4])
def test_a_crowded_prefix_leaves_beams_to_others(k):
    crowded = [(0, a, b) for a in range(5) for b in range(5)]
    trie = make_trie([*crowded, (1, 0, 0), (2, 0, 0)])
    plain = search(trie, BestBeams(k), favourite=OTHER_TOKENS)
    capped = search(trie, CappedBeams(k, k, cap=PrefixCap(2), levels=3), favourite=OTHER_TOKENS)
    assert bool((plain.leaves < 25).all()) and bool((capped.leaves >= 0).all())
    for leaves in capped.leaves.tolist():
        assert [leaf < 25 for leaf in leaves] == [True, True, False, False][:k] and len(set(leaves)) == k


def test_the_best_item_of_a_prefix_may_lie_under_its_second_beam():
    sids = [(a, b, c) for a in range(2) for b in range(5) for c in range(3)]
    beams, trie = sorted({sid[:2] for sid in sids}), make_trie(sids)
    found = search(trie, CappedBeams(4, 2, cap=PrefixCap(1), levels=3), rows=8)
    under_second = 0
    for row in range(8):
        of_beam = dict(zip(beams, log_probs_of(trie, beams, row, 0, "full"), strict=True))
        of_sid = dict(zip(sids, log_probs_of(trie, sids, row, 0, "full"), strict=True))
        best = []
        for code in range(2):
            kept = sorted((beam for beam in beams if beam[0] == code), key=of_beam.get)[-2:]
            best.append(max((sid for sid in sids if sid[:2] in kept), key=of_sid.get))
            under_second += best[-1][:2] == kept[0]
        assert {sids[leaf] for leaf in found.leaves[row].tolist() if leaf >= 0} == set(best)
    assert under_second > 0


def test_one_selection_serves_search_after_search():
    trie = make_trie(random_codes(5, 3))
    select = CappedBeams(8, 4, cap=PrefixCap(1, 2), levels=3)
    first, _, again = search(trie, select), search(trie, select, rows=3, seed=1), search(trie, select)
    assert torch.equal(first.leaves, again.leaves)


@pytest.mark.parametrize(("items", "length"), [(0, 1), (-1, 1), (1, 0)])
def test_a_cap_is_at_least_one_item_of_one_code(items, length):
    with pytest.raises(ValueError, match=f"got items={items}, length={length}"):
        PrefixCap(items, length)


@pytest.mark.parametrize("length", [3, 4])
def test_a_prefix_as_long_as_a_sid_is_refused(length):
    with pytest.raises(ValueError, match=f"a prefix of {length} codes for SIDs of 3: .* at most 2"):
        CappedBeams(10, 5, cap=PrefixCap(1, length), levels=3)


@st.composite
def scored_groups(draw):
    rows, many = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    score = st.sampled_from([-float("inf"), -1.5, -1.0, 0.0, 2.0])
    group = st.integers(-1, 4)
    row = st.lists(st.tuples(score, group), min_size=many, max_size=many)
    return torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)))


@given(scored_groups())
@settings(max_examples=200, deadline=None)
def test_places_in_groups_are_counted_one_by_one(pairs):
    scores, groups = pairs[..., 0], pairs[..., 1].long()
    places = _rank_in_group(scores, groups).tolist()
    for score, group, place in zip(scores.tolist(), groups.tolist(), places, strict=True):
        for i in range(len(score)):
            better = [(score[j], -j) > (score[i], -i) and group[j] == group[i] for j in range(len(score))]
            assert place[i] == sum(better)


def cosine(a, b):
    norms = np.sqrt((a @ a) * (b @ b))
    return a @ b / norms if norms > 0 else 0.0


@st.composite
def candidate_lists(draw):
    items, d = draw(st.integers(1, 10)), draw(st.integers(1, 3))
    vector = st.lists(st.integers(-2, 2), min_size=d, max_size=d)
    embeddings = np.array(draw(st.lists(vector, min_size=items, max_size=items)), dtype=float)
    n = draw(st.integers(1, items))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        listed = draw(st.permutations(range(items)))[: draw(st.integers(0, n))]
        scores = draw(st.lists(st.floats(-20, 0), min_size=len(listed), max_size=len(listed)))
        rows.append(([*listed, *[-1] * (n - len(listed))], [*scores, *[-np.inf] * (n - len(listed))]))
    return embeddings, *map(np.array, zip(*rows, strict=True)), draw(st.integers(1, n))


@given(candidate_lists(), st.sampled_from([0.05, 0.3, 0.7, 0.95, 1.0]))
@settings(max_examples=200, deadline=None)
def test_each_rank_of_mmr_is_the_best_by_the_formula(case, relevance):
    embeddings, items, scores, k = case
    kept = rerank(Mmr(embeddings, relevance), items, scores, k)
    assert kept.shape == (len(items), k) and kept.dtype == np.int64
    for row, ranked in enumerate(kept.tolist()):
        score_of = dict(zip(items[row].tolist(), scores[row].tolist(), strict=True))
        score_of.pop(-1, None)
        many = min(k, len(score_of))
        assert ranked[many:] == [-1] * (k - many) and len(set(ranked[:many]) & set(score_of)) == many
        low, high = min(score_of.values(), default=0), max(score_of.values(), default=0)
        gain = {item: (score - low) / (high - low) if high > low else 1.0 for item, score in score_of.items()}
        for rank, chosen in enumerate(ranked[:many]):
            value = {
                item: relevance * gain[item]
                - (1 - relevance)
                * max((cosine(embeddings[item], embeddings[one]) for one in ranked[:rank]), default=0)
                for item in set(score_of) - set(ranked[:rank])
            }
            assert value[chosen] == pytest.approx(max(value.values()), abs=1e-9)


def rerank(mmr, items, scores, k):
    return mmr.rerank([], Ranking(items, scores), k).items


NORMALIZATIONS = np.array([[-1.0, -1.5, -3.0, -4.0]])


def test_relevance_of_one_keeps_the_order():
    rng = np.random.default_rng(0)
    items = np.stack([rng.permutation(50)[:20] for _ in range(5)])
    scores = np.sort(rng.normal(size=(5, 20)), axis=1)[:, ::-1]
    mmr = Mmr(rng.normal(size=(50, 8)), relevance=1)
    assert np.array_equal(rerank(mmr, items, scores, 20), items)
    assert np.array_equal(rerank(mmr, items, scores, 7), items[:, :7])


@pytest.mark.parametrize("vector", [[1.0, 2.0], [0.0, 0.0]], ids=["alike", "zero"])
@pytest.mark.parametrize("relevance", [0.01, 0.5])
def test_where_all_are_equally_alike_the_order_is_that_of_the_scores(vector, relevance):
    kept = rerank(Mmr(np.array([vector] * 4), relevance), np.array([[2, 0, 3, 1]]), NORMALIZATIONS, 4)
    assert kept.tolist() == [[2, 0, 3, 1]]


def test_a_zero_vector_is_like_nothing():
    embeddings = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    assert rerank(Mmr(embeddings, 0.5), np.array([[0, 1, 2, 3]]), NORMALIZATIONS, 4).tolist() == [[0, 3, 2, 1]]


def test_equal_scores_leave_it_to_the_embeddings():
    embeddings = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    kept = rerank(Mmr(embeddings, 0.9), np.array([[1, 0, 2, 3]]), np.full((1, 4), -2.5), 4)
    assert kept.tolist() == [[1, 3, 2, 0]]


def test_only_directions_count():
    rng = np.random.default_rng(1)
    embeddings, items = rng.normal(size=(30, 4)), np.arange(30)[None]
    scores = np.sort(rng.normal(size=(1, 30)))[:, ::-1]
    kept = rerank(Mmr(embeddings, 0.4), items, scores, 30)
    scaled = rerank(Mmr(embeddings * rng.uniform(0.1, 9, size=(30, 1)), 0.4), items, 7 * scores - 3, 30)
    assert np.array_equal(kept, scaled) and not np.array_equal(kept, items)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_empty_places_stay_last(dtype):
    items = np.array([[2, 0, -1, -1], [-1, -1, -1, -1], [3, -1, -1, -1], [-1, 1, -1, 0]])
    scores = np.where(items < 0, -np.inf, -1.0 - np.arange(4)).astype(dtype)
    mmr = Mmr(np.eye(4, dtype=dtype), 0.5)
    assert rerank(mmr, items, scores, 4).tolist() == [[2, 0, -1, -1], [-1] * 4, [3, -1, -1, -1], [1, 0, -1, -1]]
    assert rerank(mmr, items, scores, 1).tolist() == [[2], [-1], [3], [1]]


@pytest.mark.parametrize("level", [-30, 30])
def test_empty_places_do_not_move_the_scale(level):
    rng = np.random.default_rng(2)
    mmr, items = Mmr(rng.normal(size=(20, 3)), 0.5), rng.permutation(20)[None]
    scores = level + np.sort(rng.normal(size=(1, 20)))[:, ::-1]
    holes = (
        np.pad(items, ((0, 0), (2, 3)), constant_values=-1),
        np.pad(scores, ((0, 0), (2, 3)), constant_values=-np.inf),
    )
    assert np.array_equal(rerank(mmr, *holes, 20), rerank(mmr, items, scores, 20))


@pytest.mark.parametrize("relevance", [0, -0.1, 1.01, float("nan"), "0.5", True, None])
def test_relevance_is_a_weight(relevance):
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        Mmr(np.eye(2), relevance)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_embeddings_are_finite(value):
    with pytest.raises(ValueError, match="finite embeddings"):
        Mmr(np.array([[0.0, value]]))


@pytest.mark.parametrize("embeddings", [None, "x", [1.0, 2.0], [["1", "2"]], np.zeros((2, 2, 2)), [[True, False]]])
def test_embeddings_are_a_table_of_numbers(embeddings):
    with pytest.raises(ValueError, match=r"got embeddings of shape .*: pass numbers \[items, d\]"):
        Mmr(embeddings)
    np.testing.assert_array_equal(Mmr([[3.0, 4.0]]).embeddings, np.array([[0.6, 0.8]], dtype=np.float32))


@pytest.mark.parametrize("value", [1.5, 1.0, True, "2", None, 0, -1, float("nan")])
def test_a_cap_counts_in_whole_numbers(value):
    for arguments in ({"items": value}, {"items": 1, "length": value}):
        with pytest.raises(ValueError, match="both must be whole numbers, at least 1"):
            PrefixCap(**arguments)
    assert PrefixCap(np.int64(2), np.int32(1)) == PrefixCap(2, 1)
