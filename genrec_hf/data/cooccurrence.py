"""Counts items and their co-occurrences in training sequences, for similar items and item vectors."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix


def item_counts(sequences: Sequence[np.ndarray], items: int) -> np.ndarray:
    """Count the events of each item, `[items]`.

    Example:
        >>> item_counts([np.array([0, 1, 0])], items=3).tolist()
        [2, 1, 0]
    """
    return np.bincount(np.concatenate([np.empty(0, dtype=np.int64), *sequences]), minlength=items)


def cooccurrence_counts(sequences: Sequence[np.ndarray], items: int, window: int) -> csr_matrix:
    """Count, for each pair of items, the times they stand at most `window` events apart in a user's sequence.

    Args:
        sequences (`Sequence[np.ndarray]`): item rows, oldest first, one array a user.
        items (`int`): size of the catalogue.
        window (`int`): events.

    Returns:
        `csr_matrix`: `[items, items]`, symmetric, float64; the diagonal is 0.

    Example:
        >>> cooccurrence_counts([np.array([0, 1, 0])], items=2, window=1).toarray().tolist()
        [[0.0, 2.0], [2.0, 0.0]]
    """
    pairs = [(s[:-gap], s[gap:]) for s in sequences for gap in range(1, window + 1) if len(s) > gap]
    left = np.concatenate([np.empty(0, dtype=np.int64), *(pair[0] for pair in pairs)])
    right = np.concatenate([np.empty(0, dtype=np.int64), *(pair[1] for pair in pairs)])
    counts = coo_matrix((np.ones(len(left)), (left, right)), shape=(items, items)).tocsr()
    counts = (counts + counts.T).tocsr()
    counts.setdiag(0)
    counts.eliminate_zeros()
    return counts
