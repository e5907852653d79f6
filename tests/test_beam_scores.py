"""Scores of the items of a list alone."""

import numpy as np
import pytest

from genrec_hf.fused_ranker import FusedRanker
from genrec_hf.generation import BeamScores
from genrec_hf.ranking import Histories, Ranking


class Lists:
    """Ranks the same items for everyone, and notes what it is asked."""

    num_items = 5

    def __init__(self):
        self.asked = []

    def rank(self, histories, k, *, filter_seen=True, allow=None, deny=None, progress=False):
        self.asked.append((len(histories), k, filter_seen))
        items = np.tile([3, 1, 4, -1, -1][:k], (len(histories), 1))
        return Ranking(items, np.where(items >= 0, -np.arange(k, dtype=np.float32), -np.inf))


def test_the_items_of_the_list_have_its_scores_and_the_others_none():
    ranker = Lists()
    scores = BeamScores(ranker, 3).score([[3], []])
    assert scores.tolist() == [[-np.inf, -1, -np.inf, 0, -2]] * 2
    assert ranker.asked == [(2, 3, False)], "an item of the history has a score as any other"


def test_a_list_is_no_longer_than_the_catalogue():
    ranker = Lists()
    assert BeamScores(ranker, 100).score(Histories.of([[0]])).shape == (1, 5) and ranker.asked[0][1] == 5
    with pytest.raises(ValueError, match="got k=0; give 1 or more"):
        BeamScores(ranker, 0)


def test_items_without_a_score_are_not_ranked_alone_and_come_last_when_fused():
    beams = BeamScores(Lists(), 3)
    assert beams.rank([[3]], 3).items.tolist() == [[1, 4, -1]]
    assert FusedRanker({"llm": beams}, {"llm": 1.0}).rank([[3]], 3).items.tolist() == [[1, 0, 2]]
