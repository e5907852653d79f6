"""Collision resolution: from codes that items may share to a SID of its own for every item."""

from math import prod
from typing import Literal, get_args

import numpy as np

from genrec_hf.checks import check_choice
from genrec_hf.semantic_ids.reassignment import Distances, TakenCodes, assign_last_codes, reassign_items

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
    """Give items that share their codes SIDs of their own; codes that are all unique stay as they are.

    - `"extra-level"`: one more level numbers the items of a group (TIGER, arXiv:2305.05065, section 3.1). Unlike the
      paper's, the level is as large as the largest group, and with `events` the items are numbered by popularity, so
      that a number means something to the model: 0 is the group's favourite.
    - `"random-level"`: one more level whose codes are drawn at random, no two alike in a group (GR2,
      arXiv:2602.07774), so that a code means nothing; the level is half as large again as the largest group.
    - `"nearest"`: the most popular item of each group keeps its codes, the others take, by popularity, the nearest
      last code that is free under their prefix; where the prefix is full, the nearest second-to-last code with room
      below it, and so on upwards. Near to what MQL4GRec's code does, where the item nearest to the codes keeps them.
    - `"sinkhorn"`: the items of colliding groups are spread over the free last codes of their prefix by optimal
      transport (uniform semantic mapping of LC-Rec, arXiv:2311.09049). LC-Rec runs Sinkhorn-Knopp a group and repeats
      it until no item collides or it gives up; here each code takes at most one item and the transport is solved
      exactly (the limit of no entropy, `scipy.optimize.linear_sum_assignment`), so that one pass suffices. Prefixes
      never change.
    - `"none"`: codes stay as they are, for `SemanticIds(..., shared=True)`: several items may have one SID.

    Under `"nearest"` and `"sinkhorn"` items without collision never change, and SIDs keep their length.

    Args:
        codes (`np.ndarray`): `[items, levels]`.
        level_sizes (`tuple[int, ...]`): sizes of these levels.
        events (`np.ndarray`, *optional*): training events of each item `[items]`; without it, and among equals, items
            of a group are taken in row order.
        strategy (`str`, defaults to `"extra-level"`): one of the above.
        distances (`Distances` or `np.ndarray`, *optional*): `quantizer.distances(embeddings)`, or an array `[items,
            last size]` of distances to the last codes, which serves as long as no prefix is full; for `"nearest"` and
            `"sinkhorn"`.
        extra_size (`int`, *optional*): codes of the extra level, instead of the sizes above.
        spare (`int`, defaults to 0): more codes of the extra level, for new items (`SemanticIds.add`). With either of
            the two the level is there even when all codes are unique. No item carries a spare number in training, so
            its token stays as it was initialised; under `"random-level"` items carry all codes, spare ones too.
        seed (`int`, defaults to 0): of `"random-level"`.

    Returns:
        `tuple`: codes `[items, levels]` or `[items, levels + 1]`, unique but for `"none"`, and their level sizes.

    Raises:
        ValueError: when there are too few codes for the items, or what the strategy needs is missing.

    Example:
        >>> resolve_collisions(np.array([[3, 1], [0, 2], [3, 1]]), (4, 4))[0].tolist()
        [[3, 1, 0], [0, 2, 0], [3, 1, 1]]
    """
    codes, level_sizes = np.asarray(codes), tuple(int(size) for size in level_sizes)
    _check(codes, level_sizes, events, strategy, extra_size, reserved_codes)
    codes = codes.astype(np.int64, copy=False)
    group = _number(codes)
    sizes = np.bincount(group)
    if strategy == "none" or (sizes.max() == 1 and not reserved_codes and extra_size is None):
        return codes, level_sizes
    if strategy in ("extra-level", "random-level"):
        extra = (sizes.max() + 1) // 2 + sizes.max() if strategy == "random-level" else sizes.max()
        extra = int(extra if extra_size is None else extra_size)
        if extra < sizes.max():
            raise ValueError(f"extra_size={extra} for a group of {sizes.max()} items: pass that many or more")
        extra += reserved_codes
        number = _place_in_group(group, events) if strategy == "extra-level" else _draw(group, extra, seed)
        return np.column_stack([codes, number]), (*level_sizes, extra)
    near = _as_function(distances, codes, level_sizes, strategy)
    if strategy == "sinkhorn":
        prefix = _number(codes[:, :-1])
        _refuse_crowded_prefixes(codes, prefix, level_sizes)
        return assign_last_codes(codes, sizes[group] > 1, prefix, size=level_sizes[-1], distances=near), level_sizes
    if len(codes) > prod(level_sizes):
        raise ValueError(
            f"{len(codes):,} items for the {prod(level_sizes):,} SIDs of levels of {level_sizes} codes: use more "
            "levels or larger ones, or strategy='extra-level'"
        )
    movers = np.flatnonzero(_place_in_group(group, events) > 0)
    movers = movers[np.argsort(-_popularity(events, len(codes))[movers], kind="stable")]
    resolved = codes.copy()
    resolved[movers] = reassign_items(
        movers, codes[movers], TakenCodes(np.delete(codes, movers, 0), level_sizes), distances=near
    )
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
    whole = np.issubdtype(codes.dtype, np.integer)
    if not whole or codes.ndim != 2 or codes.size == 0 or codes.shape[1] != len(level_sizes):
        raise ValueError(
            f"codes of shape {codes.shape} and {codes.dtype} for level sizes {level_sizes}: pass [items, levels] of "
            "whole codes"
        )
    if codes.min() < 0 or (codes >= np.array(level_sizes)).any():
        raise ValueError(f"codes go from {codes.min(axis=0)} to {codes.max(axis=0)}, beyond the levels {level_sizes}")
    if events is not None and len(events) != len(codes):
        raise ValueError(f"{len(events)} event counts for {len(codes)} items: pass one for each")
    if reserved_codes < 0:
        raise ValueError(
            f"reserved_codes={reserved_codes}: the extra level cannot be smaller than the largest group; pass 0 or more"
        )
    if (reserved_codes or extra_size is not None) and strategy not in ("extra-level", "random-level"):
        raise ValueError(f"strategy={strategy!r} adds no level that reserved_codes or extra_size could make larger")


def _number(codes: np.ndarray) -> np.ndarray:
    """For each row of `codes`, the number `[items]` of its codes in lexicographic order."""
    number = np.zeros(len(codes), dtype=np.int64)
    for column in codes.T:
        number = np.unique(number * (int(column.max()) + 1) + column, return_inverse=True)[1].reshape(-1)
    return number


def _popularity(events: np.ndarray | None, items: int) -> np.ndarray:
    return np.zeros(items) if events is None else np.asarray(events, dtype=np.float64)


def _place_in_group(group: np.ndarray, events: np.ndarray | None) -> np.ndarray:
    """For each item `[items]`, how many of its group come before it: the more popular, and among equals by row."""
    order = np.lexsort((-_popularity(events, len(group)), group))
    starts = np.concatenate([[0], np.flatnonzero(np.diff(group[order])) + 1])
    number = np.empty(len(group), dtype=np.int64)
    number[order] = np.arange(len(group)) - np.repeat(starts, np.diff([*starts, len(group)]))
    return number


def _draw(group: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Random codes `[items]` below `size`, no two alike in a group; every such draw is as likely as another."""
    rng = np.random.default_rng(seed)
    number = rng.integers(size, size=len(group))
    order = np.argsort(group * size + number, kind="stable")
    drawn = (group * size + number)[order]
    # Groups that drew a code twice draw again, without replacement.
    again = np.unique(group[order[1:]][drawn[1:] == drawn[:-1]])
    low, high = (np.searchsorted(group[order], again, side) for side in ("left", "right"))
    for start, stop in zip(low.tolist(), high.tolist(), strict=True):
        number[order[start:stop]] = rng.choice(size, stop - start, replace=False)
    return number


def _as_function(
    distances: Distances | np.ndarray | None, codes: np.ndarray, level_sizes: tuple[int, ...], strategy: str
) -> Distances:
    if distances is None:
        raise ValueError(
            f"strategy={strategy!r} needs distances: pass quantizer.distances(embeddings); it is None for quantizers "
            "whose codes stand for no embedding, for which 'extra-level' serves"
        )
    if callable(distances):
        return distances
    table = np.asarray(distances)
    if table.shape != (len(codes), level_sizes[-1]) or np.isnan(table).any():
        raise ValueError(
            f"distances of shape {table.shape}, or with NaN, for {len(codes)} items and {level_sizes[-1]} last codes: "
            "pass [items, last size] of numbers"
        )

    def of_the_last_level(items: np.ndarray, rows: np.ndarray, level: int) -> np.ndarray:
        if level < len(level_sizes) - 1:
            raise ValueError(
                f"the prefix {tuple(rows[0, :-1].tolist())} of item row {items[0]} has more items than the "
                f"{level_sizes[-1]} codes of the last level, and an array of distances knows no other prefix: pass "
                "distances=quantizer.distances(embeddings), or strategy='extra-level'"
            )
        return table[items]

    return of_the_last_level


def _refuse_crowded_prefixes(codes: np.ndarray, prefix: np.ndarray, level_sizes: tuple[int, ...]) -> None:
    items = np.bincount(prefix)
    crowded = int((items > level_sizes[-1]).sum())
    if crowded:
        row = int(np.argmax(prefix == items.argmax()))
        raise ValueError(
            f"{crowded} prefixes hold more items than the {level_sizes[-1]} codes of the last level, the fullest "
            f"{tuple(codes[row, :-1].tolist())} {items.max()}: no assignment of last codes can tell them apart; use a "
            "larger last level, or strategy='extra-level' or 'nearest'"
        )
