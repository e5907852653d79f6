"""Where items go whose codes are taken: to the nearest codes that are free."""

from collections.abc import Callable
from math import prod

import numpy as np
from scipy.optimize import linear_sum_assignment

from genrec_hf.semantic_ids.sorting import sorted_codes

# `(items [n], codes [n, levels], level) -> [n, size of the level]`: how far each item is from what its codes stand for
# with the code of that level replaced by each code in turn. `Quantizer.distances` makes one.
Distances = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
# Distances of a batch of items are held at once: 32 MiB.
ENTRIES = 1 << 22


class TakenCodes:
    """Which SIDs are taken, by prefix; only prefixes that are asked for are ever counted.

    Args:
        codes (`np.ndarray`): taken SIDs `[n, levels]`, `n` may be 0.
        level_sizes (`tuple[int, ...]`): sizes of the levels.

    Example:
        >>> taken = TakenCodes(np.array([[0, 1], [1, 0], [1, 1]]), (2, 2))
        >>> taken.free(()).tolist(), taken.free((0,)).tolist()
        ([True, False], [True, False])
    """

    def __init__(self, codes: np.ndarray, level_sizes: tuple[int, ...]) -> None:
        self.level_sizes = level_sizes
        # As the codes that are looked for: another type would be converted whole at every search.
        self._columns = [column.astype(np.int64, copy=False) for column in sorted_codes(codes)[1]]
        self._counts: dict[tuple[int, ...], np.ndarray] = {}
        self._room = [min(prod(level_sizes[level + 1 :]), 1 << 62) for level in range(len(level_sizes))]

    def free(self, prefix: tuple[int, ...]) -> np.ndarray:
        """Whether a SID is free under each code that may follow `prefix`, `bool` `[size of that level]`."""
        return self._below(prefix) < self._room[len(prefix)]

    def nearest(self, prefix: tuple[int, ...], distances: np.ndarray) -> int | None:
        """The code after `prefix` with room below it and the least of `distances` `[size]`; `None` when all is full.

        A distance that is not finite, of a code that stands for nothing, is the last choice.
        """
        free = np.flatnonzero(self.free(prefix))
        if len(free) == 0:
            return None
        return int(free[np.argmin(np.where(np.isfinite(distances[free]), distances[free], np.inf))])

    def take(self, codes: tuple[int, ...]) -> None:
        """Take one SID that is free."""
        # All are counted before one goes up: what is counted later comes from the codes of the start.
        counts = [self._below(codes[:level]) for level in range(len(codes))]
        for count, code in zip(counts, codes, strict=True):
            count[code] += 1

    def _below(self, prefix: tuple[int, ...]) -> np.ndarray:
        if prefix not in self._counts:
            first, stop = 0, len(self._columns[0])
            for level, code in enumerate(prefix):
                start, column = first, self._columns[level][first:stop]
                first, stop = (start + int(np.searchsorted(column, code, side)) for side in ("left", "right"))
            following = self._columns[len(prefix)][first:stop]
            self._counts[prefix] = np.bincount(following, minlength=self.level_sizes[len(prefix)])
        return self._counts[prefix]


def reassign_items(items: np.ndarray, wanted: np.ndarray, taken: TakenCodes, *, distances: Distances) -> np.ndarray:
    """Give each item the free SID nearest to the one it wants, first come, first served.

    An item gets the codes it wants if they are free; else the nearest free last code under its prefix; else, once all
    others are placed, the nearest second-to-last code with room below it, and so on upwards. "Nearest" keeps the codes
    of the other levels as they are.

    Args:
        items (`np.ndarray`): `[n]`, what `distances` knows the items by; the first has precedence.
        wanted (`np.ndarray`): `[n, levels]`.
        taken (`TakenCodes`): with room for `n` more; holds the result afterwards.
        distances (`Distances`): of these items.

    Returns:
        `np.ndarray`: `[n, levels]`, no two rows alike and none that was taken.
    """
    placed, last = wanted.copy(), wanted.shape[1] - 1
    rest = []
    for row, codes in enumerate(map(tuple, wanted.tolist())):
        if taken.free(codes[:-1])[codes[-1]]:
            taken.take(codes)
        else:
            rest.append(row)
    crowded, batch = [], max(1, ENTRIES // taken.level_sizes[-1])
    for start in range(0, len(rest), batch):
        rows = np.array(rest[start : start + batch])
        for row, costs in zip(rows.tolist(), distances(items[rows], wanted[rows], last), strict=True):
            prefix = tuple(wanted[row, :-1].tolist())
            code = taken.nearest(prefix, costs)
            if code is None:
                crowded.append(row)
            else:
                placed[row, -1] = code
                taken.take((*prefix, code))
    for row in crowded:
        placed[row] = _elsewhere(items[row : row + 1], wanted[row], taken, distances)
        taken.take(tuple(placed[row].tolist()))
    return placed


def _elsewhere(item: np.ndarray, wanted: np.ndarray, taken: TakenCodes, distances: Distances) -> np.ndarray:
    """Codes `[levels]` of the nearest free SID under another prefix, as long a part of `wanted`'s kept as can be."""
    for level in reversed(range(len(wanted) - 1)):
        if not taken.free(tuple(wanted[:level].tolist())).any():
            continue
        codes = wanted.copy()
        for below in range(level, len(wanted)):
            code = taken.nearest(tuple(codes[:below].tolist()), distances(item, codes[None], below)[0])
            assert code is not None  # there was room above
            codes[below] = code
        return codes
    raise ValueError(
        f"all {prod(taken.level_sizes):,} SIDs of levels of {taken.level_sizes} codes are taken: an item would have "
        "to share one; build semantic ids with more levels or larger ones"
    )


def assign_last_codes(
    codes: np.ndarray, colliding: np.ndarray, prefix: np.ndarray, *, size: int, distances: Distances
) -> np.ndarray:
    """Other last codes for the colliding items of each prefix, at the least total distance and all at once.

    Args:
        codes (`np.ndarray`): `[items, levels]`.
        colliding (`np.ndarray`): `bool` `[items]`; the others keep their codes, which no item gets.
        prefix (`np.ndarray`): `[items]`, number of the item's prefix (all its codes but the last).
        size (`int`): of the last level, no less than the items of any prefix.
        distances (`Distances`): of these items.

    Returns:
        `np.ndarray`: `[items, levels]`.
    """
    codes = codes.copy()
    rows = np.flatnonzero(colliding)
    rows = rows[np.argsort(prefix[rows], kind="stable")]
    others = np.flatnonzero(~colliding)
    others = others[np.argsort(prefix[others], kind="stable")]
    starts = np.flatnonzero(np.diff(prefix[rows], prepend=-1))
    bounds = [np.searchsorted(prefix[others], prefix[rows[starts]], side) for side in ("left", "right")]
    ends = [*starts[1:].tolist(), len(rows)]
    costs, first = np.empty((0, size)), 0  # of rows[first:], as far as they reach
    for start, end, low, high in zip(starts.tolist(), ends, *bounds, strict=True):
        if end > first + len(costs):
            stop = max(end, min(start + max(1, ENTRIES // size), len(rows)))
            first, costs = start, distances(rows[start:stop], codes[rows[start:stop]], codes.shape[1] - 1)
        free = np.setdiff1d(np.arange(size), codes[others[low:high], -1], assume_unique=True)
        chosen = linear_sum_assignment(_finite(costs[start - first : end - first, free]))[1]
        codes[rows[start:end], -1] = free[chosen]
    return codes


def _finite(costs: np.ndarray) -> np.ndarray:
    """Costs with a large number for what is not finite, which the solver would refuse."""
    finite = np.isfinite(costs)
    if finite.all():
        return costs
    return np.where(finite, costs, 1e6 * (1 + np.abs(costs, where=finite, out=np.zeros_like(costs)).max()))
