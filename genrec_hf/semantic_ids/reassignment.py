"""Reassignment of colliding items to the nearest unassigned SIDs."""

from collections.abc import Callable
from math import prod

import numpy as np
from scipy.optimize import linear_sum_assignment

from genrec_hf.semantic_ids.sorting import sorted_codes

# `(items [n], codes [n, levels], level) -> [n, size of the level]`: the distance of each item from what its codes
# represent, with the code of that level replaced by each code in turn. `Quantizer.distances` returns one.
Distances = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
# Distances that are computed at once: 32 MiB in float64.
ENTRIES = 1 << 22


class AssignedSids:
    """The SIDs that are assigned to items, counted by prefix; a prefix is counted when first looked up.

    Args:
        codes (`np.ndarray`): assigned SIDs `[n, levels]`, `n` may be 0.
        level_sizes (`tuple[int, ...]`): sizes of the levels.

    Example:
        >>> assigned = AssignedSids(np.array([[0, 1], [1, 0], [1, 1]]), (2, 2))
        >>> assigned.has_unassigned(()).tolist(), assigned.has_unassigned((0,)).tolist()
        ([True, False], [True, False])
    """

    def __init__(self, codes: np.ndarray, level_sizes: tuple[int, ...]) -> None:
        self.level_sizes = level_sizes
        # int64, as the codes that are looked up: searchsorted would convert another type at every call.
        self._columns = [column.astype(np.int64, copy=False) for column in sorted_codes(codes)[1]]
        self._counts: dict[tuple[int, ...], np.ndarray] = {}
        self._capacities = [min(prod(level_sizes[level + 1 :]), 1 << 62) for level in range(len(level_sizes))]

    def has_unassigned(self, prefix: tuple[int, ...]) -> np.ndarray:
        """Return whether an unassigned SID remains under each code that may follow a prefix.

        Args:
            prefix (`tuple[int, ...]`): codes of the first levels, fewer than there are levels.

        Returns:
            `np.ndarray`: `bool` `[size of the next level]`.
        """
        return self._count(prefix) < self._capacities[len(prefix)]

    def nearest_unassigned(self, prefix: tuple[int, ...], distances: np.ndarray) -> int | None:
        """Return the nearest code after a prefix under which an unassigned SID remains.

        Args:
            prefix (`tuple[int, ...]`): codes of the first levels, fewer than there are levels.
            distances (`np.ndarray`): `[size of the next level]`; a value that is not finite ranks last.

        Returns:
            `int` or `None`: the code; `None` when all SIDs of the prefix are assigned.
        """
        codes = np.flatnonzero(self.has_unassigned(prefix))
        if len(codes) == 0:
            return None
        return int(codes[np.argmin(np.where(np.isfinite(distances[codes]), distances[codes], np.inf))])

    def assign(self, codes: tuple[int, ...]) -> None:
        """Mark an unassigned SID as assigned.

        Args:
            codes (`tuple[int, ...]`): one code per level.
        """
        # Count all prefixes before any count is raised: a new count covers the codes given to __init__ only.
        counts = [self._count(codes[:level]) for level in range(len(codes))]
        for count, code in zip(counts, codes, strict=True):
            count[code] += 1

    def _count(self, prefix: tuple[int, ...]) -> np.ndarray:
        if prefix not in self._counts:
            first, stop = 0, len(self._columns[0])
            for level, code in enumerate(prefix):
                start, column = first, self._columns[level][first:stop]
                first, stop = (start + int(np.searchsorted(column, code, side)) for side in ("left", "right"))
            next_codes = self._columns[len(prefix)][first:stop]
            self._counts[prefix] = np.bincount(next_codes, minlength=self.level_sizes[len(prefix)])
        return self._counts[prefix]


def reassign_items(
    items: np.ndarray, preferred_codes: np.ndarray, assigned: AssignedSids, *, distances: Distances
) -> np.ndarray:
    """Assign each item the unassigned SID nearest to the codes it prefers; items are served in the given order.

    An item gets the codes it prefers if they are unassigned; else the nearest unassigned last code under its prefix;
    else, after all others are assigned, the nearest second-to-last code with an unassigned SID below it, and so on
    upwards. "Nearest" keeps the codes of the other levels as they are.

    Args:
        items (`np.ndarray`): `[n]`, item numbers for `distances`, those with precedence first.
        preferred_codes (`np.ndarray`): `[n, levels]`.
        assigned (`AssignedSids`): with at least `n` unassigned SIDs; changed in place to include the result.
        distances (`Distances`): of these items.

    Returns:
        `np.ndarray`: `[n, levels]`, rows that differ from each other and from all assigned before.

    Raises:
        ValueError: when too few SIDs are unassigned.
    """
    codes, last_level = preferred_codes.copy(), preferred_codes.shape[1] - 1
    colliding_rows = []
    for row, preferred in enumerate(map(tuple, preferred_codes.tolist())):
        if assigned.has_unassigned(preferred[:-1])[preferred[-1]]:
            assigned.assign(preferred)
        else:
            colliding_rows.append(row)
    full_prefix_rows, batch = [], max(1, ENTRIES // assigned.level_sizes[-1])
    for start in range(0, len(colliding_rows), batch):
        rows = np.array(colliding_rows[start : start + batch])
        for row, costs in zip(rows.tolist(), distances(items[rows], preferred_codes[rows], last_level), strict=True):
            prefix = tuple(preferred_codes[row, :-1].tolist())
            code = assigned.nearest_unassigned(prefix, costs)
            if code is None:
                full_prefix_rows.append(row)
            else:
                codes[row, -1] = code
                assigned.assign((*prefix, code))
    for row in full_prefix_rows:
        codes[row] = _find_under_other_prefix(items[row : row + 1], preferred_codes[row], assigned, distances)
        assigned.assign(tuple(codes[row].tolist()))
    return codes


def _find_under_other_prefix(
    item: np.ndarray, preferred_codes: np.ndarray, assigned: AssignedSids, distances: Distances
) -> np.ndarray:
    """Find the nearest unassigned SID `[levels]` that keeps as many leading codes as possible."""
    for level in reversed(range(len(preferred_codes) - 1)):
        if not assigned.has_unassigned(tuple(preferred_codes[:level].tolist())).any():
            continue
        codes = preferred_codes.copy()
        for lower_level in range(level, len(preferred_codes)):
            prefix = tuple(codes[:lower_level].tolist())
            code = assigned.nearest_unassigned(prefix, distances(item, codes[None], lower_level)[0])
            assert code is not None  # an unassigned SID remains under every code chosen so far
            codes[lower_level] = code
        return codes
    raise ValueError(
        f"all {prod(assigned.level_sizes):,} SIDs of level sizes {assigned.level_sizes} are assigned, so none is left "
        "for this item: build semantic ids with more or larger levels"
    )


def assign_last_codes(
    codes: np.ndarray, colliding: np.ndarray, prefix: np.ndarray, *, size: int, distances: Distances
) -> np.ndarray:
    """Assign last codes to the colliding items of each prefix jointly, at the least total distance.

    Args:
        codes (`np.ndarray`): `[items, levels]`.
        colliding (`np.ndarray`): `bool` `[items]`; the other items keep their codes, which no colliding item gets.
        prefix (`np.ndarray`): `[items]`, number of the item's prefix (all its codes but the last).
        size (`int`): of the last level, at least the number of items of any prefix.
        distances (`Distances`): of these items.

    Returns:
        `np.ndarray`: `[items, levels]`.
    """
    codes = codes.copy()
    rows = np.flatnonzero(colliding)
    rows = rows[np.argsort(prefix[rows], kind="stable")]
    fixed_rows = np.flatnonzero(~colliding)
    fixed_rows = fixed_rows[np.argsort(prefix[fixed_rows], kind="stable")]
    starts = np.flatnonzero(np.diff(prefix[rows], prepend=-1))
    bounds = [np.searchsorted(prefix[fixed_rows], prefix[rows[starts]], side) for side in ("left", "right")]
    ends = [*starts[1:].tolist(), len(rows)]
    costs, first = np.empty((0, size)), 0  # `costs` are those of rows[first : first + len(costs)]
    for start, end, low, high in zip(starts.tolist(), ends, *bounds, strict=True):
        if end > first + len(costs):
            stop = max(end, min(start + max(1, ENTRIES // size), len(rows)))
            first, costs = start, distances(rows[start:stop], codes[rows[start:stop]], codes.shape[1] - 1)
        unassigned = np.setdiff1d(np.arange(size), codes[fixed_rows[low:high], -1], assume_unique=True)
        chosen = linear_sum_assignment(_replace_non_finite(costs[start - first : end - first, unassigned]))[1]
        codes[rows[start:end], -1] = unassigned[chosen]
    return codes


def _replace_non_finite(costs: np.ndarray) -> np.ndarray:
    """Replace values that are not finite, which the solver refuses, by one larger than all others."""
    finite = np.isfinite(costs)
    if finite.all():
        return costs
    return np.where(finite, costs, 1e6 * (1 + np.abs(costs, where=finite, out=np.zeros_like(costs)).max()))
