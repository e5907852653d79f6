"""Bootstrap intervals and paired tests of means over cases, resampled by user; needs NumPy only."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Number of resampled user indices that are in memory at the same time: 32 MiB of int64.
_MAX_INDICES = 1 << 22


def bootstrap_interval(
    values: ArrayLike,
    users: ArrayLike | None = None,
    confidence: float = 0.95,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of a mean over cases.

    Users are resampled with replacement together with all their cases (cluster bootstrap; Davison and Hinkley 1997,
    section 3.8), because cases of the same user are not independent. If every value is 0 the interval is [0, 0],
    although the true mean may be as high as about 3 / users.

    Args:
        values (`ArrayLike`): float `[cases]`, such as one of `per_case_metrics`.
        users (`ArrayLike`, *optional*): `[cases]`, user of each case; every case has its own user when not given.
        confidence (`float`, defaults to 0.95): share of resampled means inside the interval, in (0, 1).
        resamples (`int`, defaults to 1000): number of bootstrap resamples.
        seed (`int`, defaults to 0): seed of the resampling. The same seed and users give the same resamples, so that
            several systems are resampled alike.

    Returns:
        `tuple[float, float]`: lower and upper end, inside the range of `values`.

    Raises:
        ValueError: there are no cases, `users` has another length than `values`, or `confidence` is outside (0, 1).

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
    """Compute `bootstrap_interval` of several metrics of the same cases, with the same resamples for all of them.

    Args:
        per_case (`Mapping[str, ArrayLike]`): metric name to float `[cases]`, as `per_case_metrics` returns.
        users (`ArrayLike`, *optional*): `[cases]`, user of each case; every case has its own user when not given.
        confidence (`float`, defaults to 0.95): share of resampled means inside the interval, in (0, 1).
        resamples (`int`, defaults to 1000): number of bootstrap resamples.
        seed (`int`, defaults to 0): seed of the resampling.

    Returns:
        `dict[str, tuple[float, float]]`: metric name to lower and upper end.

    Raises:
        ValueError: as of `bootstrap_interval`.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"got confidence={confidence}: it must be inside (0, 1); pass 0.95 for 95 %")
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
    """Compare two systems on the same cases: difference of their means, its interval and a p-value.

    The differences of the cases are resampled by user, so that the difficulty of a case, which affects both systems,
    cancels out (Koehn 2004, section 4). `p` is two-sided: `2 * min(share <= 0, share >= 0)` of the resampled
    differences, with 1 added to the counts so that it is never 0.

    Args:
        a (`ArrayLike`): float `[cases]`, a metric of the first system.
        b (`ArrayLike`): float `[cases]`, the same metric of the second system, for the same cases in the same order.
        users (`ArrayLike`, *optional*): `[cases]`, user of each case; every case has its own user when not given.
        confidence (`float`, defaults to 0.95): share of resampled differences inside the interval, in (0, 1).
        resamples (`int`, defaults to 1000): number of bootstrap resamples.
        seed (`int`, defaults to 0): seed of the resampling.

    Returns:
        `dict[str, float]`: `difference` (mean of `a` minus mean of `b`), `low`, `high`, and `p` in (0, 1].

    Raises:
        ValueError: `a` and `b` have different shapes, or as of `bootstrap_interval`.

    Example:
        >>> paired_bootstrap([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
        {'difference': 0.0, 'low': 0.0, 'high': 0.0, 'p': 1.0}
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(
            f"got values of shapes {a.shape} and {b.shape}: a paired comparison needs the same cases; score both "
            "systems on all cases"
        )
    low, high = bootstrap_interval(a - b, users, confidence, resamples=resamples, seed=seed)
    means = _resampled_means((a - b)[:, None], users, resamples, seed)
    tail = min((means <= 0).sum(), (means >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (resamples + 1))
    return {"difference": float(a.mean() - b.mean()), "low": low, "high": high, "p": float(p)}


def _resampled_means(values: NDArray[np.float64], users: ArrayLike | None, resamples: int, seed: int) -> NDArray[Any]:
    """Resample users and return the means over cases, `[resamples, metrics]`, for values `[cases, metrics]`."""
    if values.ndim != 2 or not len(values):
        raise ValueError(f"got values of shape {values.shape}: pass one value for each case, at least one case")
    if users is None:
        sums, sizes = values, np.ones(len(values))
    else:
        names, owner = np.unique(np.asarray(users), return_inverse=True)
        if len(owner) != len(values):
            raise ValueError(f"got {len(owner)} users for {len(values)} values: pass the user of each case")
        sizes = np.bincount(owner).astype(np.float64)
        sums = np.stack([np.bincount(owner, column, len(names)) for column in values.T], axis=1)
    rng, n, means = np.random.default_rng(seed), len(sums), []
    step = max(1, _MAX_INDICES // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        indices = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        # With the number of times that each user was sampled, the sums of all metrics are one matrix product.
        times = np.bincount(indices.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
        means.append(times @ sums / (times @ sizes)[:, None])
    return np.concatenate(means)
