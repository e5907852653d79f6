"""Behaviour beside text: item vectors that also know which items are chosen together."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from sklearn.decomposition import TruncatedSVD

from genrec_hf.data.cooccurrence import cooccurrence_counts


def cooccurrence_embeddings(
    sequences: Sequence[np.ndarray],
    embeddings: np.ndarray,
    weight: float,
    seed: int = 0,
    window: int = 10,
    width: int = 64,
) -> np.ndarray:
    """Text embeddings with a factorisation of co-occurrence beside them, for quantizers.

    `[(1 - w) e_i ; w v_i]`, both of length one, with `v` the first singular vectors of the positive pointwise mutual
    information `max(0, log c_ij C / (c_i c_j))` of items at most `window` events apart (Levy and Goldberg, 2014). An
    item without co-occurrences has `v_i = 0` and is placed by its text alone.

    Args:
        sequences (`Sequence[np.ndarray]`): training sequences of item rows, oldest first.
        embeddings (`np.ndarray`): text embeddings `[items, d]`.
        weight (`float`): `w`, from 0 (the embeddings come back as they are) to 1.
        seed (`int`, defaults to 0): of the factorisation.
        window (`int`, defaults to 10): events.
        width (`int`, defaults to 64): singular vectors.

    Returns:
        `np.ndarray`: `[items, d + width]` float32, or `[items, d]` with `weight=0`.
    """
    if weight == 0:
        return embeddings
    counts = cooccurrence_counts(sequences, len(embeddings), window).tocoo()
    if counts.nnz == 0:
        raise ValueError(f"behaviour weight {weight} and no training sequence of two items: nothing co-occurs; use 0")
    totals = np.asarray(counts.sum(axis=1)).ravel()
    information = np.log(counts.data * totals.sum() / (totals[counts.row] * totals[counts.col]))
    matrix = coo_matrix((np.maximum(information, 0), (counts.row, counts.col)), shape=counts.shape).tocsr()
    behaviour = TruncatedSVD(min(width, len(embeddings) - 1), random_state=seed).fit_transform(matrix)
    return np.concatenate([(1 - weight) * _unit(embeddings), weight * _unit(behaviour)], axis=1).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
