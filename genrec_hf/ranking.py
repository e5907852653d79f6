"""Defines `Histories`, `Ranking`, and the protocols `Ranker` and `Reranker` of everything that ranks items.

Evaluation, comparison, rankings while a model trains, and loading know these protocols and no model class.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, overload

import numpy as np

# Item rows of one user.
Rows = Sequence[int] | np.ndarray


@dataclass(frozen=True, eq=False)
class Histories(Sequence[np.ndarray]):
    """Histories of users in flat arrays; user by user it is a sequence of arrays of item rows, oldest first.

    Several users may share events: the cases of one user are stretches of the same array, which nothing copies.

    Args:
        items (`np.ndarray`): `[events]`, int64, item rows.
        starts (`np.ndarray`): `[users]`, int64, where each history begins.
        stops (`np.ndarray`): `[users]`, int64, where it ends, exclusive.
        times (`np.ndarray`, *optional*): `[events]`, when each event was, in any unit; never falling within a history.

    Raises:
        ValueError: when the arrays do not fit each other, or times fall.

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
                "each history is a stretch of the items, with a time for each of them or none"
            )
        if self.times is not None and len(self.times) > 1 and len(self.starts):
            falls = np.concatenate([[0], np.cumsum(self.times[1:] < self.times[:-1])])
            last, first = np.maximum(self.stops - 1, self.starts), np.minimum(self.starts, len(falls) - 1)
            broken = np.flatnonzero(falls[np.minimum(last, len(falls) - 1)] > falls[first])
            if len(broken):
                raise ValueError(
                    f"the times of history {broken[0]} fall ({len(broken)} of {len(self)} histories): its last item "
                    "would not be the latest; sort each history by time, oldest first"
                )

    @classmethod
    def of(
        cls, histories: "Histories | Sequence[Rows]", items: int | None = None, name: str = "histories"
    ) -> "Histories":
        """Histories from one array or list of item rows a user; `Histories` stay as they are.

        Args:
            histories (`Sequence`): `[users]` of item rows, oldest first.
            items (`int`, *optional*): size of the catalogue, to check the rows.
            name (`str`, defaults to `"histories"`): what errors call them.

        Raises:
            ValueError: on what has no order, or is no item row.
        """
        if isinstance(histories, Histories):
            if items is not None and len(histories.items):
                item_rows(histories.items, items, name)
            return histories
        if isinstance(histories, str | bytes | Mapping | Set):
            raise ValueError(f"{name} is a {type(histories).__name__}: pass a list with the item rows of each user")
        most = np.iinfo(np.int64).max if items is None else items
        arrays = [item_rows(rows, most, f"{name}[{user}]") for user, rows in enumerate(histories)]
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
        """Some of the histories, in the order of `users`."""
        users = np.asarray(users, dtype=np.int64)
        return Histories(self.items, self.starts[users], self.stops[users], self.times)

    @property
    def lengths(self) -> np.ndarray:
        """Items of each history, `[users]`."""
        return self.stops - self.starts

    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """The events of all histories: the user `[n]` and the item `[n]` of each, user by user."""
        users = np.repeat(np.arange(len(self)), self.lengths)
        within = np.arange(len(users)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        return users, self.items[self.starts[users] + within]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Items for each user, best first.

    Args:
        items (`np.ndarray`): `[users, k]`, int64, item rows; `-1` where nothing is left to recommend.
        scores (`np.ndarray`): `[users, k]`, float32, of the system that ranked; `-inf` where there is no item.

    Raises:
        ValueError: when the two have other shapes or types, or an item has no score.
    """

    items: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        if self.items.ndim != 2 or self.items.shape != self.scores.shape:
            raise ValueError(
                f"got items {self.items.shape} and scores {self.scores.shape}: a ranking has one of each for every "
                "rank, [users, k]"
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
        """The first `k` ranks."""
        return Ranking(self.items[:, :k], self.scores[:, :k])


class Ranker(Protocol):
    """Ranks the items of a catalogue for users; baselines, `SasRec` and `Recommender` do."""

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
        """The best `k` items for each user.

        Args:
            histories (`Histories` or `Sequence`): item rows of each user, oldest first; empty for a new user.
            k (`int`): ranks.
            filter_seen (`bool`, defaults to `True`): leave out the items of the history.
            allow (`Sequence`, *optional*): for each user, the only item rows that may come out, or `None` for all.
            deny (`Sequence`, *optional*): for each user, item rows that may not come out.
            progress (`bool`, defaults to `False`): show a progress bar.

        Returns:
            `Ranking`: `[users, k]`, no item twice in a row.
        """


class Reranker(Protocol):
    """Reorders the lists of a ranker, for example for diversity as `Mmr` does."""

    def rerank(self, histories: Histories | Sequence[Rows], ranking: Ranking, k: int) -> Ranking:
        """The `k` of each list that are kept, in a new order.

        Args:
            histories (`Histories` or `Sequence`): item rows of each user, oldest first.
            ranking (`Ranking`): candidates `[users, n]`.
            k (`int`): ranks, `n` at most.

        Returns:
            `Ranking`: `[users, k]`, of the candidates alone.
        """


class Reranked:
    """A ranker whose lists a reranker reorders.

    Args:
        ranker (`Ranker`): gives the candidates.
        reranker (`Reranker`): orders them.
        candidates (`int`): how many the reranker chooses from; `k` where that is more.
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
        """See `Ranker.rank`."""
        histories = Histories.of(histories)
        most = max(k, self.candidates)
        ranking = checked_ranking(
            self.ranker, histories, most, filter_seen=filter_seen, allow=allow, deny=deny, progress=progress
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

    Raises:
        ValueError: when there are fewer or more rows than users or ranks than `k`, an item comes twice in a list, or
            an item of the history stands in a list that may hold none.
    """
    histories = Histories.of(histories)
    ranking = ranker.rank(histories, k, filter_seen=filter_seen, allow=allow, deny=deny, progress=progress)
    refuse_wrong_ranking(ranking, users=len(histories), k=k, name=type(ranker).__name__)
    if filter_seen:
        users, seen = histories.flat()
        span = int(max(ranking.items.max(initial=0), seen.max(initial=0))) + 1
        listed = np.where(ranking.items >= 0, np.arange(len(ranking))[:, None] * span + ranking.items, -1)
        again = np.isin(listed, users * span + seen)
        if again.any():
            user = int(np.argwhere(again)[0, 0])
            raise ValueError(
                f"{type(ranker).__name__} gave user {user} an item of the history with filter_seen=True "
                f"({int(again.any(axis=1).sum())} of {len(ranking)} users): filter its candidates"
            )
    return ranking


def checked_reranking(
    reranker: Reranker, histories: Histories | Sequence[Rows], ranking: Ranking, *, k: int
) -> Ranking:
    """Call `reranker.rerank` and check the result.

    Raises:
        ValueError: as `checked_ranking`, or when an item comes out that was not among the candidates.
    """
    reranked = reranker.rerank(histories, ranking, k)
    refuse_wrong_ranking(reranked, users=len(ranking), k=k, name=type(reranker).__name__)
    known = (reranked.items[:, :, None] == ranking.items[:, None, :]).any(axis=2) | (reranked.items < 0)
    if not known.all():
        user, rank = np.argwhere(~known)[0]
        raise ValueError(
            f"{type(reranker).__name__} gave user {user} the item row {reranked.items[user, rank]}, which is not a "
            "candidate: filters would not hold; return candidates alone"
        )
    return reranked


def refuse_wrong_ranking(ranking: Ranking, *, users: int, k: int, name: str) -> None:
    """Raise where a ranking is not `[users, k]`, or has an item twice in a list; `name` is who made it."""
    if ranking.items.shape != (users, k):
        raise ValueError(
            f"{name} gave a ranking of shape {ranking.items.shape} for {users} users and k={k}: means over users "
            "would be wrong; return a row for each user, padded with -1"
        )
    ordered = np.sort(ranking.items, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        user, place = np.argwhere(twice)[0]
        raise ValueError(
            f"{name} gave user {user} the item row {ordered[user, place]} twice ({int(twice.any(axis=1).sum())} of "
            f"{users} users): return each item once"
        )


def filter_scores(
    scores: np.ndarray,
    histories: Histories,
    *,
    filter_seen: bool,
    allow: Sequence[np.ndarray | None],
    deny: Sequence[np.ndarray | None],
) -> None:
    """Set to `-inf`, in place, the scores `[users, items]` of what a user may not get.

    Args:
        scores (`np.ndarray`): `[users, items]`, of every item.
        histories (`Histories`): of these users.
        filter_seen (`bool`): as of `Ranker.rank`.
        allow (`Sequence`): for each user, from `user_filters`.
        deny (`Sequence`): likewise.
    """
    if filter_seen:
        scores[histories.flat()] = -np.inf
    for user, (allowed, denied) in enumerate(zip(allow, deny, strict=True)):
        if denied is not None:
            scores[user, denied] = -np.inf
        if allowed is not None:
            others = np.ones(scores.shape[1], dtype=bool)
            others[allowed] = False
            scores[user, others] = -np.inf


def user_filters(
    filters: Sequence[Rows | None] | None, *, users: int, items: int, name: str
) -> list[np.ndarray | None]:
    """Item rows for each user, `None` for no filter.

    Raises:
        ValueError: when there is not one entry for each user, or one holds what is no item row.
    """
    if filters is None:
        return [None] * users
    if len(filters) != users:
        raise ValueError(f"{len(filters)} {name} entries for {users} histories: pass one for each")
    return [None if rows is None else item_rows(rows, items, f"{name}[{user}]") for user, rows in enumerate(filters)]


def item_rows(given: Rows, items: int, name: str) -> np.ndarray:
    """Item rows `[n]`, int64, of what a caller gave.

    Args:
        given (`Sequence[int]` or `np.ndarray`): `[n]`, whole numbers from 0; nothing is rounded or cast.
        items (`int`): rows of the catalogue.
        name (`str`): what errors call them.

    Raises:
        ValueError: on anything else.
    """
    if isinstance(given, list | tuple) and any(isinstance(row, bool) for row in given):
        raise ValueError(f"{name} holds True or False: a mask would name wrong items; pass item rows (np.flatnonzero)")
    try:
        rows = np.asarray(given)
    except ValueError:  # lists of several lengths within
        rows = np.asarray(None)
    if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
        raise ValueError(
            f"{name} holds item rows of shape {rows.shape} and dtype {rows.dtype}: ids, masks and fractions would "
            "name wrong items; pass a list of whole numbers, such as semantic_ids.rows(item_ids)"
        )
    if rows.size and not 0 <= rows.min() <= rows.max() < items:
        raise ValueError(
            f"{name} holds item rows {rows.min()} to {rows.max()} for {items} items: they name wrong items; pass "
            f"0 to {items - 1}, without padding"
        )
    return rows.astype(np.int64)


def is_whole(value: object) -> bool:
    """Whether `value` is a whole number of Python or NumPy; `True` and `1.0` are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)
