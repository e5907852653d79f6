"""Recommenders without training to beat before anything else: random, popularity, repetition and first-order Markov.

One protocol for every data set. All counts come from the *training* sequences alone (leave-one-out: without the
validation and test event of each user). The history handed to `recommend` is everything before the target, so at test
time it ends with the validation event, and Markov looks up the successors of that. Equal counts are ranked by which
came first in the training sequences; users count in the order they are passed, so pass them in file order. Ranks that
a baseline cannot fill go to the most popular items that the list does not hold yet.

Leave-one-out test, all users, all items ranked, times sorted stably so that the file breaks ties; recall and NDCG:

| data set | baseline | seen items filtered: R@5, N@5, R@10, N@10 | seen items allowed: R@5, N@5, R@10, N@10 |
|---|---|---|---|
| Amazon Beauty 2014 | popularity | .0075 .0041 .0115 .0055 | .0072 .0040 .0114 .0053 |
| | Markov | .0491 .0378 .0628 .0422 | .0485 .0369 .0624 .0413 |
| Amazon Sports 2014 | popularity | .0057 .0041 .0091 .0052 | .0055 .0040 .0090 .0051 |
| | Markov | .0262 .0197 .0341 .0223 | .0261 .0196 .0339 .0221 |
| MovieLens-100K | popularity | .0583 .0353 .0859 .0439 | .0255 .0146 .0498 .0226 |
| | Markov | .0891 .0590 .1410 .0757 | .0657 .0417 .1145 .0575 |
| MovieLens-1M | popularity | .0200 .0126 .0369 .0180 | .0078 .0052 .0162 .0079 |
| | Markov | .1513 .1054 .2119 .1250 | .1321 .0894 .1874 .1072 |

Ties matter: on Beauty, other orders of equal Markov counts give R@10 from .059 to .067, and counting the validation
events as well gives .071, gaps as wide as those between published models.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class RandomBaseline:
    """Recommend items drawn uniformly without replacement: the floor, `recall@k` about `k / items`.

    Args:
        items: Size of the catalogue.
        seed: Seed of the draws; every call to `recommend` starts from it again.
    """

    def __init__(self, items: int, seed: int = 0) -> None:
        self.items, self.seed = items, seed

    def recommend(self, histories: Sequence[NDArray], k: int, filter_seen: bool = True) -> Rows:
        """Recommend `k` items a case; see `Popularity.recommend`."""
        rng = np.random.default_rng(self.seed)
        # A history hides at most its own length, so this many draws leave k; a permutation for every case is slow.
        draws = (rng.choice(self.items, min(self.items, k + len(h)), replace=False) for h in histories)
        return _lists(draws, np.arange(self.items), histories, k, filter_seen)


class Popularity:
    """Recommend the items with the most training events, the same to everyone but for the seen ones.

    Args:
        training_sequences: One integer array of item rows a user, oldest first.
        items: Size of the catalogue; items without training events come last, by row.

    Raises:
        ValueError: A row lies outside the catalogue.

    Example:
        >>> Popularity([np.array([0, 2]), np.array([2])], items=3).recommend([np.array([0])], k=3).tolist()
        [[2, 1, -1]]
    """

    def __init__(self, training_sequences: Sequence[NDArray], items: int) -> None:
        self.order = _popularity_order(training_sequences, items)

    def recommend(self, histories: Sequence[NDArray], k: int, filter_seen: bool = True) -> Rows:
        """Recommend `k` items a case.

        Args:
            histories: One integer array of item rows a case, oldest first: everything before the target.
            k: Number of ranks.
            filter_seen: Whether items of the history may not be recommended.

        Returns:
            Integer array `[cases, k]` of item rows, no item twice in a row; -1 where no item was left.

        Raises:
            ValueError: A history holds a row outside the catalogue.
        """
        return _lists(([] for _ in histories), self.order, histories, k, filter_seen)


class RepeatHistory:
    """Recommend what the user had last: the distinct items of the history, most recent first, then the most popular.

    With `filter_seen` everything it would say is filtered, and what is left is exactly `Popularity`.

    Args:
        training_sequences: One integer array of item rows a user, oldest first; they rank the popular items.
        items: Size of the catalogue.

    Example:
        >>> repeat = RepeatHistory([np.array([0, 0, 1])], items=3)
        >>> repeat.recommend([np.array([1, 2, 1])], k=3, filter_seen=False).tolist()
        [[1, 2, 0]]
    """

    def __init__(self, training_sequences: Sequence[NDArray], items: int) -> None:
        self.order = _popularity_order(training_sequences, items)

    def recommend(self, histories: Sequence[NDArray], k: int, filter_seen: bool = True) -> Rows:
        """Recommend `k` items a case; see `Popularity.recommend`."""
        recent = (_distinct(np.asarray(h)[::-1]) for h in histories)
        return _lists(recent, self.order, histories, k, filter_seen)


class MarkovOne:
    """Recommend what most often came right after the last item of the history: a table of counts, no parameters.

    `score(next | last)` is the number of consecutive pairs `(last, next)` in the training sequences. Equal counts are
    ranked by which pair came first in the training sequences; the remaining ranks are filled by popularity.

    Args:
        training_sequences: One integer array of item rows a user, oldest first.
        items: Size of the catalogue.

    Raises:
        ValueError: A row lies outside the catalogue.

    Example:
        >>> markov = MarkovOne([np.array([0, 1]), np.array([2, 0, 3]), np.array([0, 3])], items=4)
        >>> markov.recommend([np.array([2, 0])], k=3).tolist()
        [[3, 1, -1]]
    """

    def __init__(self, training_sequences: Sequence[NDArray], items: int) -> None:
        self.order = _popularity_order(training_sequences, items)
        # A pair becomes one int64, which smaller integers of the caller would overflow.
        rows = [np.asarray(s, dtype=np.int64) for s in training_sequences]
        pairs = _concatenated([s[:-1] * items + s[1:] for s in rows])
        pair, first, count = np.unique(pairs, return_index=True, return_counts=True)
        best = np.lexsort((first, -count, pair // items))
        self._next = pair[best] % items
        self._start = np.searchsorted(pair // items, np.arange(items + 1))

    def recommend(self, histories: Sequence[NDArray], k: int, filter_seen: bool = True) -> Rows:
        """Recommend `k` items a case; see `Popularity.recommend`. A case without history gets the popular items."""
        _check_rows(histories, len(self.order))
        return _lists((self._successors(h) for h in histories), self.order, histories, k, filter_seen)

    def _successors(self, history: NDArray) -> Rows:
        if not len(history):
            return self._next[:0]
        return self._next[self._start[history[-1]] : self._start[history[-1] + 1]]


def _lists(
    candidates: Iterable[NDArray | list[int]],
    fill: Rows,
    histories: Sequence[NDArray],
    k: int,
    filter_seen: bool,
) -> Rows:
    """Cut each case's distinct candidates to `k` allowed items, and fill the rest from an order of all items."""
    _check_rows(histories, len(fill))
    recommended = np.full((len(histories), k), -1, dtype=np.int64)
    blocked = np.zeros(len(fill), dtype=bool)
    for row, mine, history in zip(recommended, candidates, histories, strict=True):
        seen = np.asarray(history, dtype=np.int64) if filter_seen else fill[:0]
        blocked[seen] = True
        own = np.asarray(mine, dtype=np.int64)
        own = own[~blocked[own]][:k]
        blocked[own] = True
        # Among this many leading items at least k are not blocked, so the rest of the catalogue need not be read.
        leading = fill[: k + len(own) + len(seen)]
        filler = leading[~blocked[leading]][: k - len(own)]
        row[: len(own)] = own
        row[len(own) : len(own) + len(filler)] = filler
        blocked[seen] = blocked[own] = False
    return recommended


def _popularity_order(training_sequences: Sequence[NDArray], items: int) -> Rows:
    """Order the whole catalogue by training events, equal counts by first appearance, items without events last."""
    _check_rows(training_sequences, items)
    found, first, found_count = np.unique(_concatenated(training_sequences), return_index=True, return_counts=True)
    counts, appearance = np.zeros(items, dtype=np.int64), np.zeros(items, dtype=np.int64)
    counts[found], appearance[found] = found_count, first
    return np.lexsort((np.arange(items), appearance, -counts))


def _distinct(rows: NDArray) -> NDArray:
    return rows[np.sort(np.unique(rows, return_index=True)[1])]


def _concatenated(sequences: Sequence[NDArray]) -> Rows:
    return np.concatenate([np.zeros(0, dtype=np.int64), *sequences]).astype(np.int64)


def _check_rows(sequences: Sequence[NDArray], items: int) -> None:
    rows = _concatenated(sequences)
    if rows.size and not 0 <= rows.min() <= rows.max() < items:
        raise ValueError(
            f"Got item rows from {rows.min()} to {rows.max()} for {items} items: they would count for wrong items; "
            f"pass rows 0..{items - 1} without padding."
        )
