"""k-means for quantizers: reproducible on any number of threads, on a sample of a large catalogue, or balanced."""

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

# Balancing: updates of the centers; Sinkhorn iterations per smoothing value, at most; and the last smoothing value, as
# a fraction of the mean squared distance to the nearest center, where soft and hard clusters are nearly the same.
CENTRE_UPDATES, SINKHORN_ITERATIONS, MIN_SMOOTHING = 3, 30, 3e-4


@threadpool_limits.wrap(limits=1)
def k_means(
    points: np.ndarray, codes: int, restarts: int = 1, *, seed: int = 0, start: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster points with scikit-learn's k-means.

    It runs on one thread: scikit-learn sums the results of several threads in the order they finish, so that centers
    differ in their last bits from run to run.

    Args:
        points (`np.ndarray`): `[points, d]`, float32.
        codes (`int`): number of clusters.
        restarts (`int`, defaults to 1): number of k-means++ initializations; the best run is kept.
        seed (`int`, defaults to 0): random seed of the initializations.
        start (`np.ndarray`, *optional*): initial centers `[codes, d]`, instead of k-means++.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: centers `[codes, d]`, float32, and the cluster of each point `[points]`.
    """
    if start is None:
        kmeans = KMeans(n_clusters=codes, n_init=restarts, random_state=seed).fit(points)
    else:
        kmeans = KMeans(n_clusters=codes, n_init=1, init=start).fit(points)
    return kmeans.cluster_centers_.astype(np.float32), kmeans.labels_


def subsample(points: np.ndarray, max_points: int, seed: int) -> np.ndarray:
    """Sample points without replacement, if there are more than `max_points`.

    Args:
        points (`np.ndarray`): `[points, d]`.
        max_points (`int`): maximum number of points.
        seed (`int`): random seed.

    Returns:
        `np.ndarray`: `[max_points, d]` in random order, or `points` itself.
    """
    if len(points) <= max_points:
        return points
    return points[np.random.default_rng(seed).choice(len(points), max_points, replace=False)]


@threadpool_limits.wrap(limits=1)
def balance_clusters(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute centers and prices, so that `argmin_k ||x - c_k||^2 + price_k` gives clusters of nearly equal size.

    The prices are the dual variables of the optimal transport of points to centers of equal capacity, from Sinkhorn
    iterations (Cuturi, arXiv:1306.0895) with decreasing smoothing; in between, centers become the means of their
    clusters.

    Args:
        points (`np.ndarray`): `[points, d]`, float32. Identical points get the same cluster, whatever its capacity.
        centres (`np.ndarray`): `[codes, d]`, initial centers.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: centers `[codes, d]` and prices `[codes]`, in squared distances, of mean zero.
    """
    distances = _squared_distances(points, centres)
    min_smoothing = MIN_SMOOTHING * float(distances.min(axis=1).mean())
    if min_smoothing <= 1e-9 * distances.max():
        return centres, np.zeros(len(centres), dtype=np.float32)  # Every point is a center, so no price can help.
    prices = np.zeros(len(centres), dtype=np.float32)
    max_smoothing = float(distances.mean(dtype=np.float64))
    for update in range(CENTRE_UPDATES + 1):
        for smoothing in np.geomspace(
            max(max_smoothing, 30 * min_smoothing), min_smoothing, 4 if update else 8
        ).tolist():
            prices = _sinkhorn(distances, prices, smoothing)
        if update < CENTRE_UPDATES:
            labels, previous_distances = nearest_codes(points, centres, prices), distances
            centres = cluster_means(points, labels, centres)
            distances = _squared_distances(points, centres)
            max_smoothing = float(np.abs(distances - previous_distances).mean(dtype=np.float64))
    return centres, prices


def nearest_codes(
    points: np.ndarray, codebook: np.ndarray, prices: np.ndarray | None = None, *, chunk: int = 8192
) -> np.ndarray:
    """Return the index of the nearest codebook row of each point, by squared distance plus price.

    It is computed in double precision, where rounding does not change the result: a point gets the same code alone as
    among others.

    Args:
        points (`np.ndarray`): `[points, d]`.
        codebook (`np.ndarray`): `[codes, d]`.
        prices (`np.ndarray`, *optional*): `[codes]`, in squared distances, from `balance_clusters`.
        chunk (`int`, defaults to 8192): number of points that are processed at once.

    Returns:
        `np.ndarray`: `[points]`, int64.
    """
    codebook = codebook.astype(np.float64)
    offsets = (codebook**2).sum(axis=1) + (0 if prices is None else prices)
    parts = [points[start : start + chunk].astype(np.float64) for start in range(0, len(points), chunk)]
    return np.concatenate([np.argmin(offsets - 2 * part @ codebook.T, axis=1) for part in parts])


def _squared_distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    squares = np.square(points).sum(axis=1)[:, None] - 2 * points @ centres.T
    return np.maximum(squares + np.square(centres).sum(axis=1), 0)


def cluster_means(points: np.ndarray, labels: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Compute the means of clusters.

    Args:
        points (`np.ndarray`): `[points, d]`.
        labels (`np.ndarray`): `[points]`, the cluster of each point.
        centres (`np.ndarray`): `[codes, d]`, kept for clusters without points.

    Returns:
        `np.ndarray`: `[codes, d]`.
    """
    order = np.argsort(labels, kind="stable")
    used, starts = np.unique(labels[order], return_index=True)
    sizes = np.diff(np.append(starts, len(points)))
    means = centres.copy()
    means[used] = np.add.reduceat(points[order], starts, axis=0) / sizes[:, None]
    return means


def _sinkhorn(distances: np.ndarray, prices: np.ndarray, smoothing: float) -> np.ndarray:
    """Raise prices of codes with more than an equal share, and lower others, by `smoothing * log(share * codes)`."""
    for _ in range(SINKHORN_ITERATIONS):
        probabilities = distances + prices
        probabilities -= probabilities.min(axis=1, keepdims=True)
        probabilities *= -1 / smoothing
        np.exp(probabilities, out=probabilities)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        log_excess = np.log(np.maximum(probabilities.mean(axis=0) * len(prices), 1e-30))
        prices = prices + smoothing * log_excess
        if np.abs(log_excess).max() < 0.01:
            break
    return (prices - prices.mean()).astype(np.float32)
