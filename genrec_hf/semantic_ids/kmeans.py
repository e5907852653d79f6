"""k-means as quantizers use it: the same on any number of threads, on a sample of a large catalogue, or balanced."""

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

# Times that centres move in balancing; most of Sinkhorn's iterations a smoothing; and the last smoothing, as a share
# of the mean squared distance to the nearest centre, where smoothed and real clusters are nearly the same.
MOVES, ITERATIONS, FINEST = 3, 30, 3e-4


@threadpool_limits.wrap(limits=1)
def k_means(
    points: np.ndarray, codes: int, restarts: int = 1, *, seed: int = 0, start: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Centres `[codes, d]`, float32, and the cluster `[points]` of each point, from scikit-learn's k-means.

    On one thread: scikit-learn adds up the parts of several in the order they finish, so that centres differ in their
    last bits from run to run.

    Args:
        points (`np.ndarray`): `[points, d]`, float32.
        codes (`int`): clusters.
        restarts (`int`, defaults to 1): k-means++ starts; the best run is kept.
        seed (`int`, defaults to 0): of the starts.
        start (`np.ndarray`, *optional*): centres `[codes, d]` to start from instead.
    """
    if start is None:
        kmeans = KMeans(n_clusters=codes, n_init=restarts, random_state=seed).fit(points)
    else:
        kmeans = KMeans(n_clusters=codes, n_init=1, init=start).fit(points)
    return kmeans.cluster_centers_.astype(np.float32), kmeans.labels_


def draw(points: np.ndarray, most: int, seed: int) -> np.ndarray:
    """All points `[points, d]`, or so many of them in random order where there are more."""
    if len(points) <= most:
        return points
    return points[np.random.default_rng(seed).choice(len(points), most, replace=False)]


@threadpool_limits.wrap(limits=1)
def balance(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move centres and price them, so that `argmin_k ||x - c_k||^2 + price_k` makes clusters of nearly equal size.

    The prices are the dual variables of the transport of points to centres of equal capacity, by Sinkhorn's iterations
    (Cuturi, arXiv:1306.0895) with ever less smoothing; between them, centres move to the means of their clusters.

    Args:
        points (`np.ndarray`): `[points, d]`, float32. Identical points stay together whatever the capacity.
        centres (`np.ndarray`): `[codes, d]`, where to start.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: centres `[codes, d]` and prices `[codes]`, in squared distances, of mean zero.
    """
    distances = _squared_distances(points, centres)
    finest = FINEST * float(distances.min(axis=1).mean())
    if finest <= 1e-9 * distances.max():
        return centres, np.zeros(len(centres), dtype=np.float32)  # Every point is a centre: nothing to trade.
    prices = np.zeros(len(centres), dtype=np.float32)
    coarsest = float(distances.mean(dtype=np.float64))
    for move in range(MOVES + 1):
        for smoothing in np.geomspace(max(coarsest, 30 * finest), finest, 4 if move else 8).tolist():
            prices = _sinkhorn(distances, prices, smoothing)
        if move < MOVES:
            centres, before = means(points, nearest(points, centres, prices), centres), distances
            distances = _squared_distances(points, centres)
            coarsest = float(np.abs(distances - before).mean(dtype=np.float64))
    return centres, prices


def nearest(
    points: np.ndarray, codebook: np.ndarray, prices: np.ndarray | None = None, *, chunk: int = 8192
) -> np.ndarray:
    """Index `[points]` of the nearest codebook row, by squared distance plus price; a chunk of points at a time.

    In double precision, where the order of a sum does not decide between codes: a point gets the same code alone as
    among others.
    """
    codebook = codebook.astype(np.float64)
    offsets = (codebook**2).sum(axis=1) + (0 if prices is None else prices)
    parts = [points[start : start + chunk].astype(np.float64) for start in range(0, len(points), chunk)]
    return np.concatenate([np.argmin(offsets - 2 * part @ codebook.T, axis=1) for part in parts])


def _squared_distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    squares = np.square(points).sum(axis=1)[:, None] - 2 * points @ centres.T
    return np.maximum(squares + np.square(centres).sum(axis=1), 0)


def means(points: np.ndarray, labels: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Means `[codes, d]` of the clusters that `labels` `[points]` make; one without points stays where it is."""
    order = np.argsort(labels, kind="stable")
    used, starts = np.unique(labels[order], return_index=True)
    sizes = np.diff(np.append(starts, len(points)))
    moved = centres.copy()
    moved[used] = np.add.reduceat(points[order], starts, axis=0) / sizes[:, None]
    return moved


def _sinkhorn(distances: np.ndarray, prices: np.ndarray, smoothing: float) -> np.ndarray:
    """Raise the price of a code above its capacity, lower that of one below: `smoothing * log(share / capacity)`."""
    for _ in range(ITERATIONS):
        shares = distances + prices
        shares -= shares.min(axis=1, keepdims=True)
        shares *= -1 / smoothing
        np.exp(shares, out=shares)
        shares /= shares.sum(axis=1, keepdims=True)
        excess = np.log(np.maximum(shares.mean(axis=0) * len(prices), 1e-30))
        prices = prices + smoothing * excess
        if np.abs(excess).max() < 0.01:
            break
    return (prices - prices.mean()).astype(np.float32)
