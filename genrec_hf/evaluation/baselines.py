"""Recommenders without training to beat before anything else: random, popularity, repetition and first-order Markov.

One protocol for every data set. All counts come from the *training* sequences alone (leave-one-out: without the
validation and test event of each user). The history handed to `rank` is everything before the target, so at test
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

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrec_hf.ranking import Histories, Ranking
from genrec_hf.ranking import Rows as ItemRows
from genrec_hf.user_filters import user_filters

Rows = NDArray[np.int64]


class _Baseline:
    """What the baselines share: filters, and an order of all items that fills what they leave empty.

    Args:
        order: Integer array `[items]`, all item rows, the first to fill a list first.
        fill_scores: Float array `[items]` by row, falling in that order, below 1.
        seed: Of draws; every call starts from it again.
    """

    def __init__(self, order: Rows, fill_scores: NDArray, seed: int = 0) -> None:
        self.order, self.fill_scores, self.seed = order, fill_scores, seed

    def rank(
        self,
        histories: Histories | Sequence[ItemRows],
        k: int,
        *,
        filter_seen: bool = True,
        allow: Sequence[ItemRows | None] | None = None,
        deny: Sequence[ItemRows | None] | None = None,
        progress: bool = False,
    ) -> Ranking:
        """Rank `k` items for each history; see `genrec_hf.ranking.Ranker`.

        Args:
            histories: Item rows of each user, oldest first: everything before the target.
            k: Number of ranks.
            filter_seen: Whether items of the history may not be recommended.
            allow: For each user the only item rows that may come out, `None` for all.
            deny: For each user item rows that may not come out.
            progress: Shows nothing: counting is fast.

        Returns:
            `Ranking` `[users, k]`. Scores are 1 or more for what the baseline recommends by itself, and below 1 for
            what fills a list.

        Raises:
            ValueError: A history or a filter holds a row outside the catalogue.
        """
        histories = Histories.of(histories, len(self.order))
        users, items = len(histories), len(self.order)
        denied = user_filters(deny, users=users, items=items, name="deny")
        allowed = user_filters(allow, users=users, items=items, name="allow")
        listed = np.full((users, k), -1, dtype=np.int64)
        scores = np.full((users, k), -np.inf, dtype=np.float32)
        rng, blocked = np.random.default_rng(self.seed), np.zeros(items, dtype=bool)
        for user, (history, deny_rows, allow_rows) in enumerate(zip(histories, denied, allowed, strict=True)):
            hidden = [history if filter_seen else history[:0], history[:0] if deny_rows is None else deny_rows]
            hidden.append(history[:0] if allow_rows is None else np.setdiff1d(self.order, allow_rows))
            barred = np.concatenate(hidden)
            blocked[barred] = True
            own, own_scores = self._candidates(history, k + len(barred) + (0 if filter_seen else len(history)), rng)
            left = ~blocked[own]
            own, own_scores = own[left][:k], own_scores[left][:k]
            blocked[own] = True
            # Among this many leading items at least k are not blocked, so the rest of the catalogue need not be read.
            leading = self.order[: k + len(own) + len(barred)]
            filler = leading[~blocked[leading]][: k - len(own)]
            number = len(own) + len(filler)
            listed[user, :number] = np.concatenate([own, filler])
            scores[user, :number] = np.concatenate([own_scores, self.fill_scores[filler]])
            blocked[barred] = blocked[own] = False
        return Ranking(listed, scores)

    def _candidates(self, history: NDArray, number: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        """Distinct items to recommend first, at least `number` of them or all there are, and their scores, from 1."""
        return self.order[:0], self.fill_scores[:0]


class RandomBaseline(_Baseline):
    """Recommend items drawn uniformly without replacement: the floor, `recall@k` about `k / items`.

    Args:
        items: Size of the catalogue.
        seed: Seed of the draws; every call to `rank` starts from it again.
    """

    def __init__(self, items: int, seed: int = 0) -> None:
        super().__init__(np.arange(items), np.zeros(items), seed)

    def _candidates(self, history: NDArray, number: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        # So many that k are left after the filters; a permutation for every user is slow.
        drawn = rng.choice(len(self.order), min(len(self.order), number), replace=False)
        return drawn, np.arange(len(drawn), 0, -1)


class Popularity(_Baseline):
    """Recommend the items with the most training events, the same to everyone but for the seen ones.

    Args:
        training_sequences: One integer array of item rows a user, oldest first.
        items: Size of the catalogue; items without training events come last, by row.

    Raises:
        ValueError: A row lies outside the catalogue.

    Example:
        >>> Popularity([np.array([0, 2]), np.array([2])], items=3).rank([np.array([0])], k=3).items.tolist()
        [[2, 1, -1]]
    """

    def __init__(self, training_sequences: Histories | Sequence[NDArray], items: int) -> None:
        _, rows = Histories.of(training_sequences, items).flat()
        present, first, count = np.unique(rows, return_index=True, return_counts=True)
        events, appearance = np.zeros(items, dtype=np.int64), np.zeros(items, dtype=np.int64)
        events[present], appearance[present] = count, first
        order = np.lexsort((np.arange(items), appearance, -events))
        super().__init__(order, events / (1 + events.max(initial=0)))


class RepeatHistory(Popularity):
    """Recommend what the user had last: the distinct items of the history, most recent first, then the most popular.

    With `filter_seen` everything it would say is filtered, and what is left is exactly `Popularity`.

    Args:
        training_sequences: One integer array of item rows a user, oldest first; they rank the popular items.
        items: Size of the catalogue.

    Example:
        >>> repeat = RepeatHistory([np.array([0, 0, 1])], items=3)
        >>> repeat.rank([np.array([1, 2, 1])], k=3, filter_seen=False).items.tolist()
        [[1, 2, 0]]
    """

    def _candidates(self, history: NDArray, number: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        recent = history[::-1]
        distinct = recent[np.sort(np.unique(recent, return_index=True)[1])]
        return distinct, np.arange(len(distinct), 0, -1)


class MarkovOne(Popularity):
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
        >>> markov.rank([np.array([2, 0])], k=3).items.tolist()
        [[3, 1, -1]]
    """

    def __init__(self, training_sequences: Histories | Sequence[NDArray], items: int) -> None:
        super().__init__(training_sequences, items)
        users, rows = Histories.of(training_sequences, items).flat()
        pairs = (rows[:-1] * items + rows[1:])[users[:-1] == users[1:]]
        pair, first, count = np.unique(pairs, return_index=True, return_counts=True)
        best = np.lexsort((first, -count, pair // items))
        self._next, self._count = pair[best] % items, count[best]
        self._start = np.searchsorted(pair // items, np.arange(items + 1))

    def _candidates(self, history: NDArray, number: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        if not len(history):
            return self._next[:0], self._count[:0]
        after = slice(self._start[history[-1]], self._start[history[-1] + 1])
        return self._next[after], self._count[after]
