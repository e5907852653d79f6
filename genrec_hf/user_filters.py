"""Applies the filters of a ranking request: items of the history, allowed items and denied items."""

from collections.abc import Sequence

import numpy as np

from genrec_hf.item_rows import Rows, item_rows
from genrec_hf.ranking import Histories


def user_filters(
    filters: Sequence[Rows | None] | None, *, users: int, items: int, name: str
) -> list[np.ndarray | None]:
    """Convert the `allow` or `deny` of `Ranker.rank` to one array of item rows per user, and check them.

    Args:
        filters (`Sequence`, *optional*): `[users]` of item rows, `None` for a user without a filter; `None` for no
            filter at all.
        users (`int`): number of histories.
        items (`int`): number of items in the catalogue.
        name (`str`): name of the argument, for the error: `"allow"` or `"deny"`.

    Returns:
        `list`: `[users]` of int64 arrays, `None` where a user has no filter.

    Raises:
        ValueError: the number of entries is not `users`, or an entry does not hold item rows, see `item_rows`.

    Example:
        >>> user_filters([[2], None], users=2, items=3, name="deny")
        [array([2]), None]
    """
    if filters is None:
        return [None] * users
    if len(filters) != users:
        raise ValueError(f"got {len(filters)} {name} entries for {users} histories: pass one for each")
    return [None if rows is None else item_rows(rows, items, f"{name}[{user}]") for user, rows in enumerate(filters)]


def filter_scores(
    scores: np.ndarray,
    histories: Histories,
    *,
    filter_seen: bool,
    allow: Sequence[np.ndarray | None],
    deny: Sequence[np.ndarray | None],
) -> None:
    """Set the scores of the items that the filters exclude to `-inf`, in place.

    Args:
        scores (`np.ndarray`): `[users, items]`, float, one score per item of the catalogue; changed in place.
        histories (`Histories`): `[users]`.
        filter_seen (`bool`): exclude the items of the history.
        allow (`Sequence`): `[users]`, the only item rows to recommend, or `None` for all; from `user_filters`.
        deny (`Sequence`): `[users]`, item rows to exclude, or `None` for none; from `user_filters`.
    """
    if filter_seen:
        scores[histories.flat()] = -np.inf
    for user, (allowed, denied) in enumerate(zip(allow, deny, strict=True)):
        if denied is not None:
            scores[user, denied] = -np.inf
        if allowed is not None:
            excluded = np.ones(scores.shape[1], dtype=bool)
            excluded[allowed] = False
            scores[user, excluded] = -np.inf
