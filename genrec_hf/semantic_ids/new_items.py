"""SIDs of items that are added to a catalogue: the codes of the fitted quantizer, or the nearest unassigned ones."""

from math import prod

import numpy as np
from numpy.typing import ArrayLike

from genrec_hf.semantic_ids.quantizer import Quantizer
from genrec_hf.semantic_ids.reassignment import AssignedSids, reassign_items


def read_new_items(
    count: int, embeddings: ArrayLike, events: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert the embeddings and event counts of new items to arrays.

    Args:
        count (`int`): number of new items.
        embeddings (`ArrayLike`): numbers `[count, d]`.
        events (`ArrayLike`, *optional*): finite numbers `[count]`.

    Returns:
        `tuple[np.ndarray, np.ndarray | None]`: embeddings `[count, d]`, event counts `[count]` or `None`.

    Raises:
        ValueError: when there are not `count` of them, values are not numbers, or an event count is not finite.
    """
    try:
        vectors, event_counts = np.asarray(embeddings), None if events is None else np.asarray(events)
    except ValueError:
        raise ValueError(
            "got embeddings or events of several lengths: pass embeddings [n, d] and events [n]"
        ) from None
    for name, values in (("embeddings", vectors), ("events", event_counts)):
        if values is not None and (values.ndim == 0 or values.dtype.kind not in "fiu"):
            raise ValueError(f"got {name} of shape {values.shape} and dtype {values.dtype}: pass an array of numbers")
    if len(vectors) != count or (event_counts is not None and event_counts.shape != (count,)):
        shape = "no events" if event_counts is None else f"events of shape {event_counts.shape}"
        raise ValueError(f"got {count} item ids, {len(vectors)} embeddings and {shape}: pass one row for each item")
    if event_counts is not None and not np.isfinite(event_counts).all():
        raise ValueError(
            "got events with NaN or infinite counts, which cannot be ordered: pass 0 for an unknown count"
        )
    return vectors, event_counts


def codes_of_new_items(
    codes: np.ndarray,
    level_sizes: tuple[int, ...],
    *,
    quantizer: Quantizer | None,
    embeddings: np.ndarray,
    events: np.ndarray | None = None,
    shared: bool = False,
    seed: int | None = None,
) -> np.ndarray:
    """Return codes for new items that no item of the catalogue has, within the same level sizes.

    Args:
        codes (`np.ndarray`): codes of the catalogue `[items, levels]`.
        level_sizes (`tuple[int, ...]`): its level sizes: those of the quantizer, and possibly one of an extra level.
        quantizer (`Quantizer` or `None`): fitted; it is not changed.
        embeddings (`np.ndarray`): of the new items `[n, d]`.
        events (`np.ndarray`, *optional*): event counts `[n]`; items with more events have precedence where codes
            collide. Without it, row order decides.
        shared (`bool`, defaults to `False`): return the codes of the quantizer, even if other items have them.
        seed (`int`, *optional*): random seed for sampling codes of the extra level; without it an item gets the lowest
            unassigned one.

    Returns:
        `np.ndarray`: `[n, levels]`, int64.

    Raises:
        ValueError: without a quantizer, on embeddings of another width or with NaN, when too few SIDs are unassigned,
            or when `shared` SIDs have an extra level.
    """
    if quantizer is None:
        raise ValueError(
            "these semantic ids have no quantizer to encode new items: build them with SemanticIds(..., "
            "quantizer=quantizer)"
        )
    embeddings, levels = np.asarray(embeddings), len(quantizer.level_sizes)
    if (
        embeddings.ndim == 2
        and quantizer.embedding_size is not None
        and embeddings.shape[1] != quantizer.embedding_size
    ):
        raise ValueError(
            f"embeddings are {embeddings.shape[1]} wide, the quantizer was fitted on {quantizer.embedding_size}: use "
            "the same encoder, or, if it was fitted on text and behavior, pass cold_embeddings(embeddings, weight, "
            f"components={quantizer.embedding_size - embeddings.shape[1]})"
        )
    quantizer_codes, unassigned = quantizer.encode(embeddings), prod(level_sizes) - len(codes)
    if shared:
        if levels < len(level_sizes):
            raise ValueError(
                "these SIDs are shared and have an extra level, for which the quantizer gives no code: build semantic "
                "ids without shared=True, or without the extra level"
            )
        return quantizer_codes
    if len(quantizer_codes) > unassigned:
        raise ValueError(
            f"{len(quantizer_codes):,} new items for the {unassigned:,} unassigned SIDs of level sizes {level_sizes}: "
            "build semantic ids with resolve_collisions(..., reserved_codes=...) and train again"
        )
    rng = None if seed is None else np.random.default_rng(seed)
    quantizer_distances = quantizer.distances(embeddings)

    def distances(items: np.ndarray, rows: np.ndarray, level: int) -> np.ndarray:
        if level < levels and quantizer_distances is not None:
            return quantizer_distances(items, rows[:, :levels], level)
        if level == levels and rng is not None:
            return rng.random((len(items), level_sizes[level]))
        return np.broadcast_to(np.arange(level_sizes[level]), (len(items), level_sizes[level]))

    count = len(quantizer_codes)
    extra_codes = np.zeros(count, dtype=np.int64) if rng is None else rng.integers(level_sizes[-1], size=count)
    new_codes = np.column_stack([quantizer_codes, extra_codes])[:, : len(level_sizes)]
    order = np.arange(count) if events is None else np.argsort(-np.asarray(events, dtype=np.float64), kind="stable")
    new_codes[order] = reassign_items(order, new_codes[order], AssignedSids(codes, level_sizes), distances=distances)
    return new_codes
