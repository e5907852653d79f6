"""Ranks by the exact scores of a recommender, to show what its beam search misses."""

import numpy as np

from genrec_hf.generation.recommender import Recommender
from genrec_hf.item_scores import ItemScorer
from genrec_hf.ranking import Histories


class ExactRanker(ItemScorer):
    """Ranks by `Recommender.score` in place of a beam search.

    The scores of every history are kept, so that the model runs once where the same histories are ranked with several
    filters: `histories * items * 4` bytes. Filters exclude items and do not change the scores of the others, not even
    under the normalization `"trie"`, which the beam search applies to the children that the filters allow.

    Args:
        recommender (`Recommender`): the recommender.
        progress (`bool`, defaults to `False`): show a progress bar while the model runs.

    Raises:
        ValueError: `recommender` is another ranker.
    """

    def __init__(self, recommender: Recommender, *, progress: bool = False) -> None:
        if not isinstance(recommender, Recommender):
            raise ValueError(
                f"got {type(recommender).__name__} for exact scores: only the beam search of a Recommender can miss "
                "items; leave exact scores out"
            )
        self.recommender, self.progress = recommender, progress
        self._scores: dict[bytes, np.ndarray] = {}

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return self.recommender.num_items

    def score_batch(self, histories: Histories) -> np.ndarray:
        """Return log-probabilities `[users, items]`; see `ItemScorer.score_batch`."""
        keys = [history.tobytes() for history in histories]
        unscored = {key: user for user, key in enumerate(keys) if key not in self._scores}
        if unscored:
            scores = self.recommender.score(histories.select(list(unscored.values())), progress=self.progress)
            self._scores |= zip(unscored, scores, strict=True)
        return np.stack([self._scores[key] for key in keys])
