"""Counts items and their co-occurrences in training sequences."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix


def item_counts(sequences: Sequence[np.ndarray], items: int) -> np.ndarray:
    """Count the events of each item.

    Args:
        sequences (`Sequence[np.ndarray]`): `[users]` of item rows.
        items (`int`): number of items in the catalogue.

    Returns:
        `np.ndarray`: `[items]`, int64.

    Example:
        >>> item_counts([np.array([0, 1, 0])], items=3).tolist()
        [2, 1, 0]
    """
    return np.bincount(np.concatenate([np.empty(0, dtype=np.int64), *sequences]), minlength=items)


def cooccurrence_counts(sequences: Sequence[np.ndarray], items: int, window: int) -> csr_matrix:
    """Count how often two items are at most `window` events apart in the sequence of a user, for all pairs.

    Args:
        sequences (`Sequence[np.ndarray]`): `[users]` of item rows, oldest first.
        items (`int`): number of items in the catalogue.
        window (`int`): maximum distance, in events.

    Returns:
        `csr_matrix`: `[items, items]`, symmetric, float64; the diagonal is 0.

    Example:
        >>> cooccurrence_counts([np.array([0, 1, 0])], items=2, window=1).toarray().tolist()
        [[0.0, 2.0], [2.0, 0.0]]
    """
    pairs = [
        (items_of_user[:-distance], items_of_user[distance:])
        for items_of_user in sequences
        for distance in range(1, window + 1)
        if len(items_of_user) > distance
    ]
    earlier = np.concatenate([np.empty(0, dtype=np.int64), *(pair[0] for pair in pairs)])
    later = np.concatenate([np.empty(0, dtype=np.int64), *(pair[1] for pair in pairs)])
    counts = coo_matrix((np.ones(len(earlier)), (earlier, later)), shape=(items, items)).tocsr()
    counts = (counts + counts.T).tocsr()
    counts.setdiag(0)
    counts.eliminate_zeros()
    return counts
