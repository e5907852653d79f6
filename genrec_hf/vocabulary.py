"""`SidVocabulary`: adds semantic ids to the vocabulary of an LLM as tokens, and escapes them in outside text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from string import ascii_lowercase
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import AddedToken

from genrec_hf.checks import check_choice
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.semantic_ids.check import check_embeddings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SID_BEGIN, SID_END = "<|sid_begin|>", "<|sid_end|>"
# Prefix of the placeholder for an item's collaborative vector in a prompt; it is not a token, and is escaped in
# outside text.
VECTOR = "<|item_vector_"
FINGERPRINT_KEY = "semantic_ids_fingerprint"
# How the rows of new SID tokens start.
Initialization = Literal["text", "centroids", "mean", "random"]
USE_TEXTS = ("text", "centroids")


class SidVocabulary:
    """Mapping between SIDs and tokens `<s_a_57><s_b_7>...`, for tokenizers, prompts and decoding.

    There is one token for each code of each level. They are added as *ordinary* tokens: special ones would be removed
    from decoded completions.

    Args:
        semantic_ids (`SemanticIds`): the catalogue.
        markers (`bool`, defaults to `False`): whether `<|sid_begin|>` and `<|sid_end|>` enclose every SID in a prompt.

    Raises:
        ValueError: when the SIDs have more than 26 levels.

    Example:
        >>> sids = SemanticIds([[0, 1], [0, 0]], level_sizes=(1, 2), item_ids=["tea", "cup"])
        >>> SidVocabulary(sids).text([1, 0])
        ['<s_a_0><s_b_0>', '<s_a_0><s_b_1>']
    """

    def __init__(self, semantic_ids: SemanticIds, markers: bool = False) -> None:
        if semantic_ids.levels > len(ascii_lowercase):
            raise ValueError(
                f"got SIDs of {semantic_ids.levels} levels, but token names go from <s_a_0> to <s_z_0>: use at most "
                "26 levels"
            )
        self.semantic_ids = semantic_ids
        self.markers = markers
        self._ids: np.ndarray | None = None

    @cached_property
    def tokens(self) -> list[str]:
        """All tokens: those of the codes, level by level, then the markers if used."""
        sizes = zip(ascii_lowercase, self.semantic_ids.level_sizes, strict=False)
        tokens = [f"<s_{letter}_{code}>" for letter, size in sizes for code in range(size)]
        return tokens + ([SID_BEGIN, SID_END] if self.markers else [])

    @property
    def begin(self) -> str:
        """Marker before every SID, and at the end of a prompt whose answer is a SID; empty without markers."""
        return SID_BEGIN if self.markers else ""

    @property
    def end(self) -> str:
        """Marker after every SID; empty without markers."""
        return SID_END if self.markers else ""

    def text(self, items: Sequence[int] | np.ndarray) -> list[str]:
        """Return the SIDs of items as text, with markers if used.

        Args:
            items (`Sequence[int]`): item rows `[n]`.

        Returns:
            `list[str]`: `n` texts, such as `"<s_a_0><s_b_1>"`.
        """
        codes = self.semantic_ids.codes[np.asarray(items, dtype=np.int64)]
        parts = [tokens.take(pa.array(column)) for tokens, column in zip(self._level_tokens, codes.T, strict=True)]
        begin, end, separator = (pa.scalar(text, pa.large_string()) for text in (self.begin, self.end, ""))
        return pc.binary_join_element_wise(begin, *parts, end, separator).to_pylist()

    @cached_property
    def _level_tokens(self) -> list[pa.LargeStringArray]:
        """Tokens of each level, in the order of their codes."""
        ends = list(accumulate(self.semantic_ids.level_sizes))
        bounds = zip([0, *ends], ends, strict=False)
        return [pa.array(self.tokens[first:end], pa.large_string()) for first, end in bounds]

    def extend(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel | None = None,
        *,
        init: Initialization = "text",
        item_texts: Sequence[str] | None = None,
        item_vectors: np.ndarray | None = None,
        seed: int = 0,
    ) -> SidVocabulary:
        """Add the tokens to a tokenizer, initialize their embeddings in a model, and bind this vocabulary.

        Args:
            tokenizer (`PreTrainedTokenizerBase`): changed in place.
            model (`PreTrainedModel`, *optional*): changed in place; the token embeddings are resized only if they have
                too few rows.
            init (`str`, defaults to `"text"`): how to initialize the rows of the new tokens: `"text"`, the mean
                embedding of the texts of the items with that code; `"centroids"`, the centroid of the code, mapped
                into the embedding space and scaled (`centroid_rows`), with `"text"` for the level that numbers
                colliding items; `"mean"`, the mean of all tokens; `"random"`, a normal distribution with the mean and
                standard deviation of the old rows.
            item_texts (`Sequence[str]`, *optional*): `[items]`, required by `"text"` and `"centroids"` if there is a
                model.
            item_vectors (`np.ndarray`, *optional*): vectors that were quantized `[items, d]`, from
                `quantized_vectors`, required by `"centroids"` if there is a model.
            seed (`int`, defaults to 0): random seed of `"random"`, and of `"centroids"` in large catalogues.

        Returns:
            `SidVocabulary`: itself, bound to the tokenizer.

        Raises:
            ValueError: when the tokenizer was extended for other SIDs (as for `bind`), `init` is unknown,
                `item_texts` or `item_vectors` is missing or has another length, or all texts but one are empty with
                `"centroids"`.
        """
        check_choice("init", init, get_args(Initialization))
        if model is not None:
            _refuse_missing_inputs(init, len(self.semantic_ids), item_texts, item_vectors)
        self._refuse_other_sids(tokenizer)
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in self.tokens])
        tokenizer.init_kwargs[FINGERPRINT_KEY] = self.semantic_ids.fingerprint
        self.bind(tokenizer)
        if model is not None:
            # Here, since SIDs as text need neither torch nor transformers, which take seconds to import.
            from genrec_hf.token_initialization import initialize_sid_rows

            texts = [escape_added_tokens(text, tokenizer) for text in item_texts or ()]
            initialize_sid_rows(
                model,
                self.all_token_ids,
                self.semantic_ids,
                rows=len(tokenizer),
                init=init,
                texts=tokenizer(texts, add_special_tokens=False)["input_ids"] if init in USE_TEXTS else [],
                item_vectors=item_vectors,
                seed=seed,
            )
        return self

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> SidVocabulary:
        """Read the token ids from a tokenizer that was extended before.

        It may have been extended for these semantic ids, or for `ancestors` from which `SemanticIds.add` and `remove`
        made them, whose codes have the same meaning: a catalogue can change without a new tokenizer or model.

        Args:
            tokenizer (`PreTrainedTokenizerBase`): not changed.

        Returns:
            `SidVocabulary`: itself.

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
                f"the tokenizer was extended with markers ({SID_BEGIN}), so its model was trained on SIDs with "
                "markers: pass markers=True"
            )
        self._ids = np.array([known[token] for token in self.tokens], dtype=np.int64)
        return self

    def _refuse_other_sids(self, tokenizer: PreTrainedTokenizerBase) -> None:
        fingerprint = tokenizer.init_kwargs.get(FINGERPRINT_KEY)
        if fingerprint not in (None, self.semantic_ids.fingerprint, *self.semantic_ids.ancestors):
            raise ValueError(
                f"the tokenizer was extended for semantic ids {fingerprint}, these are "
                f"{self.semantic_ids.fingerprint}, and their codes have other meanings: load the semantic ids saved "
                "with the tokenizer (and change them by add and remove only), or start from the base model's tokenizer"
            )

    @property
    def all_token_ids(self) -> np.ndarray:
        """Token ids `[tokens]` of all added tokens, in the order of `tokens`, whose embeddings must be trained.

        Raises:
            ValueError: before `extend` or `bind`.
        """
        if self._ids is None:
            raise ValueError(
                "this SidVocabulary is not bound to a tokenizer: call extend(tokenizer, model) or bind(tokenizer)"
            )
        return self._ids

    @cached_property
    def level_token_ids(self) -> list[np.ndarray]:
        """Token ids of each level, `[level_sizes[l]]`, in the order of their codes."""
        ends = list(accumulate(self.semantic_ids.level_sizes))
        return [
            self.all_token_ids[end - size : end] for end, size in zip(ends, self.semantic_ids.level_sizes, strict=True)
        ]

    def token_ids(self, items: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the token ids of the SIDs of items, with markers if used.

        Args:
            items (`Sequence[int]`): item rows `[n]`.

        Returns:
            `np.ndarray`: `[n, levels]`, or `[n, levels + 2]` with markers, int64.

        Raises:
            ValueError: before `extend` or `bind`.
        """
        codes = self.semantic_ids.codes[np.asarray(items, dtype=np.int64)]
        columns = [ids[codes[:, level]] for level, ids in enumerate(self.level_token_ids)]
        if self.markers:
            begin, end = self.all_token_ids[-2:]
            columns = [np.full(len(codes), begin), *columns, np.full(len(codes), end)]
        return np.stack(columns, axis=1)

    def items(self, token_ids: np.ndarray) -> np.ndarray:
        """Return the items of generated SIDs.

        Args:
            token_ids (`np.ndarray`): `[..., levels]`, integers, without markers.

        Returns:
            `np.ndarray`: item rows `[...]`, int64; `-1` where the tokens are not the SID of an item.

        Raises:
            ValueError: on rows of another length, on token ids that are not integers, when several items share a SID,
                or before `extend` or `bind`.
        """
        self.semantic_ids.refuse_shared("a SID then does not identify a unique item")
        token_ids = np.asarray(token_ids)
        if token_ids.shape[-1] != self.semantic_ids.levels:
            raise ValueError(
                f"got {token_ids.shape[-1]} tokens per row, but a SID has {self.semantic_ids.levels}: pass the tokens "
                "of the SID, without markers"
            )
        if token_ids.size and not np.issubdtype(token_ids.dtype, np.integer):
            raise ValueError(f"got token ids of dtype {token_ids.dtype}: pass integers")
        tokens, levels = token_ids.astype(np.int64), np.arange(self.semantic_ids.levels)
        in_table = (tokens >= 0) & (tokens < self._codes_by_token.shape[1])
        codes = self._codes_by_token[levels, np.where(in_table, tokens, -1)]
        return self.semantic_ids.rows_of_codes(codes.reshape(-1, len(levels))).reshape(token_ids.shape[:-1])

    @cached_property
    def _codes_by_token(self) -> np.ndarray:
        """Codes of token ids on each level `[levels, largest id + 2]`; `-1` for other tokens and the last column."""
        codes = np.full((self.semantic_ids.levels, self.all_token_ids.max() + 2), -1, dtype=np.int32)
        for row, ids in zip(codes, self.level_token_ids, strict=True):
            row[ids] = np.arange(len(ids))
        return codes


def _refuse_missing_inputs(
    init: str, items: int, item_texts: Sequence[str] | None, item_vectors: np.ndarray | None
) -> None:
    """Raise when the texts or vectors that an initialization reads are missing or invalid."""
    needed: dict[str, Sequence[str] | np.ndarray | None] = {"item_texts": item_texts} if init in USE_TEXTS else {}
    needed |= {"item_vectors": item_vectors} if init == "centroids" else {}
    for name, values in needed.items():
        if values is None or len(values) != items:
            raise ValueError(
                f"got {'no' if values is None else len(values)} {name.replace('_', ' ')} for {items} items with "
                f"init={init!r}: pass {name}=, one for each item, or init='mean'"
            )
    if init == "centroids" and item_texts is not None and item_vectors is not None:
        check_embeddings(item_vectors, min_distinct=1)
        if (count := sum(bool(text.strip()) for text in item_texts)) < 2:
            raise ValueError(
                f"got {count} item texts that are not blank with init='centroids', which fits a map from item vectors "
                "to texts: pass at least 2, or init='mean'"
            )


def refuse_missing_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise when a tokenizer has tokens for which a model has no embedding.

    Args:
        model (`PreTrainedModel`): the model.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer to use with it.

    Raises:
        ValueError: when tokens were added to the tokenizer after the model was extended for it.
    """
    rows = int(model.config.get_text_config().vocab_size)  # the weight matrix may be sharded
    if rows < len(tokenizer):
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, but the model has {rows} embeddings and none for "
            f"{tokenizer.convert_ids_to_tokens(rows)!r}, which would be random after loading: use the tokenizer that "
            "the model was trained with, or add tokens before SidVocabulary.extend"
        )


def escape_added_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Escape outside text, so that no part of it becomes a SID or control token of a tokenizer.

    Every occurrence of an added token (`<s_a_1>`, `<|im_start|>`, `</s>`), and of `VECTOR`, gets a space after its
    first character, which leaves it readable; text without any is returned unchanged. Added tokens of one character
    cannot be split.

    Args:
        text (`str`): a title, a description, a user's instruction.
        tokenizer (`PreTrainedTokenizerBase`): already extended with the SID tokens.

    Returns:
        `str`: text whose tokens are all in the base vocabulary.
    """
    pattern = _added_token_pattern(tokenizer, len(tokenizer))
    while pattern.search(text):
        text = pattern.sub(lambda match: re.sub(r"(\S)", r"\1 ", match[0], count=1), text)
    return text


@lru_cache(maxsize=4)
def _added_token_pattern(tokenizer: PreTrainedTokenizerBase, size: int) -> re.Pattern[str]:
    """Compile a pattern for added tokens; `size`, of the tokenizer, makes the cache miss after more are added."""
    tokens = [VECTOR, *(token for token in tokenizer.get_added_vocab() if len(token.strip()) > 1)]
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
