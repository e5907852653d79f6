"""`SidLogitsProcessor`: holds plain `model.generate` to the catalogue, whatever the decoding strategy."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from transformers import LogitsProcessor

from genrec_hf.generation.trie import SidTrie
from genrec_hf.vocabulary import SidVocabulary


class SidLogitsProcessor(LogitsProcessor):
    """Masks every token that does not continue a SID of the catalogue, for `generate(logits_processor=[...])`.

    Stateless: where a row stands in the trie is read from its own last tokens. A row that ends in the first `l` tokens
    of a SID goes on with level `l`; a row that ends in anything else (text, a whole SID, nothing at all under
    `inputs_embeds`) starts a new SID. Greedy, sampling, beams, left padding and a second call need nothing special.
    Stop by depth: `max_new_tokens=trie.levels` for one item.

    Args:
        trie (`SidTrie`): the catalogue.
        vocabulary (`SidVocabulary`): bound to the model's tokenizer.
        deny (`Sequence[np.ndarray]`, *optional*): for each request (row of the batch before beams), item rows that may
            not come out; the result equals that of a trie built without them.
        score (`str`, defaults to `"full"`): what the scores of legal tokens are normalised over. `"full"` leaves them
            as the model gives them (beam search: over the whole vocabulary), `"level"` normalises over the tokens of
            the SID level, `"trie"` over the legal tokens alone. Beams are ranked by it; greedy choices stay.

    Example:
        ```python
        output = model.generate(**inputs, num_beams=20, num_return_sequences=10, max_new_tokens=trie.levels,
                                logits_processor=[SidLogitsProcessor(trie, vocabulary)])
        ```
    """

    def __init__(
        self,
        trie: SidTrie,
        vocabulary: SidVocabulary,
        deny: Sequence[np.ndarray] | None = None,
        score: Literal["full", "level", "trie"] = "full",
    ) -> None:
        if score not in ("full", "level", "trie"):
            raise ValueError(f"score={score!r}: use 'full', 'level' or 'trie'")
        self.trie = trie
        self.score = score
        self.levels = trie.levels
        self.token_of_code = vocabulary.level_token_ids
        highest = int(vocabulary.all_token_ids.max())
        self.level_of_token = np.full(highest + 1, -1, dtype=np.int64)
        self.code_of_token = np.full(highest + 1, -1, dtype=np.int64)
        for level, ids in enumerate(self.token_of_code):
            self.level_of_token[ids] = level
            self.code_of_token[ids] = np.arange(len(ids))
        self.dead = None if deny is None else [trie.dead_nodes(items) for items in deny]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores `[rows, vocabulary]` with `-inf` at every token that leaves the catalogue.

        Raises:
            ValueError: when a row holds a prefix that is no item's, or all of its items are denied.
        """
        if scores.isnan().any():
            raise ValueError(
                "the model's scores hold NaN: any choice among them would be arbitrary; check dtype and weights"
            )
        depth, node = self._positions(input_ids.cpu().numpy(), scores.shape[0])
        rows, tokens = self._legal_tokens(depth, node)
        index = torch.as_tensor(rows, device=scores.device), torch.as_tensor(tokens, device=scores.device)
        masked = torch.full_like(scores, float("-inf"))
        masked[index] = scores[index]
        if self.score == "trie":
            return masked.log_softmax(dim=-1)
        if self.score == "level":
            for level in np.unique(depth):
                here = torch.as_tensor(np.flatnonzero(depth == level), device=scores.device)
                tokens_here = torch.as_tensor(self.token_of_code[level], device=scores.device)
                masked[here] -= scores[here[:, None], tokens_here].logsumexp(dim=-1, keepdim=True)
        return masked

    def _legal_tokens(self, depth: np.ndarray, node: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and token id of every legal continuation, both `[pairs]`, of rows at `depth` and `node` `[rows]`."""
        rows = len(depth)
        pairs = [self._children(level, np.flatnonzero(depth == level), node, rows) for level in np.unique(depth)]
        row, token = (np.concatenate(part) for part in zip(*pairs, strict=True))
        stuck = np.setdiff1d(np.arange(rows), row)
        if len(stuck):
            raise ValueError(
                f"row {stuck[0]} has no legal token ({len(stuck)} of {rows} rows): every item is denied, or the "
                "prompt ends in part of a SID that no item carries; check the deny list and the prompt's last tokens"
            )
        return row, token

    def _positions(self, input_ids: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Depth and trie node of each row, both `[rows]`."""
        depth = np.zeros(rows, dtype=np.int64)
        node = np.zeros(rows, dtype=np.int64)
        if input_ids.shape[1] == 0:
            return depth, node
        last = np.where(input_ids[:, -1] < len(self.level_of_token), input_ids[:, -1], 0)
        level = np.where(last == input_ids[:, -1], self.level_of_token[last], -1)
        depth[:] = np.where((level >= 0) & (level < self.levels - 1), level + 1, 0)
        for step in range(min(int(depth.max()), input_ids.shape[1])):
            going = np.flatnonzero(depth > step)
            token = input_ids[going, input_ids.shape[1] - depth[going] + step]
            right = (token < len(self.level_of_token)) & (
                self.level_of_token[np.minimum(token, len(self.level_of_token) - 1)] == step
            )
            code = np.where(right, self.code_of_token[np.minimum(token, len(self.code_of_token) - 1)], -1)
            node[going] = self.trie.child(step, node[going], code)
        return depth, node

    def _children(
        self, level: int, rows: np.ndarray, node: np.ndarray, all_rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        rows = rows[node[rows] >= 0]
        start, stop = self.trie.first_child[level][node[rows]], self.trie.first_child[level][node[rows] + 1]
        row = np.repeat(rows, stop - start)
        child = np.arange(len(row)) + np.repeat(
            start - np.concatenate([[0], np.cumsum(stop - start)[:-1]]), stop - start
        )
        if self.dead is not None:
            if all_rows % len(self.dead):
                raise ValueError(f"{all_rows} rows for {len(self.dead)} deny lists: pass one list for each request")
            request = row // (all_rows // len(self.dead))
            alive = np.ones(len(row), dtype=bool)
            for number, dead in enumerate(self.dead):
                mine = request == number
                alive[mine] = ~np.isin(child[mine], dead[level])
            row, child = row[alive], child[alive]
        return row, self.token_of_code[level][self.trie.codes[level][child]]
