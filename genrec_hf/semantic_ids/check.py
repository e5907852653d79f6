"""The one check that embeddings pass before any quantizer sees them."""

import numpy as np


def check_embeddings(embeddings: np.ndarray, fewest: int, embedding_size: int | None = None) -> np.ndarray:
    """Embeddings `[items, d]` as float32, or an error that says what is wrong with them.

    Args:
        embeddings (`np.ndarray`): `[items, d]`.
        fewest (`int`): the fewest distinct rows that are enough; a codebook of 64 codes needs 64.
        embedding_size (`int`, *optional*): the `d` that the quantizer was fitted on.

    Raises:
        ValueError: on a wrong shape or width, NaN or infinite values, or too few distinct rows.
    """
    embeddings = np.asarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2 or embeddings.size == 0:
        raise ValueError(f"embeddings have shape {embeddings.shape}: pass [items, d] with at least one item")
    if embedding_size is not None and embeddings.shape[1] != embedding_size:
        raise ValueError(
            f"embeddings are {embeddings.shape[1]} wide, the quantizer was fitted on {embedding_size}: use the same encoder"
        )
    bad = ~np.isfinite(embeddings).all(axis=1)
    if bad.any():
        raise ValueError(
            f"the embedding of item row {int(np.argmax(bad))} is NaN or infinite ({int(bad.sum())} rows in all): "
            "k-means would spread it to every code; embed those items again"
        )
    if fewest > 1 and (distinct := _distinct(embeddings, fewest)) < fewest:
        raise ValueError(
            f"{distinct} distinct embeddings for a level of {fewest} codes: some codes "
            "could never be used; ask for fewer codes or give more items"
        )
    return embeddings


def _distinct(embeddings: np.ndarray, enough: int) -> int:
    """How many rows differ, or at least `enough`: a few rows tell as a rule, and a million take gigabytes to sort."""
    looked_at = 4 * enough
    while (found := len(np.unique(embeddings[:looked_at], axis=0))) < enough and looked_at < len(embeddings):
        looked_at *= 4
    return found
