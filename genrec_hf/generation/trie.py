"""Trie over the SIDs of a catalogue, stored as level-CSR tensors without a Python object per item."""

import copy
from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch

from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.semantic_ids.sorting import sorted_codes
from genrec_hf.vocabulary import SidVocabulary

# One lock for all tries, as an attribute of this type would make a trie neither copyable nor picklable.
_LEAF_LOCK = Lock()
# A level with at most this many nodes times codes gets a dense table of children, of at most 1 MiB of int32.
DENSE_ENTRIES = 1 << 18


class SidTrie:
    """Trie over the SIDs of a catalogue, for constrained decoding.

    A node of level `l` is a prefix of `l` codes: level 0 holds the root alone, and the nodes of the last level, the
    leaves, are complete SIDs. The nodes of a level are numbered in lexicographic order of their prefixes, so that the
    children of a node are consecutive: they are the nodes `first_child[l][node]` to `first_child[l][node + 1]`
    (exclusive) of level `l + 1`. A trie of a million items with four levels of 256 codes takes 10 MB and is built in
    0.1 to 0.2 seconds, so it is not saved.

    Args:
        semantic_ids (`SemanticIds` or `np.ndarray`): the catalogue, or its codes `[items, levels]`. Several items may
            have the same codes.
        token_ids (`SidVocabulary` or `Sequence[np.ndarray]`, *optional*): the vocabulary, bound to the model's
            tokenizer, or for each level the token id of each code `[codes]`. `sid_beam_search` and `sid_sample`
            require it, as they read the token of each code from the trie.

    Attributes:
        levels (`int`): number of codes in a SID.
        sizes (`list[int]`): for each level, the highest code in use plus 1.
        codes (`list[torch.Tensor]`): `codes[l]` `[nodes of level l + 1]`, the last code of each node's prefix.
        first_child (`list[torch.Tensor]`): `first_child[l]` `[nodes of level l, plus 1]`, int32.
        max_children (`list[int]`): for each level, the maximum number of children of a node.
        tables (`list[torch.Tensor | None]`): for each level, children as a dense table `[nodes, codes]`, `-1` where
            there is no child; `None` for a level that is too large.
        token_ids (`list[torch.Tensor] | None`): for each level, the token id of each code; `None` when not given.

    Raises:
        ValueError: the codes are not non-negative integers `[items, levels]`, or a code has no token id.

    Example:
        >>> trie = SidTrie(np.array([[0, 1], [0, 0], [2, 1]]))  # three items with two codes each
        >>> trie.levels, trie.sizes, [trie.nodes(level) for level in range(3)]
        (2, [3, 2], [1, 2, 3])
        >>> children, codes, exists = trie.children(0, torch.tensor([0]))  # of the root
        >>> children.tolist(), codes.tolist()
        ([[0, 1]], [[0, 2]])
        >>> trie.leaf.tolist(), trie.items(torch.tensor([0, 1, 2])).tolist()  # leaf of each item, item of each leaf
        ([1, 0, 2], [1, 0, 2])
    """

    def __init__(
        self, semantic_ids: SemanticIds | np.ndarray, token_ids: SidVocabulary | Sequence[np.ndarray] | None = None
    ) -> None:
        codes = np.asarray(semantic_ids.codes if isinstance(semantic_ids, SemanticIds) else semantic_ids)
        is_matrix = np.issubdtype(codes.dtype, np.integer) and codes.ndim == 2 and codes.size > 0
        if not is_matrix or codes.min() < 0 or codes.max() >= 2**31:  # codes are stored as int32
            raise ValueError(
                f"got codes of shape {codes.shape} and dtype {codes.dtype}: a trie needs integer codes "
                "[items, levels] from 0 to 2**31 - 1, at least one item"
            )
        self.levels = codes.shape[1]
        self.sizes: list[int] = []
        self.codes, self.first_child, self.max_children = [], [], []
        order, columns = sorted_codes(codes)
        is_first = np.zeros(len(codes), dtype=bool)  # the first item of its prefix, in lexicographic order
        is_first[0] = True
        for column in columns:
            is_first_of_parent = is_first.copy()
            is_first[1:] |= column[1:] != column[:-1]
            node_codes = column[is_first]
            first_child = np.append(np.flatnonzero(is_first_of_parent[is_first]), len(node_codes)).astype(np.int32)
            self.sizes.append(int(node_codes.max()) + 1)
            self.first_child.append(torch.from_numpy(first_child))
            self.codes.append(torch.from_numpy(node_codes.astype(_smallest_dtype(self.sizes[-1]))))
            self.max_children.append(int(np.diff(first_child).max()))
        self._sorted_items = torch.from_numpy(order.astype(np.int32))  # in the order of their leaves
        # The leaf of every item that is not the first one of its leaf; empty where each item has its own SID.
        repeats = np.flatnonzero(~is_first)
        self._repeats = torch.from_numpy((repeats - np.arange(1, len(repeats) + 1)).astype(np.int32))
        self._leaf: torch.Tensor | None = None
        self.tables = [self._dense_table(level) for level in range(self.levels)]
        self.token_ids: list[torch.Tensor] | None = None
        if token_ids is not None:
            self.token_ids = self.bind(token_ids).token_ids

    def __len__(self) -> int:
        return len(self._sorted_items)

    @property
    def device(self) -> torch.device:
        """Device of its tensors."""
        return self._sorted_items.device

    @property
    def nbytes(self) -> int:
        """Size of its tensors in bytes."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def to(self, device: torch.device | str) -> "SidTrie":
        """Return the trie on another device; itself if it is there already.

        Args:
            device (`torch.device` or `str`): the device.

        Returns:
            `SidTrie`: a copy on `device`, or `self`.
        """
        if torch.empty(0, device=device).device == self.device:  # "cuda" and "cuda:0" may be the same
            return self
        moved = copy.copy(self)
        moved._leaf = None  # another thread may compute it at this moment
        for name, value in self.__dict__.items():
            if name != "_leaf" and isinstance(value, torch.Tensor):
                setattr(moved, name, value.to(device))
            elif isinstance(value, list) and any(isinstance(part, torch.Tensor) for part in value):
                setattr(moved, name, [None if part is None else part.to(device) for part in value])
        return moved

    def bind(self, token_ids: SidVocabulary | Sequence[np.ndarray]) -> "SidTrie":
        """Return the trie with token ids; the tensors of the tree are shared.

        Args:
            token_ids (`SidVocabulary` or `Sequence[np.ndarray]`): the vocabulary, or for each level the token id of
                each code `[codes]`.

        Returns:
            `SidTrie`: with the attribute `token_ids`.

        Raises:
            ValueError: a level or a code of the trie has no token id.
        """
        ids = token_ids if isinstance(token_ids, Sequence) else token_ids.level_token_ids
        if len(ids) != self.levels or any(len(level) < size for level, size in zip(ids, self.sizes, strict=True)):
            raise ValueError(
                f"got a trie of {self.sizes} codes that does not fit a vocabulary of {[len(level) for level in ids]}: "
                "items would get wrong tokens; pass the vocabulary of the trie's semantic ids"
            )
        bound = copy.copy(self)
        bound.token_ids = [torch.from_numpy(np.array(level, dtype=np.int64)).to(self.device) for level in ids]
        return bound

    def nodes(self, level: int) -> int:
        """Return the number of nodes of a level, that is of prefixes of `level` codes.

        Args:
            level (`int`): from 0 (the root) to `levels` (the leaves).

        Returns:
            `int`: number of nodes.
        """
        return 1 if level == 0 else len(self.codes[level - 1])

    def children(
        self, level: int, nodes: torch.Tensor, max_children: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the children of nodes, padded to the same number.

        Args:
            level (`int`): level of the nodes.
            nodes (`torch.Tensor`): `[...]`, int64.
            max_children (`int`, *optional*): number that children are padded to; `max_children[level]` is always
                enough. The maximum over these nodes when not given, which synchronizes with the device.

        Returns:
            `tuple`: nodes of `level + 1`, their codes, and whether the child exists (`bool`), each
            `[..., max_children]`. Nodes and codes of children that do not exist are undefined.
        """
        first, stop = self.first_child[level][nodes], self.first_child[level][nodes + 1]
        max_children = int((stop - first).max()) if max_children is None else max_children
        children = first[..., None] + torch.arange(max_children, device=nodes.device)
        exists = children < stop[..., None]
        children = children.clamp(max=len(self.codes[level]) - 1)
        return children, self.codes[level][children].long(), exists

    def child(self, level: int, nodes: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Return the child of each node that has a given code.

        Args:
            level (`int`): level of the nodes.
            nodes (`torch.Tensor`): `[n]`, int64; nodes that do not exist have no child.
            codes (`torch.Tensor`): `[n]`, int64; codes that do not exist lead to no child.

        Returns:
            `torch.Tensor`: `[n]`, nodes of `level + 1`; `-1` where there is no such child.
        """
        exists = (nodes >= 0) & (nodes < self.nodes(level)) & (codes >= 0) & (codes < self.sizes[level])
        nodes, codes = nodes.clamp(0, self.nodes(level) - 1), codes.clamp(0, self.sizes[level] - 1)
        table = self.tables[level]
        if table is not None:
            return torch.where(exists, table[nodes, codes].long(), -1)
        low, stop = self.first_child[level][nodes].long(), self.first_child[level][nodes + 1].long()
        high = stop
        for _ in range(self.max_children[level].bit_length()):
            middle = (low + high) // 2
            below = self.codes[level][middle.clamp(max=len(self.codes[level]) - 1)] < codes
            low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
        clamped = low.clamp(max=len(self.codes[level]) - 1)
        return torch.where(exists & (low < stop) & (self.codes[level][clamped] == codes), low, -1)

    def parent(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Return the parent of each node.

        Args:
            level (`int`): level of the parents.
            nodes (`torch.Tensor`): `[n]`, nodes of `level + 1`.

        Returns:
            `torch.Tensor`: `[n]`, nodes of `level`.
        """
        return torch.searchsorted(self.first_child[level], nodes.to(torch.int32), right=True) - 1

    def count(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Return the number of items below each node.

        Args:
            level (`int`): level of the nodes.
            nodes (`torch.Tensor`): `[...]`, int64.

        Returns:
            `torch.Tensor`: `[...]`, int64.
        """
        first, stop = self._leaf_range(level, nodes)
        return self._first_position(stop) - self._first_position(first)

    def leaves(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Return the number of SIDs below each node, which is less than `count` where items share a SID.

        Args:
            level (`int`): level of the nodes.
            nodes (`torch.Tensor`): `[...]`, int64.

        Returns:
            `torch.Tensor`: `[...]`, int64.
        """
        first, stop = self._leaf_range(level, nodes)
        return stop - first

    def _leaf_range(self, level: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first leaf below each node, and the one after the last."""
        first, stop = nodes, nodes + 1
        for first_child in self.first_child[level:]:
            first, stop = first_child[first].long(), first_child[stop].long()
        return first, stop

    @property
    def leaf(self) -> torch.Tensor:
        """Leaf of each item, `[items]`, int32; computed at the first access, once for all threads."""
        if self._leaf is None:
            with _LEAF_LOCK:
                if self._leaf is None:
                    leaves = torch.arange(self.nodes(self.levels), dtype=torch.int32, device=self.device)
                    leaves = torch.cat([leaves, self._repeats]).sort().values if self.shares_sids else leaves
                    self._leaf = torch.empty_like(leaves).scatter_(0, self._sorted_items.long(), leaves)
        return self._leaf

    def items(self, leaves: torch.Tensor) -> torch.Tensor:
        """Return the item of each leaf; the first one where several items share a SID.

        Args:
            leaves (`torch.Tensor`): `[...]`, leaves, or `-1` for an empty rank.

        Returns:
            `torch.Tensor`: `[...]`, int64, item rows; `-1` for an empty rank.
        """
        return torch.where(leaves >= 0, self._sorted_items[self._first_position(leaves.clamp(min=0))].long(), -1)

    def items_of(self, leaf: int) -> torch.Tensor:
        """Return all items of one leaf, which share a SID.

        Args:
            leaf (`int`): the leaf.

        Returns:
            `torch.Tensor`: `[n]`, int64, item rows in ascending order.
        """
        first, stop = self._first_position(torch.tensor([leaf, leaf + 1], device=self.device)).tolist()
        return self._sorted_items[first:stop].long()

    @property
    def shares_sids(self) -> bool:
        """Whether a SID belongs to several items."""
        return len(self._repeats) > 0

    def _first_position(self, leaves: torch.Tensor) -> torch.Tensor:
        """Return the position in `_sorted_items` of the first item of each leaf."""
        if not self.shares_sids:
            return leaves
        return leaves + torch.searchsorted(self._repeats, leaves.to(torch.int32))

    def _dense_table(self, level: int) -> torch.Tensor | None:
        """Build the table of children `[nodes, codes]` of a level; `None` if it would be too large."""
        if self.nodes(level) * self.sizes[level] > DENSE_ENTRIES:
            return None
        table = torch.full((self.nodes(level), self.sizes[level]), -1, dtype=torch.int32)
        parent = torch.arange(self.nodes(level)).repeat_interleave(self.first_child[level].diff())
        table[parent, self.codes[level].long()] = torch.arange(len(parent), dtype=torch.int32)
        return table

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Return all its tensors by name."""
        named = {}
        for name, value in list(self.__dict__.items()):
            for number, part in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(part, torch.Tensor):
                    named[f"{name}.{number}"] = part
        return named


def _smallest_dtype(size: int) -> type[np.integer]:
    """Return the smallest integer type for codes below `size`."""
    return np.uint8 if size <= 1 << 8 else np.int16 if size <= 1 << 15 else np.int32
