"""Ranking metrics with one target a case, and bootstrap intervals over users; needs NumPy only.

Values come per case first and as means second, so that whoever reports a mean can also resample it. The functions
speak of items, not semantic IDs: pass SID groups instead of item rows and they give SID-level figures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# IndependentSamples held in memory at once by the bootstrap: 32 MiB of int64.
_DRAWS_AT_ONCE = 1 << 22


def target_ranks(recommended: ArrayLike, targets: ArrayLike) -> NDArray[np.int64]:
    """Find where each case's target stands in its list, for metrics and for rewards.

    A duplicated item keeps the ranks it takes: lists are scored as shown, and `duplicate_rate` counts the waste.

    Args:
        recommended: Integer array `[cases, ranks]` of item rows, best first; -1 marks an empty rank.
        targets: Integer array `[cases]` of item rows, each >= 0.

    Returns:
        Integer array `[cases]`: 0-based rank of the target's first occurrence, -1 where it is absent.

    Raises:
        ValueError: The shapes do not match, or a target is negative and would match an empty rank.

    Example:
        >>> target_ranks([[4, 7, 9], [4, 7, -1]], [9, 2]).tolist()
        [2, -1]
    """
    recommended, targets = _as_lists(recommended), np.asarray(targets)
    if targets.shape != recommended.shape[:1]:
        raise ValueError(
            f"Got {len(recommended)} lists and targets of shape {targets.shape}: every case counts, so means would be "
            "wrong; pass one target for each list."
        )
    if targets.size and targets.min() < 0:
        raise ValueError(
            f"Got target {targets.min()}: it would match the empty ranks (-1) and count as a hit; pass item rows >= 0."
        )
    hits = recommended == targets[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1), -1).astype(np.int64)


def per_case_metrics(
    recommended: ArrayLike, targets: ArrayLike, ks: Sequence[int] = (1, 5, 10, 20)
) -> dict[str, NDArray[np.float64]]:
    """Score every case at every cutoff, for the means of a report and for the bootstrap.

    With one target at 0-based rank `r`: `recall@k = [r < k]`, also called hit rate; `ndcg@k = [r < k] / log2(r + 2)`
    (Järvelin and Kekäläinen 2002, binary gain; the ideal list has gain 1); `mrr@k = [r < k] / (r + 1)`.

    Args:
        recommended: Integer array `[cases, ranks]` of item rows, best first; -1 marks an empty rank.
        targets: Integer array `[cases]` of item rows, each >= 0.
        ks: Cutoffs, each between 1 and `ranks`.

    Returns:
        `"recall@k"`, `"ndcg@k"`, `"mrr@k"` for each k, each a float array `[cases]` in [0, 1].

    Raises:
        ValueError: The shapes do not match, a target is negative, or a cutoff is outside 1..ranks.

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
    """Score lists against several targets each, for lists that a model writes itself.

    With `g_p` 1 where the item at 0-based rank `p` is relevant and stands there for the first time, else 0:
    `sum_p g_p / log2(p + 2)` over that of the best list of the same length (Järvelin and Kekäläinen 2002). For one
    target it is `ndcg@ranks` of `per_case_metrics`.

    Args:
        recommended: Integer array `[cases, ranks]` of item rows, best first; -1 marks an empty rank.
        relevant: For each case its item rows, in any order.

    Returns:
        Float array `[cases]` in [0, 1].

    Raises:
        ValueError: Another number of cases, or one without a relevant item, whose best list has no gain.

    Example:
        >>> list_ndcg([[4, 7, 4], [1, 2, 3]], [[7, 4], [3]]).tolist()
        [1.0, 0.5]
    """
    recommended = _as_lists(recommended)
    if len(relevant) != len(recommended) or not all(len(each) for each in relevant):
        raise ValueError(f"Got {len(recommended)} lists and {len(relevant)} cases, or one without a relevant item.")
    gain = 1 / np.log2(np.arange(recommended.shape[1]) + 2)
    found = np.zeros(len(recommended))
    for case, (row, wanted) in enumerate(zip(recommended.tolist(), map(set, relevant), strict=True)):
        hit = [item in wanted and item not in row[:rank] for rank, item in enumerate(row)]
        found[case] = gain[hit].sum() / gain[: len(wanted)].sum()
    return found


def invalid_rate(recommended: ArrayLike, items: int, left: ArrayLike | None = None) -> float:
    """Measure the share of ranks without an item of the catalogue, of those that could hold one.

    Args:
        recommended: Integer array `[cases, ranks]` of item rows; -1 marks an empty rank.
        items: Size of the catalogue; rows 0..items-1 are legal.
        left: Integer array `[cases]`, items that filters leave for each list; `None` for enough.

    Returns:
        Share in [0, 1] of the first `left` ranks, 0 when there is none.

    Example:
        >>> invalid_rate([[0, 1], [2, -1]], items=2)
        0.5
        >>> invalid_rate([[0, 1], [0, -1]], items=2, left=[2, 1])
        0.0
    """
    recommended = _as_lists(recommended)
    room = np.full(len(recommended), recommended.shape[1]) if left is None else np.asarray(left)
    if room.shape != recommended.shape[:1]:
        raise ValueError(f"Got {len(recommended)} lists and what is left for {room.shape}: pass one number a list.")
    counted = np.arange(recommended.shape[1]) < room[:, None]
    invalid = ((recommended < 0) | (recommended >= items)) & counted
    return float(invalid.sum() / max(1, counted.sum()))


def duplicate_rate(recommended: ArrayLike) -> float:
    """Measure the share of requested ranks wasted on an item that stands higher in the same list.

    Args:
        recommended: Integer array `[cases, ranks]` of item rows; -1 marks an empty rank and repeats nothing.

    Returns:
        Share in [0, 1] of all `cases * ranks`.

    Example:
        >>> duplicate_rate([[3, 3, 5, 3], [-1, -1, 1, 2]])
        0.25
    """
    recommended = _as_lists(recommended)
    ordered = np.sort(recommended, axis=1)
    repeats = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    return float(repeats.sum() / recommended.size)


def coverage(recommended: ArrayLike, items: int, k: int) -> float:
    """Measure the share of the catalogue that anyone sees in the top k: a popularity list is near 0, random near 1.

    Args:
        recommended: Integer array `[cases, ranks]` of item rows; rows outside 0..items-1 are not counted.
        items: Size of the catalogue.
        k: Cutoff, between 1 and `ranks`.

    Returns:
        Share in [0, 1] of `items`.

    Raises:
        ValueError: The cutoff is outside 1..ranks.

    Example:
        >>> coverage([[0, 1, 2], [1, 0, 3]], items=4, k=2)
        0.5
    """
    recommended = _as_lists(recommended)
    _check_cutoff(k, recommended.shape[1])
    shown = np.unique(recommended[:, :k])
    return float(((shown >= 0) & (shown < items)).sum() / items)


def list_popularity(recommended: ArrayLike, events: ArrayLike, k: int) -> float:
    """Measure how popular what is recommended is: the mean number of training events over the items of the top k.

    Average recommendation popularity (as in arXiv:1901.07555), over all ranks alike.

    Args:
        recommended: Integer array `[cases, ranks]` of item rows; empty ranks (-1) are not counted.
        events: Array `[items]`, training events of each item.
        k: Cutoff, between 1 and `ranks`.

    Returns:
        The mean, 0 when every rank is empty.

    Raises:
        ValueError: The cutoff is outside 1..ranks.

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
    """Measure how alike the items of a list are: the mean cosine over the pairs of its top k, and over the lists.

    The complement of intra-list diversity (Ziegler et al. 2005, section 3.3, with cosine as the similarity).

    Args:
        recommended: Integer array `[cases, ranks]` of item rows; -1 marks an empty rank.
        embeddings: Float array `[items, d]`, such as text embeddings.
        k: Cutoff, between 2 and `ranks`.

    Returns:
        Mean in [-1, 1]; lists with fewer than two items are left out, and 0 comes back when all are.

    Raises:
        ValueError: The cutoff is outside 2..ranks.

    Example:
        >>> intra_list_similarity([[0, 1, 2]], [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], k=3).__round__(3)
        0.333
    """
    recommended, embeddings = _as_lists(recommended), np.asarray(embeddings, dtype=np.float64)
    _check_cutoff(k, recommended.shape[1])
    if k < 2:
        raise ValueError(f"Got k = {k}: one item has no pair; pass 2 or more.")
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = np.vstack([embeddings / np.where(norms > 0, norms, 1), np.zeros(embeddings.shape[1])])  # -1 is the last
    top = recommended[:, :k]
    counts = (top >= 0).sum(axis=1)
    # The squared length of a sum of unit vectors is their number plus twice the sum of the cosines of all pairs.
    sums = np.stack([unit[rows].sum(axis=0) for rows in top])
    own = np.array([(unit[rows] ** 2).sum() for rows in top])
    some = counts > 1
    if not some.any():
        return 0.0
    cosines = ((sums**2).sum(axis=1) - own)[some] / (counts * (counts - 1))[some]
    return float(cosines.mean())


def bootstrap_interval(
    values: ArrayLike,
    users: ArrayLike | None = None,
    confidence: float = 0.95,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Give the percentile bootstrap interval of a mean over cases, for whoever compares two figures.

    Users are resampled with replacement and bring all their cases along (cluster bootstrap; Davison and Hinkley 1997,
    section 3.8), because cases of one user are not independent. With no hit at all the interval is [0, 0]; the truth
    may still be as high as about 3 / users.

    Args:
        values: Float array `[cases]`, one of `per_case_metrics`.
        users: Array `[cases]` saying whose case each is; `None` when every case is another user's.
        confidence: Share of resampled means inside the interval, in (0, 1).
        resamples: Number of bootstrap resamples.
        seed: Seed of the draws; equal seeds and users give equal draws, so systems are resampled alike.

    Returns:
        `(low, high)`, inside the range of `values`.

    Raises:
        ValueError: There are no cases, `users` has another length, or `confidence` is outside (0, 1).

    Example:
        >>> low, high = bootstrap_interval([0.0, 1.0] * 50)
        >>> 0.35 < low < 0.45 < 0.55 < high < 0.65
        True
    """
    return bootstrap_intervals({"value": values}, users, confidence, resamples=resamples, seed=seed)["value"]


def bootstrap_intervals(
    per_case: Mapping[str, ArrayLike],
    users: ArrayLike | None = None,
    confidence: float = 0.95,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Give `bootstrap_interval` for several metrics of the same cases at once: the draws are shared, which costs one.

    Args:
        per_case: Metric name -> float array `[cases]`, as `per_case_metrics` returns.
        users: As in `bootstrap_interval`.
        confidence: As in `bootstrap_interval`.
        resamples: As in `bootstrap_interval`.
        seed: As in `bootstrap_interval`.

    Returns:
        Metric name -> `(low, high)`.

    Raises:
        ValueError: As in `bootstrap_interval`.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"Got confidence {confidence}: an interval needs a share inside (0, 1); pass 0.95 for 95 %.")
    columns = np.stack([np.asarray(values, dtype=np.float64) for values in per_case.values()], axis=1)
    means = _resampled_means(columns, users, resamples, seed)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(per_case)}


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    users: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Compare two systems on the same cases: the difference of their means, its interval and a p-value.

    The per-case differences are resampled by user, so what is hard for both systems cancels (Koehn 2004, section 4).
    `p` is two-sided, `2 * min(share <= 0, share >= 0)` of the resampled differences, with 1 added to the counts so
    that it is never 0.

    Args:
        a: Float array `[cases]`, one metric of the first system.
        b: Float array `[cases]`, the same metric of the second, cases in the same order.
        users: As in `bootstrap_interval`.
        confidence: As in `bootstrap_interval`.
        resamples: As in `bootstrap_interval`.
        seed: As in `bootstrap_interval`.

    Returns:
        `difference` (mean a - mean b), `low`, `high`, and `p` in (0, 1].

    Raises:
        ValueError: `a` and `b` differ in shape; otherwise as in `bootstrap_interval`.

    Example:
        >>> paired_bootstrap([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
        {'difference': 0.0, 'low': 0.0, 'high': 0.0, 'p': 1.0}
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"Got {a.shape} and {b.shape} values: only the same cases pair up; score both on all cases.")
    low, high = bootstrap_interval(a - b, users, confidence, resamples=resamples, seed=seed)
    means = _resampled_means((a - b)[:, None], users, resamples, seed)
    tail = min((means <= 0).sum(), (means >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (resamples + 1))
    return {"difference": float(a.mean() - b.mean()), "low": low, "high": high, "p": float(p)}


def _resampled_means(values: NDArray[np.float64], users: ArrayLike | None, resamples: int, seed: int) -> NDArray[Any]:
    """Resample users and return the means over cases, `[resamples, metrics]`, for values `[cases, metrics]`."""
    if values.ndim != 2 or not len(values):
        raise ValueError(f"Got values of shape {values.shape}: a mean needs at least one case; pass one value a case.")
    if users is None:
        sums, sizes = values, np.ones(len(values))
    else:
        names, owner = np.unique(np.asarray(users), return_inverse=True)
        if len(owner) != len(values):
            raise ValueError(f"Got {len(owner)} users for {len(values)} values: pass the user of each case.")
        sizes = np.bincount(owner).astype(np.float64)
        sums = np.stack([np.bincount(owner, column, len(names)) for column in values.T], axis=1)
    rng, n, means = np.random.default_rng(seed), len(sums), []
    step = max(1, _DRAWS_AT_ONCE // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        draws = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        # How often each user was drawn turns the resampled sums of all metrics into one matrix product.
        times = np.bincount(draws.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
        means.append(times @ sums / (times @ sizes)[:, None])
    return np.concatenate(means)


def _as_lists(recommended: ArrayLike) -> NDArray[Any]:
    recommended = np.asarray(recommended)
    if recommended.ndim != 2 or not np.issubdtype(recommended.dtype, np.integer) or not recommended.size:
        raise ValueError(
            f"Got recommended of shape {recommended.shape} and dtype {recommended.dtype}: it holds no ranks to score; "
            "pass integers [cases, ranks], at least one of each, -1 for an empty rank."
        )
    return recommended


def _check_cutoff(k: int, ranks: int) -> None:
    if not 1 <= k <= ranks:
        raise ValueError(
            f"Got k = {k} for lists of {ranks} ranks: a metric@{k} would silently equal metric@{ranks}; "
            f"recommend {k} items or drop this k."
        )
