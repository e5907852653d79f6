"""Ranking by scores of every item: equal to sorting, with filters, ties by row, and any size of batch."""

import numpy as np
import pytest

from genrec_hf.item_scores import ItemScorer, top_items
from genrec_hf.ranking import checked_ranking


class Table(ItemScorer):
    """Scores that depend on the last item, some of them equal."""

    num_items = 12

    def __init__(self, batch_size=256):
        self.table = np.random.default_rng(0).integers(0, 5, (13, 12)).astype(np.float32)
        self.score_batch_size = batch_size

    def score_batch(self, histories):
        return np.stack([self.table[history[-1] if len(history) else 12] for history in histories])


HISTORIES = [[3, 1], [], [11], list(range(12)), [0, 0, 5]]


@pytest.mark.parametrize("batch_size", [1, 2, 256])
@pytest.mark.parametrize("filter_seen", [True, False])
def test_a_ranking_is_a_stable_sort_of_what_filters_leave(batch_size, filter_seen):
    scorer, deny, allow = Table(batch_size), [[2], None, [], None, [1]], [None, [4, 5, 6], None, None, []]
    found = checked_ranking(scorer, HISTORIES, 5, filter_seen=filter_seen, deny=deny, allow=allow)
    for user, history in enumerate(HISTORIES):
        scores = scorer.table[history[-1] if history else 12].copy()
        hidden = [*(history if filter_seen else []), *(deny[user] or [])]
        hidden += [] if allow[user] is None else sorted(set(range(12)) - set(allow[user]))
        scores[hidden] = -np.inf
        order = [item for item in np.argsort(-scores, kind="stable") if scores[item] > -np.inf][:5]
        assert found.items[user].tolist() == order + [-1] * (5 - len(order))
        assert found.scores[user].tolist() == [*scores[order], *[-np.inf] * (5 - len(order))]


def test_scores_of_given_items_are_those_of_all():
    scorer = Table(2)
    every = scorer.score(HISTORIES)
    assert every.shape == (5, 12) and (scorer.score(HISTORIES, [7, 2]) == every[:, [7, 2]]).all()
    assert scorer.score([]).shape == (0, 12)
    with pytest.raises(ValueError, match="items holds item rows 3 to 12 for 12 items"):
        scorer.score(HISTORIES, [3, 12])
    with pytest.raises(ValueError, match="12 items"):
        scorer.score([[12]])


def test_more_ranks_than_items_are_empty():
    ranking = Table().rank([[0]], k=20)
    assert (ranking.items[0, 11:] == -1).all() and (ranking.items[0, :11] >= 0).all()


def test_top_items_are_a_stable_sort():
    scores = np.random.default_rng(1).integers(0, 3, (20, 9)).astype(np.float32)
    for k in (1, 4, 9):
        columns, values = top_items(scores, k)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        assert (columns == order).all() and (values == np.take_along_axis(scores, order, axis=1)).all()
