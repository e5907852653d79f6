"""Filters of the items that each request of a batch may get, applied to nodes of the trie."""

from collections.abc import Sequence

import numpy as np
import torch

from genrec_hf.generation.trie import SidTrie
from genrec_hf.item_rows import Rows, item_rows


class RequestFilters:
    """Deny and allow lists of the requests of a batch, as nodes of the trie.

    The result equals that of a trie rebuilt from the items that a request may get, and no trie is rebuilt. Only the
    nodes above the listed items are stored, so that the cost depends on the length of the lists and not on the size of
    the catalogue; of an allow list and its complement, the shorter one is stored.

    Args:
        trie (`SidTrie`): the catalogue.
        deny (`Sequence`, *optional*): for each request, item rows that are not returned; duplicates have no effect.
        allow (`Sequence`, *optional*): for each request, the only item rows that may be returned, or `None` for all.
            Items that are on both lists are denied.

    Attributes:
        listed (`list[np.ndarray]`): for each request, sorted item rows: the allowed ones or the denied ones.
        is_allow_list (`torch.Tensor`): `bool` `[requests, 1, 1]`, whether `listed` are the allowed items.
        keys (`list[torch.Tensor]`): for each level below the root, sorted `request * nodes + node` of the nodes that
            lead to an allowed item (where `listed` are the allowed ones), or to denied items only (where they are the
            denied ones).

    Raises:
        ValueError: neither list is given, the two have different numbers of requests, or a row is outside the
            catalogue.

    Example:
        >>> trie = SidTrie(np.array([[0, 1], [0, 0], [2, 1]]))
        >>> filters = RequestFilters(trie, deny=[[0, 1], []])
        >>> filters.allowed(0, torch.tensor([[[0, 1]], [[0, 1]]])).tolist()
        [[[False, True]], [[True, True]]]
    """

    def __init__(
        self, trie: SidTrie, deny: Sequence[Rows] | None = None, allow: Sequence[Rows | None] | None = None
    ) -> None:
        if deny is None and allow is None:
            raise ValueError("got neither deny nor allow: RequestFilters needs one of them")
        requests = len(allow if deny is None else deny)  # type: ignore[arg-type]
        if deny is not None and allow is not None and len(deny) != len(allow):
            raise ValueError(
                f"got {len(deny)} deny lists and {len(allow)} allow lists: pass one of each for every request"
            )
        denied = [[]] * requests if deny is None else deny
        pairs = zip(denied, [None] * requests if allow is None else allow, strict=True)
        shorter = [_shorter_list(trie, *pair) for pair in pairs]
        self.listed: list[np.ndarray] = [rows for rows, _ in shorter]
        is_allow_list = [is_allowed for _, is_allowed in shorter]
        self.is_allow_list = torch.tensor(is_allow_list, dtype=torch.bool, device=trie.device)[:, None, None]
        self._nodes = [trie.nodes(level) for level in range(1, trie.levels + 1)]
        self.keys = self._compute_keys(trie)

    def __len__(self) -> int:
        return len(self.listed)

    def allowed(self, level: int, children: torch.Tensor, request: torch.Tensor | None = None) -> torch.Tensor:
        """Return whether each child leads to an item that its request may get.

        Args:
            level (`int`): level of the parents.
            children (`torch.Tensor`): `[rows, beams, max_children]`, nodes of `level + 1`.
            request (`torch.Tensor`, *optional*): `[rows]`, index of the request that each row belongs to; row `r`
                belongs to request `r` when not given.

        Returns:
            `torch.Tensor`: `bool` `[rows, beams, max_children]`.

        Raises:
            ValueError: `request` is not given, and there is not one row for each request.
        """
        if request is None:
            if len(children) != len(self):
                raise ValueError(
                    f"got {len(children)} rows for {len(self)} requests: filters would apply to the wrong rows; pass "
                    "the request of each row"
                )
            request = torch.arange(len(children), device=children.device)
        keys, is_allow_list = self.keys[level], self.is_allow_list[request]
        if len(keys) == 0:
            return (~is_allow_list).expand_as(children)
        child_keys = request[:, None, None] * self._nodes[level] + children
        indices = torch.searchsorted(keys, child_keys).clamp_(max=len(keys) - 1)
        return (keys[indices] == child_keys) == is_allow_list

    def allows(self, request: int, items: np.ndarray) -> np.ndarray:
        """Return whether a request may get each of some items, for catalogues where items share a SID.

        Args:
            request (`int`): index of the request.
            items (`np.ndarray`): `[n]`, item rows.

        Returns:
            `np.ndarray`: `bool` `[n]`.
        """
        return np.isin(items, self.listed[request]) == bool(self.is_allow_list[request])

    def _compute_keys(self, trie: SidTrie) -> list[torch.Tensor]:
        """Compute the attribute `keys`, from the leaves up."""
        request = torch.from_numpy(np.repeat(np.arange(len(self)), [len(items) for items in self.listed]))
        items = torch.from_numpy(np.concatenate([*self.listed, np.zeros(0, dtype=np.int64)]))
        leaf = trie.leaf[items.to(trie.device)].long()
        key = (request.to(trie.device) * trie.nodes(trie.levels) + leaf).sort().values
        listed = torch.ones_like(key)
        keys = []
        for level in range(trie.levels, 0, -1):
            # Parents keep the order of their children, so one sort serves all levels.
            key, inverse = torch.unique_consecutive(key, return_inverse=True)
            listed = torch.zeros_like(key).index_add_(0, inverse, listed)
            request, node = key // trie.nodes(level), key % trie.nodes(level)
            is_stored = self.is_allow_list[request, 0, 0] | (listed == trie.count(level, node))
            keys.append(key[is_stored])
            key = request * trie.nodes(level - 1) + trie.parent(level - 1, node)
        return keys[::-1]


def _shorter_list(trie: SidTrie, deny: Rows, allow: Rows | None) -> tuple[np.ndarray, bool]:
    """Return sorted item rows, and whether they are the allowed ones (`True`) or the denied ones (`False`)."""
    denied = np.unique(item_rows(deny, len(trie), "deny"))
    if allow is None:
        return denied, False
    allowed = np.setdiff1d(item_rows(allow, len(trie), "allow"), denied)
    if len(allowed) <= len(trie) // 2:
        return allowed, True
    is_denied = np.ones(len(trie), dtype=bool)  # the only step whose cost grows with the catalogue
    is_denied[allowed] = False
    return np.flatnonzero(is_denied), False
