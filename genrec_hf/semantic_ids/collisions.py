"""Resolution of collisions: gives items that share all their codes distinct SIDs."""

from math import prod
from typing import Literal, get_args

import numpy as np

from genrec_hf.checks import check_choice
from genrec_hf.semantic_ids.reassignment import AssignedSids, Distances, assign_last_codes, reassign_items

Strategy = Literal["extra-level", "random-level", "nearest", "sinkhorn", "none"]


def resolve_collisions(
    codes: np.ndarray,
    level_sizes: tuple[int, ...],
    events: np.ndarray | None = None,
    *,
    strategy: str = "extra-level",
    distances: Distances | np.ndarray | None = None,
    extra_size: int | None = None,
    reserved_codes: int = 0,
    seed: int = 0,
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Give items that share all their codes distinct SIDs; codes that are all unique stay as they are.

    A group below is the items that share all their codes; a prefix is all codes of an item but the last.

    - `"extra-level"`: one more level numbers the items of a group (TIGER, arXiv:2305.05065, section 3.1). Unlike the
      paper's, the level is as large as the largest group, and with `events` the items are numbered by popularity, so
      that the number is informative: 0 is the most popular item of its group.
    - `"random-level"`: one more level whose codes are sampled at random, without repetition in a group (GR2,
      arXiv:2602.07774), so that they carry no information; the level is 1.5 times as large as the largest group.
    - `"nearest"`: the most popular item of each group keeps its codes; the others get, in order of popularity, the
      nearest unassigned last code under their prefix, or, where all of them are assigned, the nearest second-to-last
      code with an unassigned SID below it, and so on upwards. This is close to MQL4GRec's code, where the item nearest
      to the codes keeps them.
    - `"sinkhorn"`: the items of colliding groups are assigned to the unassigned last codes of their prefix by optimal
      transport (uniform semantic mapping of LC-Rec, arXiv:2311.09049). LC-Rec runs Sinkhorn-Knopp for each group and
      repeats it until no item collides or it gives up; here each code gets at most one item and the transport is
      solved exactly (the limit of zero entropy, `scipy.optimize.linear_sum_assignment`), so that one pass suffices.
      Prefixes never change.
    - `"none"`: codes stay as they are, for `SemanticIds(..., shared=True)`: several items may have the same SID.

    Under `"nearest"` and `"sinkhorn"` items that do not collide keep their codes, and SIDs keep their length.

    Args:
        codes (`np.ndarray`): `[items, levels]`.
        level_sizes (`tuple[int, ...]`): sizes of these levels.
        events (`np.ndarray`, *optional*): number of training events of each item `[items]`, its popularity; without
            it, and among items with equal counts, row order decides.
        strategy (`str`, defaults to `"extra-level"`): one of the above.
        distances (`Distances` or `np.ndarray`, *optional*): `quantizer.distances(embeddings)`, or an array `[items,
            last level size]` of distances to the last codes, which suffices as long as no prefix has more items than
            last codes; required by `"nearest"` and `"sinkhorn"`, ignored by the others.
        extra_size (`int`, *optional*): number of codes of the extra level, instead of the sizes above.
        reserved_codes (`int`, defaults to 0): additional codes of the extra level, for new items (`SemanticIds.add`).
            With this or `extra_size` the level is added even when all codes are unique. Under `"extra-level"` no item
            has a reserved code in training, so its token embedding stays as initialized; under `"random-level"` codes
            are sampled from the whole level, reserved ones included.
        seed (`int`, defaults to 0): random seed of `"random-level"`.

    Returns:
        `tuple[np.ndarray, tuple[int, ...]]`: codes `[items, levels]` or `[items, levels + 1]`, int64, with unique rows
        except under `"none"`, and their level sizes.

    Raises:
        ValueError: when there are too few SIDs for the items, what the strategy needs is missing, or an argument has
            another shape or is out of range.

    Example:
        >>> resolve_collisions(np.array([[3, 1], [0, 2], [3, 1]]), (4, 4))[0].tolist()
        [[3, 1, 0], [0, 2, 0], [3, 1, 1]]
    """
    codes, level_sizes = np.asarray(codes), tuple(int(size) for size in level_sizes)
    _check(codes, level_sizes, events, strategy, extra_size, reserved_codes)
    codes = codes.astype(np.int64, copy=False)
    group = _number_rows(codes)
    sizes = np.bincount(group)
    if strategy == "none" or (sizes.max() == 1 and not reserved_codes and extra_size is None):
        return codes, level_sizes
    if strategy in ("extra-level", "random-level"):
        extra = (sizes.max() + 1) // 2 + sizes.max() if strategy == "random-level" else sizes.max()
        extra = int(extra if extra_size is None else extra_size)
        if extra < sizes.max():
            raise ValueError(
                f"got extra_size={extra} for a group of {sizes.max()} items with the same codes: pass at least "
                f"{sizes.max()}"
            )
        extra += reserved_codes
        extra_codes = _rank_in_group(group, events) if strategy == "extra-level" else _sample_codes(group, extra, seed)
        return np.column_stack([codes, extra_codes]), (*level_sizes, extra)
    distance_function = _as_function(distances, codes, level_sizes, strategy)
    if strategy == "sinkhorn":
        prefix = _number_rows(codes[:, :-1])
        _refuse_overfull_prefixes(codes, prefix, level_sizes)
        resolved = assign_last_codes(
            codes, sizes[group] > 1, prefix, size=level_sizes[-1], distances=distance_function
        )
        return resolved, level_sizes
    if len(codes) > prod(level_sizes):
        raise ValueError(
            f"{len(codes):,} items for the {prod(level_sizes):,} SIDs of level sizes {level_sizes}: use more or "
            "larger levels, or strategy='extra-level'"
        )
    reassigned = np.flatnonzero(_rank_in_group(group, events) > 0)
    reassigned = reassigned[np.argsort(-_popularity(events, len(codes))[reassigned], kind="stable")]
    assigned = AssignedSids(np.delete(codes, reassigned, 0), level_sizes)
    resolved = codes.copy()
    resolved[reassigned] = reassign_items(reassigned, codes[reassigned], assigned, distances=distance_function)
    return resolved, level_sizes


def _check(
    codes: np.ndarray,
    level_sizes: tuple[int, ...],
    events: np.ndarray | None,
    strategy: str,
    extra_size: int | None,
    reserved_codes: int,
) -> None:
    check_choice("strategy", strategy, get_args(Strategy))
    integers = np.issubdtype(codes.dtype, np.integer)
    if not integers or codes.ndim != 2 or codes.size == 0 or codes.shape[1] != len(level_sizes):
        raise ValueError(
            f"got codes of shape {codes.shape} and dtype {codes.dtype} for level sizes {level_sizes}: pass integers "
            "[items, levels], with at least one item"
        )
    if codes.min() < 0 or (codes >= np.array(level_sizes)).any():
        raise ValueError(
            f"got codes from {codes.min(axis=0)} to {codes.max(axis=0)}, outside of the level sizes {level_sizes}: "
            "pass the level sizes of the quantizer that encoded these items"
        )
    if events is not None and len(events) != len(codes):
        raise ValueError(f"got {len(events)} event counts for {len(codes)} items: pass one for each item")
    if reserved_codes < 0:
        raise ValueError(f"got reserved_codes={reserved_codes}: it must be at least 0")
    if (reserved_codes or extra_size is not None) and strategy not in ("extra-level", "random-level"):
        raise ValueError(
            f"got reserved_codes={reserved_codes} and extra_size={extra_size} with strategy={strategy!r}, which adds "
            "no level: leave them out, or pass strategy='extra-level'"
        )


def _number_rows(codes: np.ndarray) -> np.ndarray:
    """Return a number `[items]` for each row of codes, equal for equal rows, in lexicographic order."""
    row_numbers = np.zeros(len(codes), dtype=np.int64)
    for column in codes.T:
        row_numbers = np.unique(row_numbers * (int(column.max()) + 1) + column, return_inverse=True)[1].reshape(-1)
    return row_numbers


def _popularity(events: np.ndarray | None, items: int) -> np.ndarray:
    return np.zeros(items) if events is None else np.asarray(events, dtype=np.float64)


def _rank_in_group(group: np.ndarray, events: np.ndarray | None) -> np.ndarray:
    """Return the rank `[items]` of each item in its group, from 0: the most popular first, equal ones by row."""
    order = np.lexsort((-_popularity(events, len(group)), group))
    starts = np.concatenate([[0], np.flatnonzero(np.diff(group[order])) + 1])
    ranks = np.empty(len(group), dtype=np.int64)
    ranks[order] = np.arange(len(group)) - np.repeat(starts, np.diff([*starts, len(group)]))
    return ranks


def _sample_codes(group: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Sample codes `[items]` below `size` uniformly, without repetition in a group."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(size, size=len(group))
    order = np.argsort(group * size + codes, kind="stable")
    sorted_pairs = (group * size + codes)[order]
    # Groups that got a code twice are sampled again, without replacement.
    repeating_groups = np.unique(group[order[1:]][sorted_pairs[1:] == sorted_pairs[:-1]])
    low, high = (np.searchsorted(group[order], repeating_groups, side) for side in ("left", "right"))
    for start, stop in zip(low.tolist(), high.tolist(), strict=True):
        codes[order[start:stop]] = rng.choice(size, stop - start, replace=False)
    return codes


def _as_function(
    distances: Distances | np.ndarray | None, codes: np.ndarray, level_sizes: tuple[int, ...], strategy: str
) -> Distances:
    if distances is None:
        raise ValueError(
            f"strategy={strategy!r} needs distances: pass distances=quantizer.distances(embeddings), or "
            "strategy='extra-level' for a quantizer that has none"
        )
    if callable(distances):
        return distances
    table = np.asarray(distances)
    if table.shape != (len(codes), level_sizes[-1]) or np.isnan(table).any():
        raise ValueError(
            f"got distances of shape {table.shape}, or with NaN, for {len(codes)} items and {level_sizes[-1]} last "
            "codes: pass numbers [items, last level size]"
        )

    def last_level_distances(items: np.ndarray, rows: np.ndarray, level: int) -> np.ndarray:
        if level < len(level_sizes) - 1:
            raise ValueError(
                f"the prefix {tuple(rows[0, :-1].tolist())} of item row {items[0]} has more items than the "
                f"{level_sizes[-1]} codes of the last level, and an array of distances covers no other prefix: pass "
                "distances=quantizer.distances(embeddings), or strategy='extra-level'"
            )
        return table[items]

    return last_level_distances


def _refuse_overfull_prefixes(codes: np.ndarray, prefix: np.ndarray, level_sizes: tuple[int, ...]) -> None:
    items = np.bincount(prefix)
    overfull = int((items > level_sizes[-1]).sum())
    if overfull:
        row = int(np.argmax(prefix == items.argmax()))
        raise ValueError(
            f"{overfull} prefixes have more items than the {level_sizes[-1]} codes of the last level, at most "
            f"{items.max()} (prefix {tuple(codes[row, :-1].tolist())}), so last codes cannot distinguish them: use a "
            "larger last level, or strategy='extra-level' or 'nearest'"
        )
