"""Ranking metrics of recommendation lists; needs NumPy only.

Accuracy metrics are returned for each case, so that means over cases can be resampled. The functions compare item
rows; pass SID groups in place of item rows for metrics at the level of semantic IDs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def target_ranks(recommended: ArrayLike, targets: ArrayLike) -> NDArray[np.int64]:
    """Find the rank of each case's target in its list, for metrics and rewards.

    Duplicates of an item are not removed, so that lists are scored as shown; `duplicate_rate` measures them.

    Args:
        recommended (`ArrayLike`): integers `[cases, ranks]`, item rows, best first; `-1` for an empty rank.
        targets (`ArrayLike`): integers `[cases]`, item rows, at least 0.

    Returns:
        `np.ndarray`: int64 `[cases]`, 0-based rank of the target's first occurrence; `-1` where it is not in the list.

    Raises:
        ValueError: the shapes do not match, a list has no ranks, or a target is negative.

    Example:
        >>> target_ranks([[4, 7, 9], [4, 7, -1]], [9, 2]).tolist()
        [2, -1]
    """
    recommended, targets = _as_lists(recommended), np.asarray(targets)
    if targets.shape != recommended.shape[:1]:
        raise ValueError(
            f"got {len(recommended)} lists and targets of shape {targets.shape}: means are over cases; pass one "
            "target for each list"
        )
    if targets.size and targets.min() < 0:
        raise ValueError(
            f"got target {targets.min()}: it would count as a hit at an empty rank (-1); pass item rows of at least 0"
        )
    hits = recommended == targets[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1), -1).astype(np.int64)


def per_case_metrics(
    recommended: ArrayLike, targets: ArrayLike, ks: Sequence[int] = (1, 5, 10, 20)
) -> dict[str, NDArray[np.float64]]:
    """Compute recall, NDCG and MRR of every case at every cutoff.

    With one target at 0-based rank `r`: `recall@k = [r < k]`, also called hit rate; `ndcg@k = [r < k] / log2(r + 2)`
    (Järvelin and Kekäläinen 2002, binary gain; the ideal list has gain 1); `mrr@k = [r < k] / (r + 1)`.

    Args:
        recommended (`ArrayLike`): integers `[cases, ranks]`, item rows, best first; `-1` for an empty rank.
        targets (`ArrayLike`): integers `[cases]`, item rows, at least 0.
        ks (`Sequence[int]`, defaults to `(1, 5, 10, 20)`): cutoffs, each from 1 to `ranks`.

    Returns:
        `dict[str, np.ndarray]`: `"recall@k"`, `"ndcg@k"` and `"mrr@k"` for each k, float64 `[cases]` in [0, 1].

    Raises:
        ValueError: the shapes do not match, a target is negative, or a cutoff is not from 1 to `ranks`.

    Example:
        >>> per_case_metrics([[4, 7, 9], [4, 7, 9]], [7, 4], ks=[1, 3])["mrr@3"].tolist()
        [0.5, 1.0]
    """
    recommended = _as_lists(recommended)
    ranks = target_ranks(recommended, targets)
    metrics = {}
    for k in ks:
        _check_cutoff(k, recommended.shape[1])
        hit = (ranks >= 0) & (ranks < k)
        metrics[f"recall@{k}"] = hit.astype(np.float64)
        metrics[f"ndcg@{k}"] = np.where(hit, 1 / np.log2(np.maximum(ranks, 0) + 2), 0.0)
        metrics[f"mrr@{k}"] = np.where(hit, 1 / (np.maximum(ranks, 0) + 1), 0.0)
    return metrics


def list_ndcg(recommended: ArrayLike, relevant: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Compute NDCG of lists with several relevant items each.

    `sum_p g_p / log2(p + 2)`, divided by the same sum for the ideal list of the same length (Järvelin and Kekäläinen
    2002), where `g_p` is 1 if the item at 0-based rank `p` is relevant and not at a higher rank too, else 0. With one
    relevant item it equals `ndcg@ranks` of `per_case_metrics`.

    Args:
        recommended (`ArrayLike`): integers `[cases, ranks]`, item rows, best first; `-1` for an empty rank.
        relevant (`Sequence[Sequence[int]]`): for each case, its relevant item rows in any order.

    Returns:
        `np.ndarray`: float64 `[cases]` in [0, 1].

    Raises:
        ValueError: the numbers of cases differ, or a case has no relevant item, so that its ideal list has no gain.

    Example:
        >>> list_ndcg([[4, 7, 4], [1, 2, 3]], [[7, 4], [3]]).tolist()
        [1.0, 0.5]
    """
    recommended = _as_lists(recommended)
    without_relevant = sum(len(items) == 0 for items in relevant)
    if len(relevant) != len(recommended) or without_relevant:
        raise ValueError(
            f"got {len(recommended)} lists for {len(relevant)} cases, {without_relevant} of them without a relevant "
            "item: pass one list and at least one relevant item for each case"
        )
    gain = 1 / np.log2(np.arange(recommended.shape[1]) + 2)
    ndcg = np.zeros(len(recommended))
    for case, (row, relevant_items) in enumerate(zip(recommended.tolist(), map(set, relevant), strict=True)):
        is_hit = [item in relevant_items and item not in row[:rank] for rank, item in enumerate(row)]
        ndcg[case] = gain[is_hit].sum() / gain[: len(relevant_items)].sum()
    return ndcg


def invalid_rate(recommended: ArrayLike, items: int, available: ArrayLike | None = None) -> float:
    """Compute the share of ranks without an item of the catalogue, among the ranks that could hold one.

    Args:
        recommended (`ArrayLike`): integers `[cases, ranks]`, item rows; `-1` for an empty rank.
        items (`int`): size of the catalogue; rows from 0 to `items - 1` are valid.
        available (`ArrayLike`, *optional*): integers `[cases]`, number of items that filters allow in each list; at
            least `ranks` when not given.

    Returns:
        `float`: share in [0, 1] of the first `available` ranks; 0 if there are none.

    Raises:
        ValueError: there are no ranks, or `available` has another length.

    Example:
        >>> invalid_rate([[0, 1], [2, -1]], items=2)
        0.5
        >>> invalid_rate([[0, 1], [0, -1]], items=2, available=[2, 1])
        0.0
    """
    recommended = _as_lists(recommended)
    sizes = np.full(len(recommended), recommended.shape[1]) if available is None else np.asarray(available)
    if sizes.shape != recommended.shape[:1]:
        raise ValueError(
            f"got {len(recommended)} lists and available of shape {sizes.shape}: pass one number for each list"
        )
    is_counted = np.arange(recommended.shape[1]) < sizes[:, None]
    is_invalid = ((recommended < 0) | (recommended >= items)) & is_counted
    return float(is_invalid.sum() / max(1, is_counted.sum()))


def duplicate_rate(recommended: ArrayLike) -> float:
    """Compute the share of ranks whose item is already at a higher rank of the same list.

    Args:
        recommended (`ArrayLike`): integers `[cases, ranks]`, item rows; `-1` for an empty rank, which is no duplicate.

    Returns:
        `float`: share in [0, 1] of all `cases * ranks`.

    Raises:
        ValueError: there are no ranks.

    Example:
        >>> duplicate_rate([[3, 3, 5, 3], [-1, -1, 1, 2]])
        0.25
    """
    recommended = _as_lists(recommended)
    ordered = np.sort(recommended, axis=1)
    is_duplicate = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    return float(is_duplicate.sum() / recommended.size)


def coverage(recommended: ArrayLike, items: int, k: int) -> float:
    """Compute the share of the catalogue that is in the top k of any list: near 0 for popularity, near 1 for random.

    Args:
        recommended (`ArrayLike`): integers `[cases, ranks]`, item rows; rows that are not from 0 to `items - 1` are
            not counted.
        items (`int`): size of the catalogue.
        k (`int`): cutoff, from 1 to `ranks`.

    Returns:
        `float`: share in [0, 1] of `items`.

    Raises:
        ValueError: there are no ranks, or the cutoff is not from 1 to `ranks`.

    Example:
        >>> coverage([[0, 1, 2], [1, 0, 3]], items=4, k=2)
        0.5
    """
    recommended = _as_lists(recommended)
    _check_cutoff(k, recommended.shape[1])
    shown = np.unique(recommended[:, :k])
    return float(((shown >= 0) & (shown < items)).sum() / items)


def list_popularity(recommended: ArrayLike, events: ArrayLike, k: int) -> float:
    """Compute the mean number of training events of the items in the top k.

    Average recommendation popularity (as in arXiv:1901.07555), with the same weight for every rank.

    Args:
        recommended (`ArrayLike`): integers `[cases, ranks]`, item rows; `-1` for an empty rank, which is not counted.
        events (`ArrayLike`): `[items]`, number of training events of each item.
        k (`int`): cutoff, from 1 to `ranks`.

    Returns:
        `float`: the mean; 0 if every rank is empty.

    Raises:
        ValueError: there are no ranks, or the cutoff is not from 1 to `ranks`.

    Example:
        >>> list_popularity([[0, 1, 2], [1, 0, -1]], events=[10, 4, 1], k=2)
        7.0
    """
    recommended = _as_lists(recommended)
    _check_cutoff(k, recommended.shape[1])
    top = recommended[:, :k]
    shown = top[top >= 0]
    return float(np.asarray(events)[shown].mean()) if len(shown) else 0.0


def intra_list_similarity(recommended: ArrayLike, embeddings: ArrayLike, k: int) -> float:
    """Compute the mean cosine similarity over all pairs of items in the top k of a list, and then over lists.

    It is the complement of intra-list diversity (Ziegler et al. 2005, section 3.3, with cosine as the similarity).

    Args:
        recommended (`ArrayLike`): integers `[cases, ranks]`, item rows; `-1` for an empty rank.
        embeddings (`ArrayLike`): float `[items, d]`, such as text embeddings.
        k (`int`): cutoff, from 2 to `ranks`.

    Returns:
        `float`: mean in [-1, 1] over the lists with at least two items; 0 if there is none.

    Raises:
        ValueError: there are no ranks, or the cutoff is not from 2 to `ranks`.

    Example:
        >>> intra_list_similarity([[0, 1, 2]], [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], k=3).__round__(3)
        0.333
    """
    recommended, embeddings = _as_lists(recommended), np.asarray(embeddings, dtype=np.float64)
    _check_cutoff(k, recommended.shape[1])
    if k < 2:
        raise ValueError(f"got k={k}: a single item has no pair; pass at least 2")
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    # The row of zeros at the end is that of an empty rank, -1.
    unit = np.vstack([embeddings / np.where(norms > 0, norms, 1), np.zeros(embeddings.shape[1])])
    top = recommended[:, :k]
    counts = (top >= 0).sum(axis=1)
    # The squared length of a sum of unit vectors is their number plus twice the sum of the cosines of all pairs.
    sums = np.stack([unit[rows].sum(axis=0) for rows in top])
    squared_lengths = np.array([(unit[rows] ** 2).sum() for rows in top])
    has_pair = counts > 1
    if not has_pair.any():
        return 0.0
    cosines = ((sums**2).sum(axis=1) - squared_lengths)[has_pair] / (counts * (counts - 1))[has_pair]
    return float(cosines.mean())


def _as_lists(recommended: ArrayLike) -> NDArray[Any]:
    """Return lists as an array `[cases, ranks]`; raise `ValueError` if they are not integers or hold no ranks."""
    recommended = np.asarray(recommended)
    if recommended.ndim != 2 or not np.issubdtype(recommended.dtype, np.integer) or not recommended.size:
        raise ValueError(
            f"got recommended of shape {recommended.shape} and dtype {recommended.dtype}: pass integers "
            "[cases, ranks], at least one of each, -1 for an empty rank"
        )
    return recommended


def _check_cutoff(k: int, ranks: int) -> None:
    """Raise `ValueError` unless a cutoff is from 1 to the number of ranks."""
    if not 1 <= k <= ranks:
        raise ValueError(
            f"got k={k} for lists of {ranks} ranks: a metric at k={k} would equal that at {ranks}; pass lists of at "
            f"least k ranks, or k from 1 to {ranks}"
        )
