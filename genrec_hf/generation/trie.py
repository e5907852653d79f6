"""`SidTrie`: the catalogue's SIDs as level-CSR arrays, small, vectorised and free of Python objects per item."""

import numpy as np

from genrec_hf.semantic_ids import SemanticIds


class SidTrie:
    """Prefix tree over codes, for constrained decoding.

    Nodes of a level are numbered in lexicographic order of their code prefix, so the children of a node are
    neighbours: `first_child[l][node] : first_child[l][node + 1]` are its children among the nodes of level `l + 1`.
    Level 0 holds the root alone; a node of level `l` stands for a prefix of `l` codes; leaves stand for whole SIDs.

    Args:
        semantic_ids (`SemanticIds` or `np.ndarray`): the catalogue, or codes `[items, levels]`; items may share codes.

    Attributes:
        levels (`int`): codes of one SID.
        codes (`list[np.ndarray]`): `codes[l]` `[nodes of level l + 1]`, the last code of each of these prefixes.
        parents (`list[np.ndarray]`): `parents[l]` `[nodes of level l + 1]`, their parents, nodes of level `l`.
        first_child (`list[np.ndarray]`): `first_child[l]` `[nodes of level l, plus 1]`.
        counts (`list[np.ndarray]`): `counts[l]` `[nodes of level l]`, items below each node.
        leaf (`np.ndarray`): `[items]`, the leaf of each item.

    Example:
        >>> trie = SidTrie(np.array([[0, 1], [0, 0], [2, 1]]))
        >>> trie.first_child[0].tolist(), trie.codes[1].tolist(), trie.items(trie.leaf[[2, 0]]).tolist()
        ([0, 2], [0, 1, 1], [2, 0])
    """

    def __init__(self, semantic_ids: SemanticIds | np.ndarray) -> None:
        codes = np.asarray(semantic_ids.codes if isinstance(semantic_ids, SemanticIds) else semantic_ids)
        if codes.ndim != 2 or codes.size == 0 or codes.min() < 0:
            raise ValueError(
                f"codes of shape {codes.shape}: a trie needs [items, levels] of codes >= 0, one item or more"
            )
        self.levels = codes.shape[1]
        self.sizes = (codes.max(axis=0) + 1).tolist()
        self.codes, self.parents, self.first_child, self.counts = [], [], [], []
        node = np.zeros(len(codes), dtype=np.int64)
        nodes = 1
        for level in range(self.levels):
            keys, child = np.unique(node * self.sizes[level] + codes[:, level], return_inverse=True)
            self.counts.append(np.bincount(node, minlength=nodes))
            self.parents.append(keys // self.sizes[level])
            self.codes.append(keys % self.sizes[level])
            self.first_child.append(np.searchsorted(self.parents[-1], np.arange(nodes + 1)))
            node, nodes = child.reshape(-1), len(keys)
        self.counts.append(np.bincount(node, minlength=nodes))
        self.leaf = node
        self._items_by_leaf = np.argsort(node, kind="stable")
        self._first_item = np.concatenate([[0], np.cumsum(self.counts[-1])])

    def __len__(self) -> int:
        return len(self.leaf)

    def child(self, level: int, nodes: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """The children of `nodes` `[n]` of `level` under `codes` `[n]`, as nodes of `level + 1`; `-1` for none."""
        keys = self.parents[level] * self.sizes[level] + self.codes[level]
        wanted = np.asarray(nodes) * self.sizes[level] + np.asarray(codes)
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        legal = (keys[found] == wanted) & (np.asarray(nodes) >= 0) & (codes >= 0) & (codes < self.sizes[level])
        return np.where(legal, found, -1)

    def items(self, leaves: np.ndarray) -> np.ndarray:
        """The first item `[n]` of each leaf `[n]`; `-1` stays `-1`."""
        leaves = np.asarray(leaves)
        return np.where(leaves >= 0, self._items_by_leaf[self._first_item[np.maximum(leaves, 0)]], -1)

    def dead_nodes(self, denied: np.ndarray) -> list[np.ndarray]:
        """For each level below the root, the nodes whose every item is denied, `[dead nodes of level l + 1]`.

        Args:
            denied (`np.ndarray`): item rows; repeats count once.
        """
        node = self.leaf[np.unique(np.asarray(denied, dtype=np.int64))]
        dead = []
        for level in range(self.levels, 0, -1):
            touched, count = np.unique(node, return_counts=True)
            dead.append(touched[count == self.counts[level][touched]])
            node = self.parents[level - 1][node]
        return dead[::-1]
