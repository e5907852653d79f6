"""Fused rankers: arithmetic, weights of 0, and weights fitted on validation cases alone."""

import numpy as np
import pytest

from genrec_hf.fused_ranker import FusedRanker
from genrec_hf.fusion import fit_weights, normalize_scores
from genrec_hf.item_scores import ItemScorer
from genrec_hf.models.item_knn import ItemKnn
from genrec_hf.ranking import Histories


class Fixed(ItemScorer):
    """The same table for every user, or a row for each."""

    def __init__(self, scores):
        self.scores = np.asarray(scores, dtype=np.float32)

    @property
    def num_items(self):
        return self.scores.shape[-1]

    def score_batch(self, histories):
        if self.scores.ndim == 2:
            return self.scores[[history[0] for history in histories]]
        return np.tile(self.scores, (len(histories), 1))


class Cases:
    def __init__(self, histories, targets):
        self.histories, self.targets = Histories.of(histories), np.asarray(targets)

    def __len__(self):
        return len(self.targets)

    def select(self, rows):
        return Cases([self.histories[row] for row in rows], self.targets[rows])


ONE, OTHER = Fixed([3.0, 1.0, 0.0, 2.0]), Fixed([0.0, 4.0, 0.0, 0.0])


def test_the_sum_equals_arithmetic():
    fused = FusedRanker({"one": ONE, "other": OTHER}, {"one": 0.25, "other": 2.0}, {"other": "z_score"})
    one = ONE.scores - np.log(np.exp(ONE.scores).sum())
    other = (OTHER.scores - 1) / np.sqrt(3)
    np.testing.assert_allclose(fused.score([[0], []]), np.tile(0.25 * one + 2 * other, (2, 1)), rtol=1e-5)
    assert fused.rank([[]], k=4).items.tolist() == [[1, 0, 3, 2]]


def test_a_weight_of_0_changes_nothing_and_the_ranker_is_not_asked():
    class Refusing(Fixed):
        def score_batch(self, histories):
            raise AssertionError

    alone = FusedRanker({"one": ONE}, {"one": 1.0})
    fused = FusedRanker({"one": ONE, "other": Refusing(OTHER.scores)}, {"one": 1.0, "other": 0.0})
    assert (fused.score([[2], []]) == alone.score([[2], []])).all()
    assert fused.rank([[0]], k=3).items.tolist() == ONE.rank([[0]], k=3).items.tolist()


def test_what_a_ranker_cannot_score_gets_its_lowest_score():
    scores = normalize_scores(np.array([[1.0, -np.inf, 0.0], [-np.inf] * 3]), "z_score")
    assert scores[0, 1] == scores[0, 2] and np.isfinite(scores).all() and (scores[1] == 0).all()


@pytest.mark.parametrize(
    ("sizes", "weights", "normalizations", "message"),
    [
        ((4, 5), {"a": 1, "b": 1}, {}, "got catalogues of {'a': 4, 'b': 5} items"),
        ((4, 4), {"a": 0, "b": 0}, {}, "all items would tie"),
        ((4, 4), {"a": -1, "b": 2}, {}, "give 0 or more"),
        ((4, 4), {"a": float("nan"), "b": 2}, {}, "give 0 or more"),
        ((4, 4), {"a": 1}, {}, "each ranker needs its own weight"),
        ((4, 4), {"a": 1, "b": 1}, {"c": "z_score"}, "use the same names"),
        ((4, 4), {"a": 1, "b": 1}, {"b": "rank"}, "got normalizations"),
    ],
)
def test_what_cannot_be_fused_is_refused(sizes, weights, normalizations, message):
    rankers = {name: Fixed(np.arange(size)) for name, size in zip("ab", sizes, strict=True)}
    with pytest.raises(ValueError, match=message):
        FusedRanker(rankers, weights, normalizations)


def test_fitted_weights_are_the_best_of_the_grid_by_brute_force():
    rng = np.random.default_rng(0)
    rankers = {name: Fixed(rng.normal(size=(30, 8))) for name in "abc"}
    histories = [[user, (user + 1) % 8] if user < 8 else [user % 8] for user in range(8)]
    cases = Cases(histories, rng.integers(0, 8, 8))
    weights = fit_weights(rankers, cases, steps=4, k=3)

    def ndcg(values):
        fused = FusedRanker(rankers, dict(zip("abc", values, strict=True)))
        listed = fused.rank(cases.histories, k=3).items
        ranks = [
            list(row).index(target) if target in row else None
            for row, target in zip(listed, cases.targets, strict=True)
        ]
        return np.mean([0 if rank is None else 1 / np.log2(rank + 2) for rank in ranks])

    grid = [(a / 4, b / 4, (4 - a - b) / 4) for a in range(5) for b in range(5 - a)]
    assert sum(weights.values()) == pytest.approx(1)
    assert ndcg(tuple(weights.values())) == pytest.approx(max(map(ndcg, grid)))


def test_test_events_have_no_part_in_the_weights(toy_data):
    """Another test event for every user leaves every fitted weight as it is."""
    items, sequences = len(toy_data.item_ids), toy_data.training_sequences()
    rankers = {name: ItemKnn.from_sequences(sequences, items, recent=n) for name, n in (("one", 1), ("five", 5))}
    weights = fit_weights(rankers, toy_data.cases("validation"))
    rng, changed = np.random.default_rng(1), toy_data.interactions.copy()
    last = ~changed.duplicated("user_id", keep="last")
    changed.loc[last, "item_id"] = rng.choice(toy_data.item_ids, int(last.sum()))
    garbled = type(toy_data)(changed, toy_data.items, toy_data.info)
    assert (garbled.cases("test").targets != toy_data.cases("test").targets).any()
    sequences = garbled.training_sequences()
    rankers = {name: ItemKnn.from_sequences(sequences, items, recent=n) for name, n in (("one", 1), ("five", 5))}
    assert fit_weights(rankers, garbled.cases("validation")) == weights


def test_nothing_to_fit_is_refused():
    with pytest.raises(ValueError, match="got 1 rankers, 0 cases"):
        fit_weights({"one": ONE}, Cases([], []))
    with pytest.raises(ValueError, match="got 0 rankers"):
        fit_weights({}, Cases([[0]], [1]))


def test_each_ranker_and_the_sum_are_ranked_by_scores_that_are_computed_once():
    class Counting(Fixed):
        users = 0

        def score_batch(self, histories):
            self.users += len(histories)
            return super().score_batch(histories)

    rng = np.random.default_rng(0)
    rankers = {name: Counting(rng.normal(size=9)) for name in ("one", "other", "unused")}
    fused = FusedRanker(rankers, {"one": 0.5, "other": 0.5, "unused": 0.0}, {"one": "z_score"})
    histories = Histories.of([[0, 1], [], [5]] * 100)
    together, alone = fused.rank_each(histories, 12)
    assert list(alone) == list(rankers) and {ranker.users for ranker in rankers.values()} == {300}
    for filter_seen in (True, False):
        for ranker, ranked in ((fused, together), *((rankers[name], alone[name]) for name in rankers)):
            expected = ranker.rank(histories, 12, filter_seen=filter_seen)
            np.testing.assert_array_equal(ranked.rankings[filter_seen].items, expected.items)
            np.testing.assert_array_equal(ranked.rankings[filter_seen].scores, expected.scores)
            assert (ranked.rank(histories, 3, filter_seen=filter_seen).items == expected.items[:, :3]).all()
    with pytest.raises(ValueError, match=r"got 2 histories and k=3 for stored lists \[300, 12\]"):
        together.rank([[0], [1]], 3)
    with pytest.raises(ValueError, match="or allow or deny"):
        together.rank(histories, 3, allow=[None] * 300)
