"""Defines `Histories`, `Ranking`, and the protocols `Ranker` and `Reranker` of everything that ranks items.

To add a model that ranks items, implement `Ranker.rank`. Evaluation, comparison, validation during training and
loading use these protocols and do not depend on a model class.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np

from genrec_hf.item_rows import Rows, item_rows


@dataclass(frozen=True, eq=False)
class Histories(Sequence[np.ndarray]):
    """Histories of users in flat arrays; a sequence with one array of item rows per user, oldest first.

    Histories may overlap: those of several cases of one user are slices of the same array and are not copied.

    Args:
        items (`np.ndarray`): `[events]`, int64, item rows.
        starts (`np.ndarray`): `[users]`, int64, index in `items` of the first event of each history.
        stops (`np.ndarray`): `[users]`, int64, index after its last event; equal to the start for an empty history.
        times (`np.ndarray`, *optional*): `[events]`, time of each event, in any unit; does not decrease in a history.

    Raises:
        ValueError: the lengths of the arrays do not match, a slice lies outside of `items`, or times decrease.

    Example:
        >>> histories = Histories.of([[3, 1], [], [2]])
        >>> len(histories), histories[0].tolist(), histories.lengths.tolist()
        (3, [3, 1], [2, 0, 1])
    """

    items: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    times: np.ndarray | None = None

    def __post_init__(self) -> None:
        sizes = (
            len(self.starts),
            len(self.stops),
            len(self.items),
            len(self.items if self.times is None else self.times),
        )
        ordered = sizes[0] == sizes[1] and bool((self.starts >= 0).all() and (self.starts <= self.stops).all())
        if not ordered or sizes[2] != sizes[3] or (len(self.stops) and self.stops.max() > len(self.items)):
            raise ValueError(
                f"got {sizes[0]} starts, {sizes[1]} stops, {sizes[2]} items and {sizes[3]} times that do not fit: "
                "each history is a slice items[start:stop]; pass one time per item, or no times"
            )
        if self.times is not None and len(self.times) > 1 and len(self.starts):
            decreases = np.concatenate([[0], np.cumsum(self.times[1:] < self.times[:-1])])
            last, first = np.maximum(self.stops - 1, self.starts), np.minimum(self.starts, len(decreases) - 1)
            unsorted = np.flatnonzero(decreases[np.minimum(last, len(decreases) - 1)] > decreases[first])
            if len(unsorted):
                raise ValueError(
                    f"the times of history {unsorted[0]} decrease ({len(unsorted)} of {len(self)} histories): its "
                    "last item would not be the latest; sort each history by time, oldest first"
                )

    @classmethod
    def of(
        cls, histories: "Histories | Sequence[Rows]", items: int | None = None, name: str = "histories"
    ) -> "Histories":
        """Create `Histories` from one list of item rows per user; `Histories` are returned as they are.

        Args:
            histories (`Histories` or `Sequence`): `[users]` of item rows, oldest first.
            items (`int`, *optional*): number of items in the catalogue, to check the rows.
            name (`str`, defaults to `"histories"`): name of the argument, for errors.

        Returns:
            `Histories`: `[users]`, without times if made from lists.

        Raises:
            ValueError: `histories` is a mapping, a set or text, or holds invalid item rows, see `item_rows`.
        """
        if isinstance(histories, Histories):
            if items is not None and len(histories.items):
                item_rows(histories.items, items, name)
            return histories
        if isinstance(histories, str | bytes | Mapping | Set):
            raise ValueError(f"{name} is a {type(histories).__name__}: pass a list with the item rows of each user")
        limit = np.iinfo(np.int64).max if items is None else items
        arrays = [item_rows(rows, limit, f"{name}[{user}]") for user, rows in enumerate(histories)]
        stops = np.cumsum([len(rows) for rows in arrays], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, dtype=np.int64), stops])[: len(arrays)]
        return cls(np.concatenate([np.zeros(0, dtype=np.int64), *arrays]), starts, stops)

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> "Histories": ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        return self.items[self.starts[index] : self.stops[index]]

    def select(self, users: Sequence[int] | np.ndarray) -> "Histories":
        """Return the histories of some users, in the order of `users`; the events are not copied.

        Args:
            users (`Sequence[int]` or `np.ndarray`): `[n]`, positions from 0; may repeat.

        Returns:
            `Histories`: `[n]`.
        """
        users = np.asarray(users, dtype=np.int64)
        return Histories(self.items, self.starts[users], self.stops[users], self.times)

    @property
    def lengths(self) -> np.ndarray:
        """Number of events of each history, `[users]`."""
        return self.stops - self.starts

    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the events of all histories as two flat arrays.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: position of the user `[n]` and item row `[n]` of each event, user by user.
        """
        users = np.repeat(np.arange(len(self)), self.lengths)
        positions = np.arange(len(users)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        return users, self.items[self.starts[users] + positions]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Ranked items of each user, best first, with their scores.

    Args:
        items (`np.ndarray`): `[users, k]`, int64, item rows; `-1` for an empty rank, where no item is left.
        scores (`np.ndarray`): `[users, k]`, float32, on the scale of the ranker; `-inf` for an empty rank.

    Raises:
        ValueError: the shapes differ or are not `[users, k]`, a dtype is wrong, an item has no finite score, or an
            empty rank has one.

    Example:
        >>> ranking = Ranking(np.array([[4, 7], [2, -1]]), np.array([[0.9, 0.3], [0.5, -np.inf]], dtype=np.float32))
        >>> len(ranking), ranking.top(1).items.tolist()
        (2, [[4], [2]])
    """

    items: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        if self.items.ndim != 2 or self.items.shape != self.scores.shape:
            raise ValueError(
                f"got items of shape {self.items.shape} and scores of shape {self.scores.shape}: each item needs one "
                "score; pass two arrays [users, k]"
            )
        if not np.issubdtype(self.items.dtype, np.integer) or not np.issubdtype(self.scores.dtype, np.floating):
            raise ValueError(
                f"got items of dtype {self.items.dtype} and scores of dtype {self.scores.dtype}: pass item rows as "
                "integers and scores as floats"
            )
        if not np.array_equal(np.isfinite(self.scores), self.items >= 0):
            raise ValueError("got items without a finite score, or scores without an item: pad with -1 and -inf")

    def __len__(self) -> int:
        return len(self.items)

    def top(self, k: int) -> "Ranking":
        """Return the first `k` ranks.

        Args:
            k (`int`): number of ranks.

        Returns:
            `Ranking`: `[users, k]`; all ranks if there are fewer.
        """
        return Ranking(self.items[:, :k], self.scores[:, :k])


class Ranker(Protocol):
    """Protocol of models that rank the items of a catalogue, such as `SasRec`, `Recommender` and the baselines.

    Example:
        >>> from genrec_hf.user_filters import filter_scores, user_filters
        >>> class HighestRows:
        ...     def rank(self, histories, k, *, filter_seen=True, allow=None, deny=None, progress=False):
        ...         histories = Histories.of(histories, items=5)
        ...         filters = {"allow": user_filters(allow, users=len(histories), items=5, name="allow")}
        ...         filters["deny"] = user_filters(deny, users=len(histories), items=5, name="deny")
        ...         scores = np.tile(np.arange(5, dtype=np.float32), (len(histories), 1))
        ...         filter_scores(scores, histories, filter_seen=filter_seen, **filters)
        ...         scores = np.pad(scores, ((0, 0), (0, k)), constant_values=-np.inf)  # k may be more than 5
        ...         items = np.argsort(-scores, axis=1)[:, :k]
        ...         scores = np.take_along_axis(scores, items, axis=1)
        ...         return Ranking(np.where(scores > -np.inf, items, -1), scores)
        >>> checked_ranking(HighestRows(), [[4, 0], []], k=2, deny=[None, [3]]).items.tolist()
        [[3, 2], [4, 2]]
    """

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
        """Rank the best `k` items for each user.

        Args:
            histories (`Histories` or `Sequence`): `[users]` of item rows, oldest first; empty for a new user.
            k (`int`): number of ranks.
            filter_seen (`bool`, defaults to `True`): exclude the items of the history.
            allow (`Sequence`, *optional*): `[users]` of item rows, the only ones to recommend; `None` for all.
            deny (`Sequence`, *optional*): `[users]` of item rows to exclude; `None` for none.
            progress (`bool`, defaults to `False`): show a progress bar.

        Returns:
            `Ranking`: `[users, k]`, exactly; no item twice in a list; `-1` and `-inf` at the end of a list where fewer
            than `k` items are left.

        Raises:
            ValueError: `histories`, `allow` or `deny` hold invalid item rows, or the number of entries of a filter is
                not the number of users.
        """


class Reranker(Protocol):
    """Protocol of models that reorder the lists of a ranker, such as `Mmr` for diversity.

    Example:
        >>> class Reverse:
        ...     def rerank(self, histories, ranking, k):
        ...         return Ranking(ranking.items[:, ::-1][:, :k], ranking.scores[:, ::-1][:, :k])
        >>> candidates = Ranking(np.array([[4, 3, 2]]), np.zeros((1, 3), dtype=np.float32))
        >>> checked_reranking(Reverse(), [[0]], candidates, k=2).items.tolist()
        [[2, 3]]
    """

    def rerank(self, histories: Histories | Sequence[Rows], ranking: Ranking, k: int) -> Ranking:
        """Choose `k` of the candidates of each user and return them in a new order.

        Args:
            histories (`Histories` or `Sequence`): `[users]` of item rows, oldest first.
            ranking (`Ranking`): `[users, n]`, candidates, best first; `-1` for an empty rank.
            k (`int`): number of ranks, at most `n`.

        Returns:
            `Ranking`: `[users, k]`, only candidates of the same user, none twice; `-1` and `-inf` for an empty rank.
        """


class Reranked:
    """A ranker that reorders the lists of another ranker with a reranker.

    Args:
        ranker (`Ranker`): ranks the candidates.
        reranker (`Reranker`): chooses from the candidates and orders them.
        candidates (`int`): number of candidates per user; `k` if that is larger.
    """

    def __init__(self, ranker: Ranker, reranker: Reranker, candidates: int) -> None:
        self.ranker, self.reranker, self.candidates = ranker, reranker, candidates

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
        """Rank candidates and rerank them; arguments and result are those of `Ranker.rank`.

        Raises:
            ValueError: the ranker or the reranker returns an invalid ranking, see `checked_ranking` and
                `checked_reranking`.
        """
        histories = Histories.of(histories)
        candidates = max(k, self.candidates)
        ranking = checked_ranking(
            self.ranker, histories, candidates, filter_seen=filter_seen, allow=allow, deny=deny, progress=progress
        )
        return checked_reranking(self.reranker, histories, ranking, k=k)


def checked_ranking(
    ranker: Ranker,
    histories: Histories | Sequence[Rows],
    k: int,
    *,
    filter_seen: bool = True,
    allow: Sequence[Rows | None] | None = None,
    deny: Sequence[Rows | None] | None = None,
    progress: bool = False,
) -> Ranking:
    """Call `ranker.rank` and check the result.

    Args:
        ranker (`Ranker`): the ranker to call.
        histories (`Histories` or `Sequence`): as in `Ranker.rank`, like all other arguments.
        k (`int`): number of ranks.
        filter_seen (`bool`, defaults to `True`): exclude the items of the history.
        allow (`Sequence`, *optional*): `[users]` of item rows, the only ones to recommend.
        deny (`Sequence`, *optional*): `[users]` of item rows to exclude.
        progress (`bool`, defaults to `False`): show a progress bar.

    Returns:
        `Ranking`: `[users, k]`, the result of `ranker.rank`.

    Raises:
        ValueError: the shape is not `[users, k]`, an item is twice in a list, or, with `filter_seen`, an item of the
            history is in a list.
    """
    histories = Histories.of(histories)
    ranking = ranker.rank(histories, k, filter_seen=filter_seen, allow=allow, deny=deny, progress=progress)
    refuse_wrong_ranking(ranking, users=len(histories), k=k, name=type(ranker).__name__)
    if filter_seen:
        users, seen = histories.flat()
        span = int(max(ranking.items.max(initial=0), seen.max(initial=0))) + 1
        listed = np.where(ranking.items >= 0, np.arange(len(ranking))[:, None] * span + ranking.items, -1)
        repeated = np.isin(listed, users * span + seen)
        if repeated.any():
            user = int(np.argwhere(repeated)[0, 0])
            raise ValueError(
                f"{type(ranker).__name__} gave user {user} an item of the history with filter_seen=True "
                f"({int(repeated.any(axis=1).sum())} of {len(ranking)} users): exclude the items of each history in "
                "its rank method"
            )
    return ranking


def checked_reranking(
    reranker: Reranker, histories: Histories | Sequence[Rows], ranking: Ranking, *, k: int
) -> Ranking:
    """Call `reranker.rerank` and check the result.

    Args:
        reranker (`Reranker`): the reranker to call.
        histories (`Histories` or `Sequence`): `[users]` of item rows, oldest first.
        ranking (`Ranking`): `[users, n]`, candidates, best first.
        k (`int`): number of ranks, at most `n`.

    Returns:
        `Ranking`: `[users, k]`, the result of `reranker.rerank`.

    Raises:
        ValueError: the shape is not `[users, k]`, an item is twice in a list, or an item is not a candidate.
    """
    reranked = reranker.rerank(histories, ranking, k)
    refuse_wrong_ranking(reranked, users=len(ranking), k=k, name=type(reranker).__name__)
    is_candidate = (reranked.items[:, :, None] == ranking.items[:, None, :]).any(axis=2) | (reranked.items < 0)
    if not is_candidate.all():
        user, rank = np.argwhere(~is_candidate)[0]
        raise ValueError(
            f"{type(reranker).__name__} gave user {user} the item row {reranked.items[user, rank]}, which is not a "
            "candidate: the filters of the request may exclude it; return candidates only"
        )
    return reranked


def refuse_wrong_ranking(ranking: Ranking, *, users: int, k: int, name: str) -> None:
    """Raise if a ranking is not `[users, k]` or has an item twice in a list.

    Args:
        ranking (`Ranking`): the ranking to check.
        users (`int`): number of histories that were ranked.
        k (`int`): number of ranks that were requested.
        name (`str`): name of the ranker or reranker, for the error.

    Raises:
        ValueError: the shape is different, or an item is twice in a list.
    """
    if ranking.items.shape != (users, k):
        raise ValueError(
            f"{name} gave a ranking of shape {ranking.items.shape} for {users} users and k={k}: metrics are means "
            "over users; return one row per user with k ranks, padded with -1"
        )
    ordered = np.sort(ranking.items, axis=1)
    duplicated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if duplicated.any():
        user, column = np.argwhere(duplicated)[0]
        raise ValueError(
            f"{name} gave user {user} the item row {ordered[user, column]} twice "
            f"({int(duplicated.any(axis=1).sum())} of {users} users): return each item once"
        )
