"""`HierarchicalKmeans`: recursive k-means, whose codes are paths in a tree of clusters, after P5-CID."""

from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from genrec_hf.checks import check_least
from genrec_hf.semantic_ids.kmeans import k_means, nearest_codes
from genrec_hf.semantic_ids.quantizer import Quantizer


@dataclass
class HierarchicalKmeans(Quantizer):
    """Recursive k-means: level `l` clusters the items of each node of level `l - 1`; for `recipes/build_sids.py`.

    `code_l = argmin_k ||x - c_{node,k}||^2` over the children of the node that the codes of the levels above select.
    After the collaborative ids of P5 (arXiv:2305.06569), which partitions a co-occurrence graph by spectral clustering
    and stops at small clusters; here embeddings are clustered by k-means to a fixed depth. The same code under two
    parents has no common meaning, unlike residual codes.

    A node with fewer distinct items than codes has one child for each. Codes without a child are never returned by
    `encode`, and `reconstruct` returns the center of their node. Time grows with the number of nodes: a large
    catalogue can have as many leaves as items.

    Args:
        level_sizes (`Sequence[int]`): maximum number of children of a node on each level.
        seed (`int`, defaults to 0): random seed of the k-means++ initializations.
        restarts (`int`, defaults to 4): number of k-means runs per node; the best is kept.

    Raises:
        ValueError: when `restarts` is below 1.

    Example:
        >>> points = np.array([[0, 0], [0, 1], [9, 0], [9, 1], [9, 2]], dtype=np.float32)
        >>> codes = HierarchicalKmeans(level_sizes=(2, 3)).fit(points, progress=False).encode(points)
        >>> codes[:, 1].tolist()
        [0, 1, 0, 1, 2]
    """

    restarts: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(1, restarts=self.restarts)

    def _min_distinct(self) -> int:
        return self.level_sizes[0]

    def _fit(self, embeddings: np.ndarray, progress: bool) -> dict[str, np.ndarray]:
        """Cluster the items of every node, level by level.

        Returns:
            `dict[str, np.ndarray]`: for each level `centres.<level>` `[nodes, d]`, with siblings adjacent, and
            `first.<level>` `[parents + 1]`, the offsets of the children of each parent.
        """
        tensors, nodes = {}, [np.arange(len(embeddings))]
        for level, size in enumerate(self.level_sizes):
            centres, children = [], []
            label = f"Hierarchical k-means, level {level + 1}"
            for items in tqdm(nodes, desc=label, disable=not progress):
                books, codes = self._split(embeddings[items], size)
                centres.append(books)
                children += [items[codes == code] for code in range(len(books))]
            tensors[f"centres.{level}"] = np.concatenate(centres)
            tensors[f"first.{level}"] = np.cumsum([0, *map(len, centres)])
            nodes = children
        return tensors

    def _split(self, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Cluster the points of a node, and return the centers of its children and the child of each point."""
        if len(points) == 1:
            return points, np.zeros(1, dtype=np.int64)
        distinct, codes = np.unique(points, axis=0, return_inverse=True)
        if len(distinct) <= size:
            return distinct, codes.reshape(-1)
        centres, _ = k_means(points, size, self.restarts, seed=self.seed)
        # Assigned as in `encode`: k-means may stop one step before its centers and clusters agree. No child is empty.
        used, codes = np.unique(nearest_codes(points, centres), return_inverse=True)
        return centres[used], codes

    def _encode(self, embeddings: np.ndarray) -> np.ndarray:
        codes = np.zeros((len(embeddings), len(self.level_sizes)), dtype=np.int64)
        node = np.zeros(len(embeddings), dtype=np.int64)
        for level in range(len(self.level_sizes)):
            centres, first = self.tensors[f"centres.{level}"], self.tensors[f"first.{level}"]
            order = np.argsort(node, kind="stable")
            parents, starts = np.unique(node[order], return_index=True)
            for parent, items in zip(parents, np.split(order, starts[1:]), strict=True):
                if first[parent + 1] - first[parent] > 1:
                    codes[items, level] = nearest_codes(embeddings[items], centres[first[parent] : first[parent + 1]])
            node = first[node] + codes[:, level]
        return codes

    def _reconstruct(self, codes: np.ndarray) -> np.ndarray:
        node, exists = np.zeros(len(codes), dtype=np.int64), np.ones(len(codes), dtype=bool)
        points = np.zeros((len(codes), self.embedding_size or 0), dtype=np.float32)
        for level in range(len(self.level_sizes)):
            centres, first = self.tensors[f"centres.{level}"], self.tensors[f"first.{level}"]
            exists[exists] = codes[exists, level] < (first[node + 1] - first[node])[exists]
            node[exists] = first[node[exists]] + codes[exists, level]
            points[exists] = centres[node[exists]]
        return points
