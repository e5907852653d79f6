"""Collision resolution: from codes that items may share to a SID of its own for every item."""

import numpy as np


def resolve_collisions(
    codes: np.ndarray, level_sizes: tuple[int, ...], events: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Give items that share their codes one more level that numbers them (TIGER, arXiv:2305.05065, section 3.1).

    Differs from the paper in three small ways: codes that are unique already stay as they are, with no extra level;
    the extra level is as large as the largest group and no larger; and with `events` the items of a group are numbered
    by popularity, so that a number means something to the model: 0 is the group's favourite.

    Args:
        codes (`np.ndarray`): `[items, levels]`.
        level_sizes (`tuple[int, ...]`): sizes of these levels.
        events (`np.ndarray`, *optional*): training events of each item `[items]`; without it, and among equals, items
            of a group are numbered in row order.

    Returns:
        `tuple`: unique codes `[items, levels]` or `[items, levels + 1]`, and their level sizes.

    Example:
        >>> resolve_collisions(np.array([[3, 1], [0, 2], [3, 1]]), (4, 4))[0].tolist()
        [[3, 1, 0], [0, 2, 0], [3, 1, 1]]
    """
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.reshape(-1)
    largest = int(np.bincount(group).max())
    if largest == 1:
        return codes, level_sizes
    popularity = np.zeros(len(codes)) if events is None else np.asarray(events)
    order = np.lexsort((-popularity, group))
    starts = np.concatenate([[0], np.flatnonzero(np.diff(group[order])) + 1])
    number = np.empty(len(codes), dtype=np.int64)
    number[order] = np.arange(len(codes)) - np.repeat(starts, np.diff([*starts, len(codes)]))
    return np.column_stack([codes, number]), (*level_sizes, largest)
