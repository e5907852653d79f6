"""Rankers that score every item of a catalogue: the interface, and ranking by such scores."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from genrec_hf.item_rows import Rows, item_rows
from genrec_hf.ranking import Histories, Ranking
from genrec_hf.user_filters import filter_scores, user_filters


class ItemScorer(ABC):
    """Base of rankers that give every item a score: subclasses implement `score_batch` and the property `num_items`.

    Scores compare items for one user. They are log-probabilities where the subclass says so.

    Example:
        >>> class Newest(ItemScorer):
        ...     num_items = 4
        ...
        ...     def score_batch(self, histories):
        ...         return np.tile(np.arange(4, dtype=np.float32), (len(histories), 1))
        >>> Newest().rank([[3], []], k=2).items.tolist()
        [[2, 1], [3, 2]]
    """

    # Users whose scores of all items are held at once.
    score_batch_size = 256

    @property
    @abstractmethod
    def num_items(self) -> int:
        """Size of the catalogue."""

    @abstractmethod
    def score_batch(self, histories: Histories) -> np.ndarray:
        """Score all items for a batch of users.

        Args:
            histories (`Histories`): item rows of each user, oldest first; empty for a new user.

        Returns:
            `np.ndarray`: `[users, num_items]`, float32, a new array, which the caller may change; `-inf` for an
                item without a score.
        """

    def score(
        self,
        histories: Histories | Sequence[Rows],
        items: Rows | None = None,
        *,
        progress: bool = False,
    ) -> np.ndarray:
        """Score given items, or all, for each user.

        Args:
            histories (`Histories` or `Sequence`): item rows of each user, oldest first; empty for a new user.
            items (`Sequence[int]`, *optional*): item rows to score; all when not given.
            progress (`bool`, defaults to `False`): show a progress bar.

        Returns:
            `np.ndarray`: `[users, num_items]`, or `[users, len(items)]` in the order of `items`, float32.

        Raises:
            ValueError: when a history or `items` holds what is no item row.
        """
        histories = Histories.of(histories, self.num_items)
        columns = np.arange(self.num_items) if items is None else item_rows(items, self.num_items, "items")
        scores = np.empty((len(histories), len(columns)), dtype=np.float32)
        for users in self._batches(histories, progress):
            every = self.score_batch(histories.select(users))
            scores[users] = every if items is None else every[:, columns]
        return scores

    @torch.no_grad()
    def rank(
        self,
        histories: Histories | Sequence[Rows],
        k: int,
        *,
        filter_seen: bool = True,
        allow: Sequence[Rows | None] | None = None,
        deny: Sequence[Rows | None] | None = None,
        progress: bool = False,
    ) -> Ranking:
        """Rank the best `k` items for each user; see `genrec_hf.ranking.Ranker`. Equal scores are ordered by row."""
        histories = Histories.of(histories, self.num_items)
        denied, allowed = (
            user_filters(filters, users=len(histories), items=self.num_items, name=name)
            for filters, name in ((deny, "deny"), (allow, "allow"))
        )
        listed = np.full((len(histories), k), -1, dtype=np.int64)
        listed_scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        for users in self._batches(histories, progress):
            batch = histories.select(users)
            ranking = rank_scores(
                self.score_batch(batch),
                batch,
                k,
                filter_seen=filter_seen,
                allow=[allowed[user] for user in users],
                deny=[denied[user] for user in users],
            )
            listed[users], listed_scores[users] = ranking.items, ranking.scores
        return Ranking(listed, listed_scores)

    def _batches(self, histories: Histories, progress: bool) -> "tqdm[np.ndarray]":
        """Rows of users, by length of history, in batches."""
        order, size = np.argsort(histories.lengths, kind="stable"), self.score_batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        return tqdm(batches, desc=type(self).__name__, unit="batch", disable=not progress)


def rank_scores(
    scores: np.ndarray,
    histories: Histories,
    k: int,
    *,
    filter_seen: bool,
    allow: Sequence[np.ndarray | None] | None = None,
    deny: Sequence[np.ndarray | None] | None = None,
) -> Ranking:
    """Rank the best `k` items of a matrix of scores. Equal scores are ordered by row.

    Args:
        scores (`np.ndarray`): `[users, items]`, float32; those of excluded items are set to `-inf`, in place.
        histories (`Histories`): `[users]`.
        k (`int`): number of ranks.
        filter_seen (`bool`): exclude the items of the history.
        allow (`Sequence`, *optional*): `[users]`, the only item rows to recommend, or `None`; from `user_filters`.
        deny (`Sequence`, *optional*): `[users]`, item rows to exclude, or `None`; from `user_filters`.

    Returns:
        `Ranking`: `[users, k]`; items whose score is not finite are not listed.

    Example:
        >>> rank_scores(np.array([[1.0, 3.0, 2.0]]), Histories.of([[1]]), 3, filter_seen=True).items.tolist()
        [[2, 0, -1]]
    """
    nothing = [None] * len(histories)
    filter_scores(scores, histories, filter_seen=filter_seen, allow=allow or nothing, deny=deny or nothing)
    best, values = top_items(scores, min(k, scores.shape[1]))
    empty = ((0, 0), (0, k - best.shape[1]))
    items = np.pad(np.where(np.isfinite(values), best, -1), empty, constant_values=-1)
    return Ranking(items, np.pad(values, empty, constant_values=-np.inf))


def top_items(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` highest scores of each row, equal ones in the order of their columns.

    Args:
        scores (`np.ndarray`): `[users, items]`.
        k (`int`): at most `items`.

    Returns:
        `tuple`: columns and scores, each `[users, k]`, highest first.

    Example:
        >>> columns, scores = top_items(np.array([[1.0, 3.0, 3.0, 2.0]]), k=2)
        >>> columns.tolist(), scores.tolist()
        ([[1, 2]], [[3.0, 3.0]])
    """
    table = torch.from_numpy(scores)
    columns = table.topk(k, dim=1).indices.sort(dim=1).values
    values, order = table.gather(1, columns).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    # Where scores are equal at the end of a list, topk takes any of them.
    tied = (table >= values[:, -1:]).sum(dim=1) > k
    if tied.any():
        ordered = table[tied].sort(dim=1, descending=True, stable=True)
        values[tied], columns[tied] = ordered.values[:, :k], ordered.indices[:, :k]
    return columns.numpy(), values.numpy()
