"""`SidTrie`: the catalogue's SIDs as level-CSR tensors, a few bytes an item and no Python object per item."""

import copy
from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch

from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.semantic_ids.sorting import sorted_codes
from genrec_hf.vocabulary import SidVocabulary

# Of the module, so that a trie can be copied and pickled.
_MAKING = Lock()
# A level whose nodes times codes stay below this gets a dense table of children: 1 MiB of int32 at most.
DENSE_ENTRIES = 1 << 18


class SidTrie:
    """Prefix tree over codes, for constrained decoding.

    Nodes of a level are numbered in lexicographic order of their code prefix, so the children of a node are
    neighbours: `first_child[l][node] : first_child[l][node + 1]` are its children among the nodes of level `l + 1`.
    Level 0 holds the root alone; a node of level `l` stands for a prefix of `l` codes; leaves stand for whole SIDs.
    A million items of four levels of 256 codes take 10 MB and a tenth of a second or two; nothing needs saving.

    Args:
        semantic_ids (`SemanticIds` or `np.ndarray`): the catalogue, or codes `[items, levels]`; items may share codes.
        token_ids (`SidVocabulary` or `Sequence[np.ndarray]`, *optional*): bound to the model's tokenizer, or for each
            level the token id of each code, whatever gave them; needed by `sid_beam_search` and `sid_sample`, which
            read the token of each code from the trie.

    Attributes:
        levels (`int`): codes of one SID.
        sizes (`list[int]`): for each level, the highest code in use plus 1.
        codes (`list[torch.Tensor]`): `codes[l]` `[nodes of level l + 1]`, the last code of each of these prefixes.
        first_child (`list[torch.Tensor]`): `first_child[l]` `[nodes of level l, plus 1]`, int32.
        most_children (`list[int]`): the most children that a node of each level has.
        tables (`list[torch.Tensor | None]`): of small first levels, child by `[node, code]`, `-1` for none.
        token_ids (`list[torch.Tensor] | None`): token id of each code, one tensor a level; `None` without vocabulary.

    Raises:
        ValueError: when the codes make no trie, or some of them have no token id.

    Example:
        >>> trie = SidTrie(np.array([[0, 1], [0, 0], [2, 1]]))
        >>> trie.first_child[0].tolist(), trie.codes[1].tolist(), trie.items(trie.leaf[[2, 0]]).tolist()
        ([0, 2], [0, 1, 1], [2, 0])
    """

    def __init__(
        self, semantic_ids: SemanticIds | np.ndarray, token_ids: SidVocabulary | Sequence[np.ndarray] | None = None
    ) -> None:
        codes = np.asarray(semantic_ids.codes if isinstance(semantic_ids, SemanticIds) else semantic_ids)
        numbers = np.issubdtype(codes.dtype, np.integer) and codes.ndim == 2 and codes.size > 0
        if not numbers or codes.min() < 0 or codes.max() >= 2**31:  # as many as torch's int32 holds
            raise ValueError(
                f"codes of shape {codes.shape} and dtype {codes.dtype}: a trie needs [items, levels] of whole codes "
                "from 0 to 2**31 - 1, one item or more"
            )
        self.levels = codes.shape[1]
        self.sizes: list[int] = []
        self.codes, self.first_child, self.most_children = [], [], []
        order, columns = sorted_codes(codes)
        is_first = np.zeros(len(codes), dtype=bool)  # of its prefix's items, in lexicographic order
        is_first[0] = True
        for column in columns:
            above = is_first.copy()
            is_first[1:] |= column[1:] != column[:-1]
            nodes = column[is_first]
            first_child = np.append(np.flatnonzero(above[is_first]), len(nodes)).astype(np.int32)
            self.sizes.append(int(nodes.max()) + 1)
            self.first_child.append(torch.from_numpy(first_child))
            self.codes.append(torch.from_numpy(nodes.astype(_smallest(self.sizes[-1]))))
            self.most_children.append(int(np.diff(first_child).max()))
        self._item_of = torch.from_numpy(order.astype(np.int32))  # in the order of their leaves
        # The leaf of every item but the first of its leaf: empty where each item has a SID of its own.
        repeats = np.flatnonzero(~is_first)
        self._repeats = torch.from_numpy((repeats - np.arange(1, len(repeats) + 1)).astype(np.int32))
        self._leaf: torch.Tensor | None = None
        self.tables = [self._table(level) for level in range(self.levels)]
        self.token_ids: list[torch.Tensor] | None = None
        if token_ids is not None:
            self.token_ids = self.bind(token_ids).token_ids

    def __len__(self) -> int:
        return len(self._item_of)

    @property
    def device(self) -> torch.device:
        return self._item_of.device

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def to(self, device: torch.device | str) -> "SidTrie":
        """The same trie on `device`; itself when it is there."""
        if torch.empty(0, device=device).device == self.device:  # "cuda" and "cuda:0" may be one
            return self
        moved = copy.copy(self)
        moved._leaf = None  # it may be made meanwhile, by another thread
        for name, value in self.__dict__.items():
            if name != "_leaf" and isinstance(value, torch.Tensor):
                setattr(moved, name, value.to(device))
            elif isinstance(value, list) and any(isinstance(part, torch.Tensor) for part in value):
                setattr(moved, name, [None if part is None else part.to(device) for part in value])
        return moved

    def bind(self, token_ids: SidVocabulary | Sequence[np.ndarray]) -> "SidTrie":
        """The same trie with these tokens; the tensors of the tree are shared.

        Args:
            token_ids (`SidVocabulary` or `Sequence[np.ndarray]`): as for a new trie.

        Raises:
            ValueError: when levels or codes of the trie have no token id.
        """
        ids = token_ids if isinstance(token_ids, Sequence) else token_ids.level_token_ids
        if len(ids) != self.levels or any(len(level) < size for level, size in zip(ids, self.sizes, strict=True)):
            raise ValueError(
                f"a trie of {self.sizes} codes does not fit a vocabulary of {[len(level) for level in ids]}: items "
                "would get other tokens; pass the vocabulary of these semantic ids"
            )
        bound = copy.copy(self)
        bound.token_ids = [torch.from_numpy(np.array(level, dtype=np.int64)).to(self.device) for level in ids]
        return bound

    def nodes(self, level: int) -> int:
        """How many prefixes of `level` codes there are."""
        return 1 if level == 0 else len(self.codes[level - 1])

    def children(
        self, level: int, nodes: torch.Tensor, most: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Children of `nodes` `[...]` of `level`, side by side.

        Args:
            level (`int`): of the nodes.
            nodes (`torch.Tensor`): `[...]`, int64.
            most (`int`, *optional*): places for children; by default as many as these nodes need, which waits for the
                device. `most_children[level]` always suffices.

        Returns:
            `tuple`: children `[..., most]`, nodes of `level + 1`, anything where there is none; their codes, likewise;
            `bool` `[..., most]`, whether there is one.
        """
        first, stop = self.first_child[level][nodes], self.first_child[level][nodes + 1]
        most = int((stop - first).max()) if most is None else most
        children = first[..., None] + torch.arange(most, device=nodes.device)
        real = children < stop[..., None]
        children = children.clamp(max=len(self.codes[level]) - 1)
        return children, self.codes[level][children].long(), real

    def child(self, level: int, nodes: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """The children of `nodes` `[n]` of `level` under `codes` `[n]`, as nodes of `level + 1`; `-1` for none.

        A node or code that does not exist has none either.
        """
        exists = (nodes >= 0) & (nodes < self.nodes(level)) & (codes >= 0) & (codes < self.sizes[level])
        nodes, codes = nodes.clamp(0, self.nodes(level) - 1), codes.clamp(0, self.sizes[level] - 1)
        table = self.tables[level]
        if table is not None:
            return torch.where(exists, table[nodes, codes].long(), -1)
        low, stop = self.first_child[level][nodes].long(), self.first_child[level][nodes + 1].long()
        high = stop
        for _ in range(self.most_children[level].bit_length()):
            middle = (low + high) // 2
            below = self.codes[level][middle.clamp(max=len(self.codes[level]) - 1)] < codes
            low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
        found = low.clamp(max=len(self.codes[level]) - 1)
        return torch.where(exists & (low < stop) & (self.codes[level][found] == codes), low, -1)

    def parent(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """The parents, nodes of `level`, of `nodes` `[n]` of `level + 1`."""
        return torch.searchsorted(self.first_child[level], nodes.to(torch.int32), right=True) - 1

    def count(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """How many items there are below each of `nodes` `[...]` of `level`."""
        first, stop = self._leaves(level, nodes)
        return self._place(stop) - self._place(first)

    def leaves(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """How many SIDs there are below each of `nodes` `[...]` of `level`."""
        first, stop = self._leaves(level, nodes)
        return stop - first

    def _leaves(self, level: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, stop = nodes, nodes + 1
        for first_child in self.first_child[level:]:
            first, stop = first_child[first].long(), first_child[stop].long()
        return first, stop

    @property
    def leaf(self) -> torch.Tensor:
        """`[items]`, the leaf of each item, int32; made when first asked for, once, whatever thread asks."""
        if self._leaf is None:
            with _MAKING:
                if self._leaf is None:
                    own = torch.arange(self.nodes(self.levels), dtype=torch.int32, device=self.device)
                    leaves = torch.cat([own, self._repeats]).sort().values if self.shares_sids else own
                    self._leaf = torch.empty_like(leaves).scatter_(0, self._item_of.long(), leaves)
        return self._leaf

    def items(self, leaves: torch.Tensor) -> torch.Tensor:
        """The first item `[...]` of each leaf `[...]`, int64; `-1` stays `-1`."""
        return torch.where(leaves >= 0, self._item_of[self._place(leaves.clamp(min=0))].long(), -1)

    def items_of(self, leaf: int) -> torch.Tensor:
        """Every item of one leaf, by row: those that share its SID."""
        first, stop = self._place(torch.tensor([leaf, leaf + 1], device=self.device)).tolist()
        return self._item_of[first:stop].long()

    @property
    def shares_sids(self) -> bool:
        """Whether some SID belongs to several items."""
        return len(self._repeats) > 0

    def _place(self, leaves: torch.Tensor) -> torch.Tensor:
        """Where the items of each of `leaves` begin, in the order of leaves."""
        if not self.shares_sids:
            return leaves
        return leaves + torch.searchsorted(self._repeats, leaves.to(torch.int32))

    def _table(self, level: int) -> torch.Tensor | None:
        if self.nodes(level) * self.sizes[level] > DENSE_ENTRIES:
            return None
        table = torch.full((self.nodes(level), self.sizes[level]), -1, dtype=torch.int32)
        parent = torch.arange(self.nodes(level)).repeat_interleave(self.first_child[level].diff())
        table[parent, self.codes[level].long()] = torch.arange(len(parent), dtype=torch.int32)
        return table

    def _tensors(self) -> dict[str, torch.Tensor]:
        named = {}
        for name, value in list(self.__dict__.items()):
            for number, part in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(part, torch.Tensor):
                    named[f"{name}.{number}"] = part
        return named


def _smallest(size: int) -> type[np.integer]:
    """The smallest integers for codes below `size`."""
    return np.uint8 if size <= 1 << 8 else np.int16 if size <= 1 << 15 else np.int32
