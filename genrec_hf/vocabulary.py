"""`SidVocabulary`: semantic ids as tokens of the LLM's own vocabulary, and outside text that never passes for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from string import ascii_lowercase
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import AddedToken

from genrec_hf.checks import check_choice
from genrec_hf.semantic_ids import SemanticIds

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SID_BEGIN, SID_END = "<|sid_begin|>", "<|sid_end|>"
# Starts the place of an item's collaborative vector in a prompt; never a token, and never left in outside text.
VECTOR = "<|item_vector_"
FINGERPRINT_KEY = "semantic_ids_fingerprint"


class SidVocabulary:
    """Turns SIDs into tokens `<s_a_57><s_b_7>...` and back, for tokenizers, prompts and decoding.

    One token a code and level, added as *ordinary* tokens: special ones would vanish from decoded completions.

    Args:
        semantic_ids (`SemanticIds`): the catalogue.
        markers (`bool`, defaults to `False`): put `<|sid_begin|>` and `<|sid_end|>` around every SID in a prompt.

    Example:
        >>> sids = SemanticIds([[0, 1], [0, 0]], level_sizes=(1, 2), item_ids=["tea", "cup"])
        >>> SidVocabulary(sids).text([1, 0])
        ['<s_a_0><s_b_0>', '<s_a_0><s_b_1>']
    """

    def __init__(self, semantic_ids: SemanticIds, markers: bool = False) -> None:
        if semantic_ids.levels > len(ascii_lowercase):
            raise ValueError(f"{semantic_ids.levels} levels: token names run from <s_a_0> to <s_z_0>, use at most 26")
        self.semantic_ids = semantic_ids
        self.markers = markers
        self._ids: np.ndarray | None = None

    @cached_property
    def tokens(self) -> list[str]:
        """Every token, level by level, then the markers when used."""
        sizes = zip(ascii_lowercase, self.semantic_ids.level_sizes, strict=False)
        tokens = [f"<s_{letter}_{code}>" for letter, size in sizes for code in range(size)]
        return tokens + ([SID_BEGIN, SID_END] if self.markers else [])

    @property
    def begin(self) -> str:
        """What stands before every SID, and ends a prompt that asks for one: the begin marker, or nothing."""
        return SID_BEGIN if self.markers else ""

    @property
    def end(self) -> str:
        """What stands behind every SID: the end marker, or nothing."""
        return SID_END if self.markers else ""

    def text(self, items: Sequence[int] | np.ndarray) -> list[str]:
        """The SID of each item row as text."""
        codes = self.semantic_ids.codes[np.asarray(items, dtype=np.int64)]
        parts = [tokens.take(pa.array(column)) for tokens, column in zip(self._level_tokens, codes.T, strict=True)]
        begin, end, between = (pa.scalar(text, pa.large_string()) for text in (self.begin, self.end, ""))
        return pc.binary_join_element_wise(begin, *parts, end, between).to_pylist()

    @cached_property
    def _level_tokens(self) -> list[pa.LargeStringArray]:
        """For each level, the token of each code."""
        ends = list(accumulate(self.semantic_ids.level_sizes))
        bounds = zip([0, *ends], ends, strict=False)
        return [pa.array(self.tokens[first:end], pa.large_string()) for first, end in bounds]

    def extend(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel | None = None,
        *,
        init: Literal["text", "mean", "random"] = "text",
        item_texts: Sequence[str] | None = None,
        seed: int = 0,
    ) -> SidVocabulary:
        """Add the tokens to `tokenizer`, rows for them to `model`, and bind this vocabulary to the tokenizer.

        Args:
            tokenizer (`PreTrainedTokenizerBase`): changed in place.
            model (`PreTrainedModel`, *optional*): changed in place; embedding and head grow only when too small.
            init (`str`, defaults to `"text"`): `"text"`: a code's row is the mean embedding of the text of the items
                that carry it, `"mean"`: of all tokens, `"random"`: normal, with the mean and spread of the old rows.
            item_texts (`Sequence[str]`, *optional*): `[items]`, needed by `init="text"`.
            seed (`int`, defaults to 0): of `init="random"`.

        Returns:
            `SidVocabulary`: this vocabulary.

        Raises:
            ValueError: when the tokenizer was extended for other SIDs (as for `bind`), or `init="text"` lacks texts.
        """
        check_choice("init", init, ("text", "mean", "random"))
        if model is not None and init == "text" and (item_texts is None or len(item_texts) != len(self.semantic_ids)):
            got = "none" if item_texts is None else f"{len(item_texts)}"
            raise ValueError(
                f"init='text' got {got} item texts for {len(self.semantic_ids)} items: pass item_texts, or init='mean'"
            )
        self._refuse_other_sids(tokenizer)
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in self.tokens])
        tokenizer.init_kwargs[FINGERPRINT_KEY] = self.semantic_ids.fingerprint
        self.bind(tokenizer)
        if model is not None:
            self._grow(model, tokenizer, init, list(item_texts or []), seed)
        return self

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> SidVocabulary:
        """Read the token ids from a tokenizer that was extended before.

        It may have been extended for these semantic ids, or for those that they came from by `SemanticIds.add` and
        `remove`, whose codes mean the same: a catalogue grows without a new tokenizer or model.

        Raises:
            ValueError: when the tokenizer lacks the tokens, or was extended for other SIDs or with other markers.
        """
        self._refuse_other_sids(tokenizer)
        known = tokenizer.get_added_vocab()
        missing = [token for token in self.tokens if token not in known]
        if missing:
            raise ValueError(
                f"the tokenizer lacks {len(missing)} of {len(self.tokens)} SID tokens, such as {missing[0]}: these "
                "semantic ids are not the ones it was extended for; load both from one output directory, or call "
                "SidVocabulary(semantic_ids).extend(tokenizer, model)"
            )
        if not self.markers and SID_BEGIN in known:
            raise ValueError(
                f"the tokenizer was extended with markers ({SID_BEGIN}), and SIDs without them are not what its model "
                "was trained on: pass markers=True"
            )
        self._ids = np.array([known[token] for token in self.tokens], dtype=np.int64)
        return self

    def _refuse_other_sids(self, tokenizer: PreTrainedTokenizerBase) -> None:
        other = tokenizer.init_kwargs.get(FINGERPRINT_KEY)
        if other not in (None, self.semantic_ids.fingerprint, *self.semantic_ids.ancestors):
            raise ValueError(
                f"the tokenizer was extended for semantic ids {other}, these are {self.semantic_ids.fingerprint}: "
                "every code would mean another item; load the semantic ids saved beside the tokenizer (add and remove "
                "keep them known), or start from the base model's tokenizer"
            )

    @property
    def all_token_ids(self) -> np.ndarray:
        """Ids of every added token `[tokens]`, the rows that training must reach."""
        if self._ids is None:
            raise ValueError(
                "this SidVocabulary knows no tokenizer yet: call extend(tokenizer, model) or bind(tokenizer)"
            )
        return self._ids

    @cached_property
    def level_token_ids(self) -> list[np.ndarray]:
        """For each level, the token id of each code, `[level_sizes[l]]`."""
        ends = list(accumulate(self.semantic_ids.level_sizes))
        return [
            self.all_token_ids[end - size : end] for end, size in zip(ends, self.semantic_ids.level_sizes, strict=True)
        ]

    def token_ids(self, items: Sequence[int] | np.ndarray) -> np.ndarray:
        """Token ids `[n, levels]` of item rows `[n]`, or `[n, levels + 2]` with markers."""
        codes = self.semantic_ids.codes[np.asarray(items, dtype=np.int64)]
        columns = [ids[codes[:, level]] for level, ids in enumerate(self.level_token_ids)]
        if self.markers:
            begin, end = self.all_token_ids[-2:]
            columns = [np.full(len(codes), begin), *columns, np.full(len(codes), end)]
        return np.stack(columns, axis=1)

    def items(self, token_ids: np.ndarray) -> np.ndarray:
        """Item rows `[n]` of generated token ids `[n, levels]`; `-1` where they are no item's SID.

        Raises:
            ValueError: on rows of another length, on what is no whole number, or when several items share a SID.
        """
        self.semantic_ids.refuse_shared("a SID of tokens is no one item")
        token_ids = np.asarray(token_ids)
        if token_ids.shape[-1] != self.semantic_ids.levels:
            raise ValueError(f"got {token_ids.shape[-1]} tokens a row, a SID has {self.semantic_ids.levels}")
        if token_ids.size and not np.issubdtype(token_ids.dtype, np.integer):
            raise ValueError(f"got token ids of dtype {token_ids.dtype}: pass whole numbers")
        tokens, levels = token_ids.astype(np.int64), np.arange(self.semantic_ids.levels)
        known = (tokens >= 0) & (tokens < self._code_of.shape[1])
        codes = self._code_of[levels, np.where(known, tokens, -1)]
        return self.semantic_ids.rows_of_codes(codes.reshape(-1, len(levels))).reshape(token_ids.shape[:-1])

    @cached_property
    def _code_of(self) -> np.ndarray:
        """Code of each token id on each level, `[levels, largest id + 2]`; `-1` for other tokens, as the last is."""
        codes = np.full((self.semantic_ids.levels, self.all_token_ids.max() + 2), -1, dtype=np.int32)
        for row, ids in zip(codes, self.level_token_ids, strict=True):
            row[ids] = np.arange(len(ids))
        return codes

    def _grow(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        init: str,
        item_texts: list[str],
        seed: int,
    ) -> None:
        import torch  # here, since SIDs as text need neither torch nor transformers, which take seconds to import

        # Some checkpoints hold more rows than their tokenizer has tokens (Qwen); those rows are used, never cut off.
        rows_before = model.get_input_embeddings().get_parameter("weight").shape[0]
        if rows_before < len(tokenizer):
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        tables = [model.get_input_embeddings().get_parameter("weight")]
        head = model.get_output_embeddings().get_parameter("weight")
        if head is not tables[0]:
            tables.append(head)
        new = torch.as_tensor(self.all_token_ids)
        known = min(rows_before, int(new.min()))
        safe = [escape_added_tokens(text, tokenizer) for text in item_texts]
        texts = tokenizer(safe, add_special_tokens=False)["input_ids"] if init == "text" else []
        with torch.no_grad():
            for table in tables:
                old = table[:known].float()
                # Tokens that the tokenizer had without a row, such as padding; drawn rows would be of random size.
                table[rows_before:] = old.mean(dim=0).to(table)
                rows = old.mean(dim=0).expand(len(new), -1).clone()
                if init == "random":
                    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed)).to(rows)
                    rows += noise * old.std(dim=0)
                elif init == "text":
                    self._rows_from_text(rows, old, texts)
                table[new] = rows.to(table)

    def _rows_from_text(self, rows: torch.Tensor, old: torch.Tensor, texts: list[list[int]]) -> None:
        """Overwrite the rows of codes by the mean of their items' text vectors; those without text keep theirs."""
        import torch

        told = [item for item, ids in enumerate(texts) if ids]
        texts = [texts[item] for item in told]
        offsets = torch.tensor([0, *accumulate(len(ids) for ids in texts)][:-1], dtype=torch.long)
        flat = torch.tensor([token for ids in texts for token in ids], dtype=torch.long)
        vectors = torch.nn.functional.embedding_bag(flat.to(old.device), old, offsets.to(old.device), mode="mean")
        start = 0
        for level, size in enumerate(self.semantic_ids.level_sizes):
            code = torch.tensor(self.semantic_ids.codes[told, level], dtype=torch.long, device=old.device)
            total = torch.zeros(size, old.shape[1], device=old.device).index_add_(0, code, vectors)
            count = torch.bincount(code, minlength=size)
            used = count > 0
            rows[start : start + size][used] = total[used] / count[used, None]
            start += size


def refuse_missing_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise where a tokenizer has tokens that a model has no rows for.

    Raises:
        ValueError: tokens were added to the tokenizer after the model was extended for it.
    """
    rows = int(model.config.get_text_config().vocab_size)  # the weights themselves may be shards
    if rows < len(tokenizer):
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {rows} rows, none for "
            f"{tokenizer.convert_ids_to_tokens(rows)!r}: loaded again it would be drawn at random; take the tokenizer "
            "that the model was trained with, or add tokens before SidVocabulary.extend"
        )


def escape_added_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Outside text in which nothing can turn into a SID or control token of `tokenizer`.

    Every spelling of an added token (`<s_a_1>`, `<|im_start|>`, `</s>`), and of `VECTOR`, gets a space after its first
    character, which leaves it readable; text that holds none comes back unchanged. Added tokens of one character
    cannot be split.

    Args:
        text (`str`): a title, a description, a user's instruction.
        tokenizer (`PreTrainedTokenizerBase`): already extended with the SID tokens.

    Returns:
        `str`: text whose tokens are all of the base vocabulary.
    """
    hostile = _added_tokens(tokenizer, len(tokenizer))
    while hostile.search(text):
        text = hostile.sub(lambda found: re.sub(r"(\S)", r"\1 ", found[0], count=1), text)
    return text


@lru_cache(maxsize=4)
def _added_tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> re.Pattern[str]:
    """What matches an added token; `size` is that of the tokenizer, so that tokens added later are known as well."""
    tokens = [VECTOR, *(token for token in tokenizer.get_added_vocab() if len(token.strip()) > 1)]
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
