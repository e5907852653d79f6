"""`RequestFilters`: what each request of a batch may get, as nodes of the trie, so that nothing is ever rebuilt."""

from collections.abc import Sequence

import numpy as np
import torch

from genrec_hf.generation.trie import SidTrie
from genrec_hf.item_rows import Rows, item_rows


class RequestFilters:
    """For each request, the branches of the trie that lead to none of its items.

    The outcome equals that of a trie rebuilt from the items that a request may get. Only the branches above the listed
    items are looked at, so the cost depends on how many are listed, not on the catalogue; whichever is the shorter of
    an allow list and its complement is taken.

    Args:
        trie (`SidTrie`): the catalogue.
        deny (`Sequence`, *optional*): for each request, item rows that may not come out; repeats count once.
        allow (`Sequence`, *optional*): for each request, the item rows that may come out, or `None` for all of them;
            `deny` counts on top.

    Raises:
        ValueError: when the two name different numbers of requests, or a row is outside the catalogue.

    Example:
        >>> trie = SidTrie(np.array([[0, 1], [0, 0], [2, 1]]))
        >>> filters = RequestFilters(trie, deny=[[0, 1], []])
        >>> filters.legal(0, torch.tensor([[[0, 1]], [[0, 1]]])).tolist()
        [[[False, True]], [[True, True]]]
    """

    def __init__(
        self, trie: SidTrie, deny: Sequence[Rows] | None = None, allow: Sequence[Rows | None] | None = None
    ) -> None:
        if deny is None and allow is None:
            raise ValueError("neither deny nor allow is given: leave the filters out instead")
        requests = len(allow if deny is None else deny)  # type: ignore[arg-type]
        if deny is not None and allow is not None and len(deny) != len(allow):
            raise ValueError(
                f"{len(deny)} deny lists and {len(allow)} allow lists: pass one of each for every request"
            )
        denied = [[]] * requests if deny is None else deny
        pairs = zip(denied, [None] * requests if allow is None else allow, strict=True)
        listed, only = zip(*[_shorter(trie, *pair) for pair in pairs], strict=True) if requests else ((), ())
        self.listed: list[np.ndarray] = list(listed)
        self.only = torch.tensor(only, dtype=torch.bool, device=trie.device)[:, None, None]
        self.nodes = [trie.nodes(level) for level in range(1, trie.levels + 1)]
        self.keys = self._keys(trie)

    def __len__(self) -> int:
        return len(self.listed)

    def legal(self, level: int, children: torch.Tensor, request: torch.Tensor | None = None) -> torch.Tensor:
        """Whether an item that the request may get lies below each of `children`.

        Args:
            level (`int`): of their parents.
            children (`torch.Tensor`): `[rows, beams, most]`, nodes of `level + 1`.
            request (`torch.Tensor`, *optional*): `[rows]`, whose each row is; by default row `r` is request `r`'s.

        Returns:
            `torch.Tensor`: `bool` `[rows, beams, most]`.
        """
        if request is None:
            if len(children) != len(self):
                raise ValueError(
                    f"{len(children)} rows for {len(self)} requests: one filter would serve another's row"
                )
            request = torch.arange(len(children), device=children.device)
        keys, only = self.keys[level], self.only[request]
        if len(keys) == 0:
            return (~only).expand_as(children)
        wanted = request[:, None, None] * self.nodes[level] + children
        found = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        return (keys[found] == wanted) == only

    def allows(self, request: int, items: np.ndarray) -> np.ndarray:
        """Which of `items` `[n]` the request may get, `bool` `[n]`; of use where items share a SID."""
        return np.isin(items, self.listed[request]) == bool(self.only[request])

    def _keys(self, trie: SidTrie) -> list[torch.Tensor]:
        """For each level below the root, sorted `request * nodes + node` of what is dead (or alive, where `only`)."""
        request = torch.from_numpy(np.repeat(np.arange(len(self)), [len(items) for items in self.listed]))
        items = torch.from_numpy(np.concatenate([*self.listed, np.zeros(0, dtype=np.int64)]))
        leaf = trie.leaf[items.to(trie.device)].long()
        key = (request.to(trie.device) * trie.nodes(trie.levels) + leaf).sort().values
        listed = torch.ones_like(key)
        keys = []
        for level in range(trie.levels, 0, -1):
            # Parents keep the order of their children, so one sort serves all levels.
            key, place = torch.unique_consecutive(key, return_inverse=True)
            listed = torch.zeros_like(key).index_add_(0, place, listed)
            request, node = key // trie.nodes(level), key % trie.nodes(level)
            counts = self.only[request, 0, 0] | (listed == trie.count(level, node))
            keys.append(key[counts])
            key = request * trie.nodes(level - 1) + trie.parent(level - 1, node)
        return keys[::-1]


def _shorter(trie: SidTrie, deny: Rows, allow: Rows | None) -> tuple[np.ndarray, bool]:
    """Sorted item rows, and whether they are all that the request may get (or all that it may not)."""
    denied = np.unique(item_rows(deny, len(trie), "deny"))
    if allow is None:
        return denied, False
    allowed = np.setdiff1d(item_rows(allow, len(trie), "allow"), denied)
    if len(allowed) <= len(trie) // 2:
        return allowed, True
    others = np.ones(len(trie), dtype=bool)  # the one thing here that takes longer in a larger catalogue
    others[allowed] = False
    return np.flatnonzero(others), False
