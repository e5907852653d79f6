"""Simple baselines that need no training: random, popularity, repetition of the history and first-order Markov.

The protocol is the same for every data set. All counts come from the *training* sequences (leave-one-out: without the
validation and test event of each user). The history passed to `rank` is everything before the target, so that it ends
with the validation event at test time, and the Markov baseline looks up the successors of that event. Ties of counts
are broken by the first occurrence in the training sequences; users count in the order in which they are passed, so
pass them in file order. Ranks that a baseline cannot fill get the most popular items that are not in the list yet.

Leave-one-out test, all users, all items ranked, events sorted by time and ties in file order; recall and NDCG:

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
events too gives .071; the differences are as large as those between published models.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrec_hf.ranking import Histories, Ranking
from genrec_hf.ranking import Rows as ItemRows
from genrec_hf.user_filters import user_filters

Rows = NDArray[np.int64]


class _Baseline:
    """Base of the baselines: applies filters, and fills empty ranks with items in a fixed order.

    Args:
        order (`np.ndarray`): int64 `[items]`, all item rows in the order in which they fill empty ranks.
        fill_scores (`np.ndarray`): float `[items]` by row, below 1, not increasing in that order.
        seed (`int`, defaults to 0): seed of random choices; every call of `rank` starts from it.
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
        """Rank `k` items for each history, see `genrec_hf.ranking.Ranker`.

        Args:
            histories (`Histories` or `Sequence`): item rows of each user, oldest first: everything before the target.
            k (`int`): number of ranks.
            filter_seen (`bool`, defaults to `True`): do not recommend items of the history.
            allow (`Sequence`, *optional*): for each user, the only item rows that may be recommended, or `None` for
                all.
            deny (`Sequence`, *optional*): for each user, item rows that are not recommended, or `None`.
            progress (`bool`, defaults to `False`): has no effect, as ranking takes little time.

        Returns:
            `Ranking`: `[users, k]`. The baseline's own items score at least 1, and items that fill the remaining ranks
            score below 1.

        Raises:
            ValueError: a history or a filter holds a row outside the catalogue, or there is not one filter for each
                user.
        """
        histories = Histories.of(histories, len(self.order))
        users, items = len(histories), len(self.order)
        denied = user_filters(deny, users=users, items=items, name="deny")
        allowed = user_filters(allow, users=users, items=items, name="allow")
        listed = np.full((users, k), -1, dtype=np.int64)
        scores = np.full((users, k), -np.inf, dtype=np.float32)
        rng, blocked = np.random.default_rng(self.seed), np.zeros(items, dtype=bool)
        for user, (history, deny_rows, allow_rows) in enumerate(zip(histories, denied, allowed, strict=True)):
            excluded_parts = [history if filter_seen else history[:0], history[:0] if deny_rows is None else deny_rows]
            excluded_parts.append(history[:0] if allow_rows is None else np.setdiff1d(self.order, allow_rows))
            excluded = np.concatenate(excluded_parts)
            blocked[excluded] = True
            number = k + len(excluded) + (0 if filter_seen else len(history))
            candidates, candidate_scores = self._candidates(history, number, rng)
            is_allowed = ~blocked[candidates]
            candidates, candidate_scores = candidates[is_allowed][:k], candidate_scores[is_allowed][:k]
            blocked[candidates] = True
            # At least k of this many leading items are not blocked, so that the other items need not be checked.
            leading = self.order[: k + len(candidates) + len(excluded)]
            filler = leading[~blocked[leading]][: k - len(candidates)]
            length = len(candidates) + len(filler)
            listed[user, :length] = np.concatenate([candidates, filler])
            scores[user, :length] = np.concatenate([candidate_scores, self.fill_scores[filler]])
            blocked[excluded] = blocked[candidates] = False
        return Ranking(listed, scores)

    def _candidates(self, history: NDArray, number: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        """Return distinct items to recommend first, at least `number` or all there are, and scores of at least 1."""
        return self.order[:0], self.fill_scores[:0]


class RandomBaseline(_Baseline):
    """Baseline that recommends items sampled uniformly without replacement, with `recall@k` of about `k / items`.

    Args:
        items (`int`): size of the catalogue.
        seed (`int`, defaults to 0): seed of the sampling; every call of `rank` starts from it.
    """

    def __init__(self, items: int, seed: int = 0) -> None:
        super().__init__(np.arange(items), np.zeros(items), seed)

    def _candidates(self, history: NDArray, number: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        # Only as many as leave k after filtering, as a permutation for every user is slow.
        sampled = rng.choice(len(self.order), min(len(self.order), number), replace=False)
        return sampled, np.arange(len(sampled), 0, -1)


class Popularity(_Baseline):
    """Baseline that recommends the items with the most training events to every user.

    Args:
        training_sequences (`Histories` or `Sequence`): item rows of each user, oldest first.
        items (`int`): size of the catalogue; items without training events come last, by row.

    Raises:
        ValueError: a row is outside the catalogue.

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
    """Baseline that recommends the distinct items of the history, most recent first, and then the most popular ones.

    With `filter_seen=True` it equals `Popularity`, because the items of the history are filtered.

    Args:
        training_sequences (`Histories` or `Sequence`): item rows of each user, oldest first, for the popularity.
        items (`int`): size of the catalogue.

    Raises:
        ValueError: a row is outside the catalogue.

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
    """Baseline that recommends the most frequent successors of the last item: a first-order Markov chain of counts.

    `score(next | last)` is the number of consecutive pairs `(last, next)` in the training sequences. Ties are broken
    by the first occurrence of the pair in the training sequences; the remaining ranks are filled by popularity.

    Args:
        training_sequences (`Histories` or `Sequence`): item rows of each user, oldest first.
        items (`int`): size of the catalogue.

    Raises:
        ValueError: a row is outside the catalogue.

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
        successors = slice(self._start[history[-1]], self._start[history[-1] + 1])
        return self._next[successors], self._count[successors]
