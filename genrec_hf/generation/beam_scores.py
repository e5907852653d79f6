"""`BeamScores`: scores of the items that a beam search finds, where scoring the whole catalogue takes too long."""

from typing import Protocol

import numpy as np

from genrec_hf.checks import check_least
from genrec_hf.item_scores import ItemScorer
from genrec_hf.ranking import Histories, Ranker


class SizedRanker(Ranker, Protocol):
    """A ranker that knows the size of its catalogue, such as a `Recommender`."""

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""


class BeamScores(ItemScorer):
    """Scores the best `k` items of a ranker's list by the ranker, and no other item.

    Args:
        ranker (`SizedRanker`): such as a `Recommender`, whose beam search needs at least `k` beams.
        k (`int`): items that get a score; all of a smaller catalogue.

    Raises:
        ValueError: when `k` is below 1.
    """

    def __init__(self, ranker: SizedRanker, k: int) -> None:
        check_least(1, k=k)
        self.ranker, self.k = ranker, min(k, ranker.num_items)

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return self.ranker.num_items

    def score_batch(self, histories: Histories) -> np.ndarray:
        """Score the items of each user's list.

        Args:
            histories (`Histories`): item rows of each user, oldest first.

        Returns:
            `np.ndarray`: `[users, num_items]`, float32; `-inf` for the items outside the list, which holds seen items.
        """
        ranking = self.ranker.rank(histories, self.k, filter_seen=False)
        scores = np.full((len(histories), self.num_items + 1), -np.inf, dtype=np.float32)
        # The last column is that of empty ranks, -1.
        scores[np.arange(len(histories))[:, None], ranking.items] = ranking.scores
        return scores[:, :-1]
