"""SIDs for items that come later: the frozen quantizer's codes, or the nearest that are free."""

from math import prod

import numpy as np
from numpy.typing import ArrayLike

from genrec_hf.semantic_ids.quantizer import Quantizer
from genrec_hf.semantic_ids.reassignment import TakenCodes, reassign_items


def read_new_items(
    number: int, embeddings: ArrayLike, events: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Embeddings `[number, d]` and event counts `[number]` of new items, as arrays of numbers.

    Raises:
        ValueError: on another number of them, or on what is no number.
    """
    try:
        vectors, counts = np.asarray(embeddings), None if events is None else np.asarray(events)
    except ValueError:
        raise ValueError(
            "got embeddings or events of several lengths: pass embeddings [n, d] and events [n]"
        ) from None
    for name, values in (("embeddings", vectors), ("events", counts)):
        if values is not None and (values.ndim == 0 or values.dtype.kind not in "fiu"):
            raise ValueError(f"got {name} of shape {values.shape} and dtype {values.dtype}: pass a number an entry")
    if len(vectors) != number or (counts is not None and counts.shape != (number,)):
        told = "no" if counts is None else str(counts.size)
        raise ValueError(f"{number} item ids, {len(vectors)} embeddings, {told} event counts: they go by row")
    if counts is not None and not np.isfinite(counts).all():
        raise ValueError("got events with NaN or infinite counts, which have no order: pass 0 for none")
    return vectors, counts


def codes_of_new_items(
    codes: np.ndarray,
    level_sizes: tuple[int, ...],
    *,
    quantizer: Quantizer,
    embeddings: np.ndarray,
    events: np.ndarray | None = None,
    shared: bool = False,
    seed: int | None = None,
) -> np.ndarray:
    """Codes for new items that keep clear of those that are there, within the same level sizes.

    Args:
        codes (`np.ndarray`): of the catalogue `[items, levels]`.
        level_sizes (`tuple[int, ...]`): its level sizes; those of the quantizer, and maybe one for an extra level.
        quantizer (`Quantizer`): fitted, never changed.
        embeddings (`np.ndarray`): of the new items `[n, d]`.
        events (`np.ndarray`, *optional*): `[n]`, the more popular comes first when codes are taken.
        shared (`bool`, defaults to `False`): give the quantizer's codes, taken or not.
        seed (`int`, *optional*): draw codes of the extra level at random; without it the lowest that is free is given.

    Returns:
        `np.ndarray`: `[n, levels]`.

    Raises:
        ValueError: on embeddings of another width or with NaN, or when too few SIDs are free.
    """
    embeddings, levels = np.asarray(embeddings), len(quantizer.level_sizes)
    if (
        embeddings.ndim == 2
        and quantizer.embedding_size is not None
        and embeddings.shape[1] != quantizer.embedding_size
    ):
        raise ValueError(
            f"embeddings are {embeddings.shape[1]} wide, the quantizer was fitted on {quantizer.embedding_size}: use the same "
            "encoder; where it was fitted on text and behaviour, cold_embeddings(embeddings, weight, "
            f"components={quantizer.embedding_size - embeddings.shape[1]})"
        )
    new, free = quantizer.encode(embeddings), prod(level_sizes) - len(codes)
    if shared:
        if levels < len(level_sizes):
            raise ValueError("these SIDs are shared and have an extra level, whose code for a new item nothing tells")
        return new
    if len(new) > free:
        raise ValueError(
            f"{len(new):,} new items for the {free:,} SIDs that are free on levels of {level_sizes} codes: build "
            "semantic ids with more room (resolve_collisions(..., reserved_codes=...)) and train again"
        )
    rng = None if seed is None else np.random.default_rng(seed)
    near = quantizer.distances(embeddings)

    def distances(items: np.ndarray, rows: np.ndarray, level: int) -> np.ndarray:
        if level < levels and near is not None:
            return near(items, rows[:, :levels], level)
        if level == levels and rng is not None:
            return rng.random((len(items), level_sizes[level]))
        return np.broadcast_to(np.arange(level_sizes[level]), (len(items), level_sizes[level]))

    first = np.zeros(len(new), dtype=np.int64) if rng is None else rng.integers(level_sizes[-1], size=len(new))
    wanted = np.column_stack([new, first])[:, : len(level_sizes)]
    order = np.arange(len(new)) if events is None else np.argsort(-np.asarray(events, dtype=np.float64), kind="stable")
    wanted[order] = reassign_items(order, wanted[order], TakenCodes(codes, level_sizes), distances=distances)
    return wanted
