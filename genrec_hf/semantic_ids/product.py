"""`ProductQuantizer`: product quantization, one code for each part of the embedding, after VQ-Rec and RPG."""

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from genrec_hf.checks import check_least
from genrec_hf.semantic_ids.kmeans import cluster_means, k_means, nearest_codes, subsample
from genrec_hf.semantic_ids.quantizer import Quantizer


@dataclass
class ProductQuantizer(Quantizer):
    """Product quantization: level `l` clusters the `l`-th part of the embedding; for `recipes/build_sids.py`.

    `code_l = argmin_k ||x_l - c_lk||^2`, with `x_l` the `l`-th of as many runs of columns as there are levels, of
    widths as equal as possible; after VQ-Rec (arXiv:2210.12316), which pools one embedding per code where a SID has
    one token per code. With `rotate`, `x = R embedding`: updates of the centers and of the orthogonal `R` of least
    squared error alternate (optimized product quantization, Ge et al., CVPR 2013, initialized with principal axes), as
    in RPG (arXiv:2506.05781). The levels are not ordered from coarse to fine, unlike those of residual quantizers.

    A catalogue of more than `points_per_code * max(level_sizes)` items is clustered on a random sample of that size.

    Args:
        level_sizes (`Sequence[int]`): number of clusters of each part.
        seed (`int`, defaults to 0): random seed of the k-means++ initializations and of the sample.
        rotate (`bool`, defaults to `False`): learn a rotation first.
        rotations (`int`, defaults to 20): number of alternating updates; unused without `rotate`.
        restarts (`int`, defaults to 4): number of k-means runs per level, of which the best is kept; unused with
            `rotate`, which has one run.
        points_per_code (`int`, defaults to 256): sample size, as a multiple of the size of the largest level.

    Raises:
        ValueError: when a setting is out of range.

    Example:
        >>> points = np.array([[0, 0], [0, 9], [9, 0], [9, 9]], dtype=np.float32)
        >>> quantizer = ProductQuantizer(level_sizes=(2, 2)).fit(points, progress=False)
        >>> quantizer.reconstruct(quantizer.encode(points)).tolist()
        [[0.0, 0.0], [0.0, 9.0], [9.0, 0.0], [9.0, 9.0]]
    """

    rotate: bool = False
    rotations: int = 20
    restarts: int = 4
    points_per_code: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(1, rotations=self.rotations, restarts=self.restarts)
        check_least(8, points_per_code=self.points_per_code)

    @threadpool_limits.wrap(limits=1)
    def _fit(self, embeddings: np.ndarray, progress: bool) -> dict[str, np.ndarray]:
        points, tensors = subsample(embeddings, self.points_per_code * max(self.level_sizes), self.seed), {}
        starts: list[np.ndarray | None] = [None] * len(self.level_sizes)
        if self.rotate:
            tensors["rotation"], starts = self._learn_rotation(points, progress)
        parts = self._split(points, tensors.get("rotation"))
        for level, part in enumerate(tqdm(parts, desc="Product quantization", disable=not progress)):
            size, distinct = self.level_sizes[level], len(np.unique(part, axis=0))
            if distinct < size:
                raise ValueError(
                    f"part {level + 1} of the embeddings holds {distinct} distinct values for {size} codes: set "
                    "smaller or fewer level_sizes, or rotate=True"
                )
            tensors[f"codebook.{level}"], _ = k_means(
                part, size, self.restarts, seed=self.seed + level, start=starts[level]
            )
        return tensors

    def _learn_rotation(self, points: np.ndarray, progress: bool) -> tuple[np.ndarray, list[np.ndarray | None]]:
        """Learn `R` `[d, d]`, the non-parametric solution of OPQ, and return it with the centers of each part."""
        rotation = self._assign_axes(points)
        parts = self._split(points, rotation)
        books = [
            k_means(part, self.level_sizes[level], 1, seed=self.seed + level)[0] for level, part in enumerate(parts)
        ]
        for _ in tqdm(range(self.rotations), desc="Rotation", disable=not progress):
            codes = [nearest_codes(part, book) for part, book in zip(parts, books, strict=True)]
            books = [cluster_means(*triple) for triple in zip(parts, codes, books, strict=True)]
            reconstruction = np.concatenate([book[code] for book, code in zip(books, codes, strict=True)], axis=1)
            left, _, right = np.linalg.svd(reconstruction.T @ points)
            rotation = left @ right
            parts = self._split(points, rotation)
        return rotation, list(books)

    def _assign_axes(self, points: np.ndarray) -> np.ndarray:
        """Assign principal axes to parts so that products of variances are similar, the parametric solution of OPQ."""
        centred = points - points.mean(axis=0)
        variances, axes = np.linalg.eigh(centred.T @ centred / len(points))
        log_variances = np.log(np.maximum(variances / variances[-1], 1e-12)) - np.log(1e-12)
        widths = [len(part) for part in np.array_split(np.arange(len(axes)), len(self.level_sizes))]
        axes_of_parts: list[list[int]] = [[] for _ in widths]
        for axis in reversed(range(len(axes))):
            not_full = [part for part, width in enumerate(widths) if len(axes_of_parts[part]) < width]
            axes_of_parts[min(not_full, key=lambda part: log_variances[axes_of_parts[part]].sum())].append(axis)
        return axes[:, [axis for part in axes_of_parts for axis in part]].T.astype(np.float32)

    def _split(self, points: np.ndarray, rotation: np.ndarray | None) -> list[np.ndarray]:
        """Rotate points, and split their columns into one part per level, the first ones wider by up to one column."""
        if points.shape[1] < len(self.level_sizes):
            raise ValueError(
                f"embeddings of {points.shape[1]} columns cannot be split into {len(self.level_sizes)} parts: use "
                "fewer levels"
            )
        if rotation is not None:
            points = (points.astype(np.float64) @ rotation.T).astype(np.float32)
        return np.array_split(points, len(self.level_sizes), axis=1)

    def _encode(self, embeddings: np.ndarray, chunk: int = 8192) -> np.ndarray:
        codes = np.empty((len(embeddings), len(self.level_sizes)), dtype=np.int64)
        for start in range(0, len(embeddings), chunk):
            parts = self._split(embeddings[start : start + chunk], self.tensors.get("rotation"))
            for level, part in enumerate(parts):
                codes[start : start + chunk, level] = nearest_codes(part, self.tensors[f"codebook.{level}"])
        return codes

    def _reconstruct(self, codes: np.ndarray) -> np.ndarray:
        books = [self.tensors[f"codebook.{level}"] for level in range(len(self.level_sizes))]
        points = np.concatenate([book[codes[:, level]] for level, book in enumerate(books)], axis=1)
        return points @ self.tensors["rotation"] if self.rotate else points
