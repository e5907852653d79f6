"""`SidLogitsProcessor`: holds plain `model.generate` to the catalogue, whatever the decoding strategy."""

from collections.abc import Sequence
from typing import get_args

import torch
from transformers import LogitsProcessor

from genrec_hf.checks import check_choice
from genrec_hf.generation.decoding import Normalization
from genrec_hf.generation.filters import RequestFilters
from genrec_hf.generation.trie import SidTrie
from genrec_hf.internals.torch import holders_of, version_of
from genrec_hf.ranking import Rows
from genrec_hf.vocabulary import SidVocabulary


class SidLogitsProcessor(LogitsProcessor):
    """Masks every token that does not continue a SID of the catalogue, for `generate(logits_processor=[...])`.

    Stateless: where a row stands in the trie is read from its own last tokens. A row that ends in the first `l` tokens
    of a SID goes on with level `l`; a row that ends in anything else (text, a whole SID, nothing at all under
    `inputs_embeds`) starts a new SID. Greedy, sampling, beams, left padding and a second call need nothing special.
    Stop by depth: `max_new_tokens=trie.levels` for one item.

    The masked scores stand in a buffer that later calls use again, as filling one with `-inf` costs more than all the
    rest. A buffer that anyone still holds (`output_scores=True`) is left alone and a new one is made.

    Args:
        trie (`SidTrie`): the catalogue.
        vocabulary (`SidVocabulary`): bound to the model's tokenizer.
        deny (`Sequence`, *optional*): for each request (row of the batch before beams), item rows that may not come
            out; the result equals that of a trie built without them.
        normalization (`str`, defaults to `"full"`): what the scores of legal tokens are normalised over. `"full"` leaves them
            as the model gives them (beam search: over the whole vocabulary), `"level"` normalises over the tokens of
            the SID level, `"trie"` over the legal tokens alone. Beams are ranked by it; greedy choices stay.
        allow (`Sequence`, *optional*): for each request, the item rows that may come out, or `None` for all.

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
        *,
        deny: Sequence[Rows] | None = None,
        normalization: Normalization = "full",
        allow: Sequence[Rows | None] | None = None,
    ) -> None:
        check_choice("normalization", normalization, get_args(Normalization))
        self.trie = trie.bind(vocabulary)
        self.normalization = normalization
        self.levels = trie.levels
        self.token_ids = self.trie.token_ids or []
        highest = max(int(ids.max()) for ids in self.token_ids)
        self.level_of_token = torch.full((highest + 1,), -1, device=trie.device)
        self.code_of_token = torch.full((highest + 1,), -1, device=trie.device)
        for level, ids in enumerate(self.token_ids):
            self.level_of_token[ids] = level
            self.code_of_token[ids] = torch.arange(len(ids), device=trie.device)
        self.filters = None if deny is None and allow is None else RequestFilters(trie, deny, allow)
        self._buffers: list[_Buffer] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores `[rows, vocabulary]` with `-inf` at every token that leaves the catalogue.

        Raises:
            ValueError: when a row holds a prefix that is no item's, or all of its items are denied; when the scores of
                legal tokens hold NaN, or are `-inf` for all of them.
        """
        depth, node = self._positions(input_ids.to(self.trie.device), len(scores))
        rows, tokens = (index.to(scores.device) for index in self._legal_tokens(depth, node))
        legal = scores[rows, tokens]
        highest = legal.new_full((len(scores),), float("-inf")).scatter_reduce(0, rows, legal, "amax")
        if not highest.isfinite().all():
            raise ValueError(
                "the model's scores hold NaN, or mask everything legal: any choice would be arbitrary; check dtype "
                "and weights"
            )
        if self.normalization == "trie":
            total = legal.new_zeros(len(scores)).index_add_(0, rows, (legal - highest[rows]).exp())
            legal = legal - (highest + total.log())[rows]
        elif self.normalization == "level":
            legal = legal - self._level_norm(scores, depth.to(scores.device))[rows]
        if legal.requires_grad:
            return torch.full_like(scores, float("-inf")).index_put((rows, tokens), legal)
        buffer = self._take_buffer(scores)
        masked = buffer.filled(rows, tokens, legal)
        self._buffers.append(buffer)
        return masked

    def _level_norm(self, scores: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """`logsumexp` `[rows]` of the scores of the tokens of each row's level."""
        norm = scores.new_empty(len(scores))
        for level in depth.unique().tolist():
            here = depth == level
            norm[here] = scores[here][:, self.token_ids[level].to(scores.device)].logsumexp(dim=-1)
        return norm

    def _take_buffer(self, like: torch.Tensor) -> "_Buffer":
        """One that nobody holds, taken out of those kept, so that no other thread takes it as well.

        `generate` holds its last scores while it asks for the next: two buffers take turns.
        """
        free = None
        for _ in range(len(self._buffers)):
            try:
                buffer = self._buffers.pop()
            except IndexError:  # another thread took the rest
                break
            if free is None and buffer.fits(like) and buffer.is_free():
                free = buffer
            elif buffer.fits(like):
                self._buffers.insert(0, buffer)
        del self._buffers[:-1]
        return _Buffer(like) if free is None else free

    def _positions(self, input_ids: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Depth and trie node of each row, both `[rows]`; node -1 where its prefix is no item's."""
        node = torch.zeros(rows, dtype=torch.long, device=self.trie.device)
        if input_ids.shape[1] == 0 or self.levels == 1:
            return torch.zeros_like(node), node
        known = input_ids[:, -(self.levels - 1) :]
        known = torch.where(known < len(self.level_of_token), known, 0)
        level = torch.where(known == input_ids[:, -known.shape[1] :], self.level_of_token[known], -1)
        code = self.code_of_token[known]
        depth = torch.where(level[:, -1] < self.levels - 1, level[:, -1] + 1, 0)
        for step in range(int(depth.max())):
            column = known.shape[1] - depth + step
            at = column.clamp(0, known.shape[1] - 1)[:, None]
            right = (column >= 0) & (level.gather(1, at)[:, 0] == step)
            child = self.trie.child(step, node, torch.where(right, code.gather(1, at)[:, 0], -1))
            node = torch.where(depth > step, child, node)
        return depth, node

    def _legal_tokens(self, depth: torch.Tensor, node: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and token id of every legal continuation, both `[pairs]`, of rows at `depth` and `node` `[rows]`."""
        rows, tokens = [], []
        for level in depth.unique().tolist():
            here = ((depth == level) & (node >= 0)).nonzero()[:, 0]
            if len(here) == 0:
                continue
            children, codes, legal = self.trie.children(level, node[here])
            if self.filters is not None:
                legal &= self._allowed(level, children, here, len(depth))
            rows.append(here[:, None].expand_as(legal)[legal])
            tokens.append(self.token_ids[level][codes[legal]])
        row = torch.cat([*rows, node[:0]])
        stuck = torch.bincount(row, minlength=len(depth)) == 0
        if stuck.any():
            raise ValueError(
                f"row {int(stuck.nonzero()[0])} has no legal token ({int(stuck.sum())} of {len(depth)} rows): every "
                "item is denied, or the prompt ends in part of a SID that no item carries; check the filters and "
                "the prompt's last tokens"
            )
        return row, torch.cat(tokens)

    def _allowed(self, level: int, children: torch.Tensor, here: torch.Tensor, rows: int) -> torch.Tensor:
        """Whether the request of each row may get an item below its `children` `[n, most]`."""
        requests = len(self.filters) if self.filters is not None else 0
        if self.filters is None or requests == 0 or rows % requests:
            raise ValueError(f"{rows} rows for {requests} deny lists: pass one list for each request")
        return self.filters.legal(level, children[:, None], request=here // (rows // requests))[:, 0]


class _Buffer:
    """Scores that are `-inf` but at the places last filled."""

    def __init__(self, like: torch.Tensor) -> None:
        with torch.inference_mode(False):  # what is made under inference mode cannot be written to outside it
            self.scores = torch.full(like.shape, float("-inf"), dtype=like.dtype, device=like.device)
        self.filled_at: tuple[torch.Tensor, torch.Tensor] | None = None
        self.version = version_of(self.scores)
        self.idle = self._holders()

    def fits(self, like: torch.Tensor) -> bool:
        return (
            self.scores.shape == like.shape and self.scores.dtype == like.dtype and self.scores.device == like.device
        )

    def is_free(self) -> bool:
        """Whether nobody holds what `filled` gave out, nor any view of it."""
        return self.idle >= 0 and self._holders() == self.idle

    def filled(self, rows: torch.Tensor, tokens: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        if version_of(self.scores) != self.version:  # someone wrote into what was given out
            self.scores.fill_(float("-inf"))
        elif self.filled_at is not None:
            self.scores[self.filled_at] = float("-inf")
        self.scores[rows, tokens] = values
        self.filled_at, self.version = (rows, tokens), version_of(self.scores)
        return self.scores.detach()  # a tensor of its own on the same storage, which counts as a holder

    def _holders(self) -> int:
        """How many hold the storage; where torch does not say (-1), no buffer is used twice."""
        return holders_of(self.scores)
