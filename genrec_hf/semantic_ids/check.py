"""Validation of embeddings, shared by all quantizers."""

import numpy as np


def check_embeddings(embeddings: np.ndarray, min_distinct: int, embedding_size: int | None = None) -> np.ndarray:
    """Return embeddings as float32, or raise where a quantizer cannot use them.

    Args:
        embeddings (`np.ndarray`): `[items, d]`.
        min_distinct (`int`): number of distinct rows that are needed; a codebook of 64 codes needs 64.
        embedding_size (`int`, *optional*): the `d` that the quantizer was fitted on.

    Returns:
        `np.ndarray`: `[items, d]`, float32.

    Raises:
        ValueError: on another shape or another `d`, NaN or infinite values, or too few distinct rows.
    """
    embeddings = np.asarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2 or embeddings.size == 0:
        raise ValueError(f"embeddings have shape {embeddings.shape}: pass [items, d] with at least one item")
    if embedding_size is not None and embeddings.shape[1] != embedding_size:
        raise ValueError(
            f"embeddings are {embeddings.shape[1]} wide, the quantizer was fitted on {embedding_size}: use the same "
            "encoder"
        )
    invalid_rows = ~np.isfinite(embeddings).all(axis=1)
    if invalid_rows.any():
        raise ValueError(
            f"the embedding of item row {int(np.argmax(invalid_rows))} is NaN or infinite ({int(invalid_rows.sum())} "
            "rows in all), which would make the whole codebook NaN: embed those items again"
        )
    if min_distinct > 1 and (distinct := _count_distinct(embeddings, min_distinct)) < min_distinct:
        raise ValueError(
            f"{distinct} distinct embeddings for a level of {min_distinct} codes: some codes would never be used; "
            "set smaller level_sizes or pass more items"
        )
    return embeddings


def _count_distinct(embeddings: np.ndarray, limit: int) -> int:
    """Count distinct rows, and stop once there are at least `limit`: sorting a million rows would take gigabytes."""
    rows = 4 * limit
    while (distinct := len(np.unique(embeddings[:rows], axis=0))) < limit and rows < len(embeddings):
        rows *= 4
    return distinct
