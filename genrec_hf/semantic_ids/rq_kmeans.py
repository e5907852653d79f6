"""`RqKmeans`: residual k-means, the quantizer of OneRec and QARM, on scikit-learn's k-means."""

from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from genrec_hf.checks import check_least
from genrec_hf.semantic_ids.kmeans import balance, draw, k_means, nearest
from genrec_hf.semantic_ids.quantizer import Quantizer


@dataclass
class RqKmeans(Quantizer):
    """Residual k-means: level `l` clusters what the levels above it left over; for `recipes/build_sids.py`.

    `code_l = argmin_k ||r_l - c_lk||^2 + p_lk`, `r_{l+1} = r_l - c_{l,code_l}`, `r_0 = embedding`, with all prices `p`
    zero unless `balanced`. After OneRec (arXiv:2502.18965, algorithm 1), which fills one cluster after another with
    its nearest items up to an equal size. Here equal sizes come from prices: in the best balanced assignment every
    item has its cheapest code, so that `encode` repeats what `fit` assigned, an item at a time and whatever is encoded
    with it. Sizes are equal within a few items, but for identical items, which stay together. New items get codes by
    the same rule, and are balanced as far as they are spread like those fitted.

    A catalogue of more than `points_per_code * max(level_sizes)` items is clustered on a random sample of so many, as
    faiss does; the `restarts` run on a quarter of it, and the best is refined on all.

    Args:
        level_sizes (`Sequence[int]`): clusters of each level.
        seed (`int`, defaults to 0): of the k-means++ starts; the same seed gives the same codes.
        restarts (`int`, defaults to 4): k-means runs a level, the best kept.
        balanced (`bool`, defaults to `False`): clusters of nearly equal size.
        points_per_code (`int`, defaults to 256): items a code of the largest level that are enough to learn from.

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
        """Cluster centres `[codes, d]` of each level."""
        return [self.tensors[f"codebook.{level}"] for level in range(len(self.level_sizes))]

    @property
    def prices(self) -> list[np.ndarray | None]:
        """What a code of each level costs, `[codes]`, in squared distances; `None` where not balanced."""
        return [self.tensors.get(f"prices.{level}") for level in range(len(self.level_sizes))]

    def _fit(self, embeddings: np.ndarray, progress: bool) -> dict[str, np.ndarray]:
        residual, tensors = draw(embeddings, self.points_per_code * max(self.level_sizes), self.seed), {}
        sampled = len(residual) < len(embeddings)
        for level, size in enumerate(tqdm(self.level_sizes, desc="Residual k-means", disable=not progress)):
            first = residual[: len(residual) // 4] if sampled else residual
            codebook, codes = k_means(first, size, self.restarts, seed=self.seed + level)
            if sampled:
                codebook, codes = k_means(residual, size, start=codebook)
            if self.balanced:
                codebook, prices = balance(residual, codebook)
                codes = nearest(residual, codebook, prices)
                tensors[f"prices.{level}"] = prices
            tensors[f"codebook.{level}"] = codebook
            residual = residual - codebook[codes]
        return tensors

    def _encode(self, embeddings: np.ndarray, chunk: int = 8192) -> np.ndarray:
        codes = np.empty((len(embeddings), len(self.level_sizes)), dtype=np.int64)
        for start in range(0, len(embeddings), chunk):
            residual = embeddings[start : start + chunk]
            for level, (codebook, prices) in enumerate(zip(self.codebooks, self.prices, strict=True)):
                codes[start : start + chunk, level] = nearest(residual, codebook, prices)
                residual = residual - codebook[codes[start : start + chunk, level]]
        return codes

    def _reconstruct(self, codes: np.ndarray) -> np.ndarray:
        return np.sum([codebook[codes[:, level]] for level, codebook in enumerate(self.codebooks)], axis=0)
