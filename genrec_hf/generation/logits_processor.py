"""Logits processor that restricts `model.generate` to the SIDs of the catalogue, for any decoding strategy."""

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
    """Logits processor that sets the score of every token that does not continue a SID of the catalogue to `-inf`.

    It has no state: the position of a row in the trie follows from the row's last tokens. A row that ends with the
    first `l` tokens of a SID continues with level `l`; a row that ends with anything else (text, a complete SID, or no
    token at all with `inputs_embeds`) starts a new SID. It works with greedy search, sampling, beam search, left
    padding and repeated calls. Pass `max_new_tokens=trie.levels` to generate one item.

    The returned scores are a buffer that later calls reuse, because filling a new one with `-inf` takes longer than
    all other steps together. A buffer that is still referenced (`output_scores=True`) is not reused.

    Args:
        trie (`SidTrie`): the catalogue.
        vocabulary (`SidVocabulary`): bound to the model's tokenizer.
        deny (`Sequence`, *optional*): for each request (a row of the batch before it is expanded to beams), item rows
            that are not generated; the result equals that of a trie built without them.
        normalization (`str`, defaults to `"full"`): what a token's probability is normalized over. `"full"` keeps the
            scores of the model, which beam search normalizes over the whole vocabulary; `"level"` normalizes over the
            tokens of the SID level, `"trie"` over the children in the trie that the filters allow. It changes the
            order of beams, not the choice of greedy search.
        allow (`Sequence`, *optional*): for each request, the only item rows that may be generated, or `None` for all.

    Raises:
        ValueError: `normalization` is unknown, the vocabulary does not fit the trie, or the filters are invalid (see
            `RequestFilters`).

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
        """Mask the scores of the next token.

        Args:
            input_ids (`torch.Tensor`): `[rows, length]`, tokens so far; `length` may be 0.
            scores (`torch.Tensor`): `[rows, vocabulary]`, logits or log-probabilities.

        Returns:
            `torch.Tensor`: `[rows, vocabulary]`, `-inf` at every token that does not continue an allowed SID.

        Raises:
            ValueError: a row ends with a prefix of no item, or all items below it are denied; there is not one filter
                for each request; or the scores of the allowed tokens of a row hold NaN or are all `-inf`.
        """
        depth, node = self._positions(input_ids.to(self.trie.device), len(scores))
        rows, tokens = (index.to(scores.device) for index in self._allowed_tokens(depth, node))
        allowed_scores = scores[rows, tokens]
        highest = allowed_scores.new_full((len(scores),), float("-inf")).scatter_reduce(
            0, rows, allowed_scores, "amax"
        )
        if not highest.isfinite().all():
            raise ValueError(
                "got scores that hold NaN, or are -inf for every allowed token: the choice would be arbitrary; check "
                "the model's weights and dtype, and other logits processors"
            )
        if self.normalization == "trie":
            total = allowed_scores.new_zeros(len(scores)).index_add_(0, rows, (allowed_scores - highest[rows]).exp())
            allowed_scores = allowed_scores - (highest + total.log())[rows]
        elif self.normalization == "level":
            allowed_scores = allowed_scores - self._level_norm(scores, depth.to(scores.device))[rows]
        if allowed_scores.requires_grad:
            return torch.full_like(scores, float("-inf")).index_put((rows, tokens), allowed_scores)
        buffer = self._take_buffer(scores)
        masked = buffer.fill(rows, tokens, allowed_scores)
        self._buffers.append(buffer)
        return masked

    def _level_norm(self, scores: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """Compute the `logsumexp` `[rows]` of the scores of the tokens of each row's level."""
        norm = scores.new_empty(len(scores))
        for level in depth.unique().tolist():
            at_level = depth == level
            norm[at_level] = scores[at_level][:, self.token_ids[level].to(scores.device)].logsumexp(dim=-1)
        return norm

    def _take_buffer(self, like: torch.Tensor) -> "_Buffer":
        """Take a buffer that is not referenced elsewhere, or create one.

        It is removed from the list, so that no other thread takes it too. Two buffers alternate, because `generate`
        still references the last scores when it computes the next ones.
        """
        free = None
        for _ in range(len(self._buffers)):
            try:
                buffer = self._buffers.pop()
            except IndexError:  # another thread took the remaining ones
                break
            if free is None and buffer.fits(like) and buffer.is_free():
                free = buffer
            elif buffer.fits(like):
                self._buffers.insert(0, buffer)
        del self._buffers[:-1]
        return _Buffer(like) if free is None else free

    def _positions(self, input_ids: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the depth and the trie node of each row, both `[rows]`; node -1 where no item has the prefix."""
        node = torch.zeros(rows, dtype=torch.long, device=self.trie.device)
        if input_ids.shape[1] == 0 or self.levels == 1:
            return torch.zeros_like(node), node
        last = input_ids[:, -(self.levels - 1) :]
        known = torch.where(last < len(self.level_of_token), last, 0)
        level = torch.where(known == last, self.level_of_token[known], -1)
        code = self.code_of_token[known]
        depth = torch.where(level[:, -1] < self.levels - 1, level[:, -1] + 1, 0)
        for step in range(int(depth.max())):
            column = known.shape[1] - depth + step
            index = column.clamp(0, known.shape[1] - 1)[:, None]
            is_step = (column >= 0) & (level.gather(1, index)[:, 0] == step)
            child = self.trie.child(step, node, torch.where(is_step, code.gather(1, index)[:, 0], -1))
            node = torch.where(depth > step, child, node)
        return depth, node

    def _allowed_tokens(self, depth: torch.Tensor, node: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return row and token id of every allowed token, both `[pairs]`, for rows at `depth` and `node` `[rows]`."""
        rows, tokens = [], []
        for level in depth.unique().tolist():
            at_level = ((depth == level) & (node >= 0)).nonzero()[:, 0]
            if len(at_level) == 0:
                continue
            children, codes, allowed = self.trie.children(level, node[at_level])
            if self.filters is not None:
                allowed &= self._filter(level, children, at_level, len(depth))
            rows.append(at_level[:, None].expand_as(allowed)[allowed])
            tokens.append(self.token_ids[level][codes[allowed]])
        row = torch.cat([*rows, node[:0]])
        without_token = torch.bincount(row, minlength=len(depth)) == 0
        if without_token.any():
            raise ValueError(
                f"row {int(without_token.nonzero()[0])} has no allowed token ({int(without_token.sum())} of "
                f"{len(depth)} rows): every item is denied, or the prompt ends with part of a SID that no item has; "
                "check the filters and the last tokens of the prompt"
            )
        return row, torch.cat(tokens)

    def _filter(self, level: int, children: torch.Tensor, indices: torch.Tensor, rows: int) -> torch.Tensor:
        """Return which `children` `[n, max_children]` the filters allow, for the rows at `indices` `[n]` of `rows`."""
        requests = len(self.filters) if self.filters is not None else 0
        if self.filters is None or requests == 0 or rows % requests:
            raise ValueError(f"got {requests} deny or allow lists for {rows} rows: pass one list for each request")
        return self.filters.allowed(level, children[:, None], request=indices // (rows // requests))[:, 0]


class _Buffer:
    """Scores that are `-inf` except where they were filled last."""

    def __init__(self, like: torch.Tensor) -> None:
        with torch.inference_mode(False):  # tensors made under inference mode cannot be written to outside it
            self.scores = torch.full(like.shape, float("-inf"), dtype=like.dtype, device=like.device)
        self.filled_at: tuple[torch.Tensor, torch.Tensor] | None = None
        self.version = version_of(self.scores)
        self.own_references = self._references()

    def fits(self, like: torch.Tensor) -> bool:
        """Return whether shape, dtype and device are those of `like`."""
        return (
            self.scores.shape == like.shape and self.scores.dtype == like.dtype and self.scores.device == like.device
        )

    def is_free(self) -> bool:
        """Return whether nothing else references the tensor that `fill` returned, or a view of it."""
        return self.own_references >= 0 and self._references() == self.own_references

    def fill(self, rows: torch.Tensor, tokens: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Set the scores at `rows` and `tokens` to `values`, all `[pairs]`, and all others to `-inf`."""
        if version_of(self.scores) != self.version:  # the caller wrote into the tensor of the last call
            self.scores.fill_(float("-inf"))
        elif self.filled_at is not None:
            self.scores[self.filled_at] = float("-inf")
        self.scores[rows, tokens] = values
        self.filled_at, self.version = (rows, tokens), version_of(self.scores)
        return self.scores.detach()  # another tensor on the same storage, which counts as a reference

    def _references(self) -> int:
        """Return how many tensors reference the storage; -1 where torch does not tell, and no buffer is reused."""
        return holders_of(self.scores)
