"""`HierarchicalKmeans`: k-means of the items of every cluster, and again: codes are paths of a tree, after P5-CID."""

from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from genrec_hf.checks import check_least
from genrec_hf.semantic_ids.kmeans import k_means, nearest
from genrec_hf.semantic_ids.quantizer import Quantizer


@dataclass
class HierarchicalKmeans(Quantizer):
    """Recursive k-means: level `l` clusters the items of each node of level `l - 1`; for `recipes/build_sids.py`.

    `code_l = argmin_k ||x - c_{node,k}||^2` over the children of the node that the codes before it lead to. After the
    collaborative ids of P5 (arXiv:2305.06569), which cuts a graph of co-occurrence by spectral clustering
    and stops at small clusters; here embeddings are clustered by k-means to a fixed depth. The same code under two
    parents means nothing in common, unlike residual codes.

    A node with fewer distinct items than codes has a child for each. Codes without a child are never given by `encode`
    and stand for their node's centre. Time grows with the number of nodes: a large catalogue can have as many
    leaves as items.

    Args:
        level_sizes (`Sequence[int]`): most children of a node of each level.
        seed (`int`, defaults to 0): of the k-means++ starts.
        restarts (`int`, defaults to 4): k-means runs a node, the best kept.

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

    def _fewest(self) -> int:
        return self.level_sizes[0]

    def _fit(self, embeddings: np.ndarray, progress: bool) -> dict[str, np.ndarray]:
        """Of each level, `centres` `[nodes, d]`, siblings in a row, and `first` `[parents + 1]`, where rows start."""
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
        """Centres of a node's children, and the child of each item; no child is empty."""
        if len(points) == 1:
            return points, np.zeros(1, dtype=np.int64)
        distinct, codes = np.unique(points, axis=0, return_inverse=True)
        if len(distinct) <= size:
            return distinct, codes.reshape(-1)
        centres, _ = k_means(points, size, self.restarts, seed=self.seed)
        # As encode will have it: k-means may stop a step before its centres and clusters agree.
        used, codes = np.unique(nearest(points, centres), return_inverse=True)
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
                    codes[items, level] = nearest(embeddings[items], centres[first[parent] : first[parent + 1]])
            node = first[node] + codes[:, level]
        return codes

    def _reconstruct(self, codes: np.ndarray) -> np.ndarray:
        node, alive = np.zeros(len(codes), dtype=np.int64), np.ones(len(codes), dtype=bool)
        points = np.zeros((len(codes), self.embedding_size or 0), dtype=np.float32)
        for level in range(len(self.level_sizes)):
            centres, first = self.tensors[f"centres.{level}"], self.tensors[f"first.{level}"]
            alive[alive] = codes[alive, level] < (first[node + 1] - first[node])[alive]
            node[alive] = first[node[alive]] + codes[alive, level]
            points[alive] = centres[node[alive]]
        return points
