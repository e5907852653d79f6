"""`ProductQuantizer`: the embedding cut into parts, one code a part, after VQ-Rec and RPG."""

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from genrec_hf.checks import check_least
from genrec_hf.semantic_ids.kmeans import draw, k_means, means, nearest
from genrec_hf.semantic_ids.quantizer import Quantizer


@dataclass
class ProductQuantizer(Quantizer):
    """Product quantization: level `l` clusters the `l`-th part of the embedding; for `recipes/build_sids.py`.

    `code_l = argmin_k ||x_l - c_lk||^2`, with `x_l` the `l`-th of as many runs of columns as there are levels, as even
    as the width allows; after VQ-Rec (arXiv:2210.12316), which pools an embedding of each code where a SID has a
    token. With `rotate`, `x = R embedding`: turns of moving centres and of finding the orthogonal `R` of least squared
    error (optimised product quantization, Ge et al., CVPR 2013, from principal axes), the ids of RPG
    (arXiv:2506.05781). Parts are equals: a prefix of the codes is no coarser reading of the item, unlike residual
    codes.

    A catalogue of more than `points_per_code * max(level_sizes)` items is clustered on a random sample of so many.

    Args:
        level_sizes (`Sequence[int]`): clusters of each part.
        seed (`int`, defaults to 0): of the k-means++ starts.
        rotate (`bool`, defaults to `False`): learn a rotation first.
        rotations (`int`, defaults to 20): turns of centres and rotation.
        restarts (`int`, defaults to 4): k-means runs a level, the best kept; one with `rotate`.
        points_per_code (`int`, defaults to 256): items a code of the largest level that are enough to learn from.

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
        points, tensors = draw(embeddings, self.points_per_code * max(self.level_sizes), self.seed), {}
        starts: list[np.ndarray | None] = [None] * len(self.level_sizes)
        if self.rotate:
            tensors["rotation"], starts = self._learn_rotation(points, progress)
        parts = self._parts(points, tensors.get("rotation"))
        for level, part in enumerate(tqdm(parts, desc="Product quantization", disable=not progress)):
            size, distinct = self.level_sizes[level], len(np.unique(part, axis=0))
            if distinct < size:
                raise ValueError(
                    f"part {level + 1} of the embeddings holds {distinct} distinct values for {size} codes: "
                    "ask for fewer codes, fewer levels or rotate=True"
                )
            tensors[f"codebook.{level}"], _ = k_means(
                part, size, self.restarts, seed=self.seed + level, start=starts[level]
            )
        return tensors

    def _learn_rotation(self, points: np.ndarray, progress: bool) -> tuple[np.ndarray, list[np.ndarray | None]]:
        """`R` `[d, d]` of OPQ's non-parametric solution, and the centres that it was learnt with."""
        rotation = self._deal_axes(points)
        parts = self._parts(points, rotation)
        books = [
            k_means(part, self.level_sizes[level], 1, seed=self.seed + level)[0] for level, part in enumerate(parts)
        ]
        for _ in tqdm(range(self.rotations), desc="Rotation", disable=not progress):
            codes = [nearest(part, book) for part, book in zip(parts, books, strict=True)]
            books = [means(part, *pair) for part, pair in zip(parts, zip(codes, books, strict=True), strict=True)]
            stand_in = np.concatenate([book[code] for book, code in zip(books, codes, strict=True)], axis=1)
            left, _, right = np.linalg.svd(stand_in.T @ points)
            rotation = left @ right
            parts = self._parts(points, rotation)
        return rotation, list(books)

    def _deal_axes(self, points: np.ndarray) -> np.ndarray:
        """OPQ's parametric solution: principal axes, dealt so that the parts have like products of variances."""
        centred = points - points.mean(axis=0)
        variances, axes = np.linalg.eigh(centred.T @ centred / len(points))
        gains = np.log(np.maximum(variances / variances[-1], 1e-12)) - np.log(1e-12)
        widths = [len(part) for part in np.array_split(np.arange(len(axes)), len(self.level_sizes))]
        dealt: list[list[int]] = [[] for _ in widths]
        for axis in reversed(range(len(axes))):
            room = [part for part, width in enumerate(widths) if len(dealt[part]) < width]
            dealt[min(room, key=lambda part: gains[dealt[part]].sum())].append(axis)
        return axes[:, [axis for part in dealt for axis in part]].T.astype(np.float32)

    def _parts(self, points: np.ndarray, rotation: np.ndarray | None) -> list[np.ndarray]:
        """Columns of each level, rotated first; the first parts are a column wider where the width does not divide."""
        if points.shape[1] < len(self.level_sizes):
            raise ValueError(
                f"embeddings of {points.shape[1]} columns cannot be cut into {len(self.level_sizes)} parts: ask for "
                "fewer levels"
            )
        if rotation is not None:
            points = (points.astype(np.float64) @ rotation.T).astype(np.float32)
        return np.array_split(points, len(self.level_sizes), axis=1)

    def _encode(self, embeddings: np.ndarray, chunk: int = 8192) -> np.ndarray:
        codes = np.empty((len(embeddings), len(self.level_sizes)), dtype=np.int64)
        for start in range(0, len(embeddings), chunk):
            parts = self._parts(embeddings[start : start + chunk], self.tensors.get("rotation"))
            for level, part in enumerate(parts):
                codes[start : start + chunk, level] = nearest(part, self.tensors[f"codebook.{level}"])
        return codes

    def _reconstruct(self, codes: np.ndarray) -> np.ndarray:
        books = [self.tensors[f"codebook.{level}"] for level in range(len(self.level_sizes))]
        points = np.concatenate([book[codes[:, level]] for level, book in enumerate(books)], axis=1)
        return points @ self.tensors["rotation"] if self.rotate else points
