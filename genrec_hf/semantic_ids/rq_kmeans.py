"""`RqKmeans`: residual k-means, the quantizer of OneRec and QARM, with scikit-learn's k-means."""

from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from genrec_hf.checks import check_least
from genrec_hf.semantic_ids.kmeans import balance_clusters, k_means, nearest_codes, subsample
from genrec_hf.semantic_ids.quantizer import Quantizer


@dataclass
class RqKmeans(Quantizer):
    """Residual k-means: level `l` clusters the residuals of the levels above it; for `recipes/build_sids.py`.

    `code_l = argmin_k ||r_l - c_lk||^2 + p_lk`, `r_{l+1} = r_l - c_{l,code_l}`, `r_0 = embedding`, with all prices `p`
    zero unless `balanced`. After OneRec (arXiv:2502.18965, algorithm 1), which fills one cluster after another with
    its nearest items up to an equal size. Here the prices make sizes equal: in the optimal balanced assignment every
    item has its cheapest code, so that `encode` returns what `fit` assigned, independent of the other items. Sizes
    differ by a few items, and by more where embeddings are identical, which get the same code. New items get codes by
    the same rule, and are balanced if they are distributed like those fitted.

    A catalogue of more than `points_per_code * max(level_sizes)` items is clustered on a random sample of that size,
    as in faiss; the `restarts` run on a quarter of it, and the best is refined on all of it.

    Args:
        level_sizes (`Sequence[int]`): number of clusters of each level.
        seed (`int`, defaults to 0): random seed of the k-means++ initializations and of the sample.
        restarts (`int`, defaults to 4): number of k-means runs per level; the best is kept.
        balanced (`bool`, defaults to `False`): clusters of nearly equal size.
        points_per_code (`int`, defaults to 256): sample size, as a multiple of the size of the largest level.

    Raises:
        ValueError: when a setting is out of range.

    Example:
        >>> points = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0]], dtype=np.float32)
        >>> codes = RqKmeans(level_sizes=(2, 2)).fit(points).encode(points)
        >>> codes.shape, len({tuple(row) for row in codes.tolist()})
        ((4, 2), 4)
        >>> line = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [50.0]], dtype=np.float32)
        >>> codes = RqKmeans(level_sizes=(2,), balanced=True).fit(line, progress=False).encode(line)
        >>> np.bincount(codes[:, 0]).tolist()
        [3, 3]
    """

    restarts: int = 4
    balanced: bool = False
    points_per_code: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(1, restarts=self.restarts)
        check_least(8, points_per_code=self.points_per_code)

    @property
    def codebooks(self) -> list[np.ndarray]:
        """Cluster centers `[codes, d]` of each level."""
        return [self.tensors[f"codebook.{level}"] for level in range(len(self.level_sizes))]

    @property
    def prices(self) -> list[np.ndarray | None]:
        """Price `[codes]` of each code of each level, in squared distances; `None` unless `balanced`."""
        return [self.tensors.get(f"prices.{level}") for level in range(len(self.level_sizes))]

    def _fit(self, embeddings: np.ndarray, progress: bool) -> dict[str, np.ndarray]:
        residual, tensors = subsample(embeddings, self.points_per_code * max(self.level_sizes), self.seed), {}
        sampled = len(residual) < len(embeddings)
        for level, size in enumerate(tqdm(self.level_sizes, desc="Residual k-means", disable=not progress)):
            quarter_or_all = residual[: len(residual) // 4] if sampled else residual
            codebook, codes = k_means(quarter_or_all, size, self.restarts, seed=self.seed + level)
            if sampled:
                codebook, codes = k_means(residual, size, start=codebook)
            if self.balanced:
                codebook, prices = balance_clusters(residual, codebook)
                codes = nearest_codes(residual, codebook, prices)
                tensors[f"prices.{level}"] = prices
            tensors[f"codebook.{level}"] = codebook
            residual = residual - codebook[codes]
        return tensors

    def _encode(self, embeddings: np.ndarray, chunk: int = 8192) -> np.ndarray:
        codes = np.empty((len(embeddings), len(self.level_sizes)), dtype=np.int64)
        for start in range(0, len(embeddings), chunk):
            residual = embeddings[start : start + chunk]
            for level, (codebook, prices) in enumerate(zip(self.codebooks, self.prices, strict=True)):
                codes[start : start + chunk, level] = nearest_codes(residual, codebook, prices)
                residual = residual - codebook[codes[start : start + chunk, level]]
        return codes

    def _reconstruct(self, codes: np.ndarray) -> np.ndarray:
        return np.sum([codebook[codes[:, level]] for level, codebook in enumerate(self.codebooks)], axis=0)
