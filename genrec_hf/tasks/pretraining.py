"""Data set for continued pre-training: users' sequences as SIDs, mixed with item texts and their SIDs."""

import sys
from collections.abc import Iterator
from itertools import count

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from genrec_hf.data import InteractionData, item_texts
from genrec_hf.tasks.prompts import encode_prompt, next_item_prompt, refuse_other_prompts
from genrec_hf.tasks.sequential import IGNORED
from genrec_hf.vocabulary import SidVocabulary, escape_added_tokens

# Templates of an item, one for each direction of prediction: text given SID, and SID given text.
ITEM_TEMPLATES = ("{sid} {text}", "{text} {sid}")


def pretraining_dataset(
    data: InteractionData,
    vocabulary: SidVocabulary,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = 1024,
    item_share: float = 0.5,
    max_characters: int = 200,
    seed: int = 0,
) -> Dataset:
    """Return rows for continued pre-training: every user's sequence, and items with their SID and text.

    There are two kinds of rows, with the loss on every token after the first (PLUM, arXiv:2510.07784, continued
    pre-training):

    - a user: the text of `next_item_prompt([])`, then the SIDs of all training events, oldest first. The tokens before
      a SID are those of `next_item_prompt` for the items before it, so that training and evaluation use the same
      bytes. A sequence too long for `max_length` is split between items into windows of nearly equal length, each a
      row that begins with the text of `next_item_prompt([])`; every event is in exactly one of them.
    - an item: `<sid> title. Categories: ...`, or the text first and the SID last. Each pass over the items has a new
      order and swaps the template of every item.

    What differs from PLUM: there are no features of the event (watch time, channel) between the SIDs, and no row ends
    with an end-of-sequence token, since decoding stops after the last level.

    Args:
        data (`InteractionData`): data set; validation and test events are not read.
        vocabulary (`SidVocabulary`): bound to `tokenizer`.
        tokenizer (`PreTrainedTokenizerBase`): extended; names the special tokens that are escaped in item texts.
        max_length (`int`, *optional*, defaults to 1024): maximum number of tokens of a user's row; `None` for no
            limit.
        item_share (`float`, defaults to 0.5): share of the items' rows in all tokens, in `[0, 1)`; items are repeated
            to reach it, and some are left out when it is small.
        max_characters (`int`, defaults to 200): maximum length of an item's text.
        seed (`int`, defaults to 0): seed of the choice of items and the shuffle.

    Returns:
        `Dataset`: columns `input_ids` and `labels` (`-100` on the first token only).

    Raises:
        ValueError: `item_share` is outside `[0, 1)`, the semantic ids are of other items than the data, `max_length`
            has no room for an item, the tokenizer encodes a prompt differently when more text follows it, or there is
            no training event.
    """
    if not 0 <= item_share < 1:
        raise ValueError(f"got item_share={item_share}: it must be from 0 to below 1, the items' share of all tokens")
    vocabulary.semantic_ids.refuse_other_items(data.item_ids)
    refuse_other_prompts(vocabulary, tokenizer)
    rows = list(_user_rows(data, vocabulary, tokenizer, max_length))
    if not rows:
        raise ValueError(
            f"none of {len(data.user_ids)} users has a training event: there is no sequence to train on; check the "
            "split of the data set"
        )
    missing_tokens = item_share / (1 - item_share) * sum(map(len, rows))
    for row in _item_rows(data, vocabulary, tokenizer, max_characters, np.random.default_rng(seed)):
        if missing_tokens < len(row) / 2:
            break
        missing_tokens -= len(row)
        rows.append(row)
    labels = [[IGNORED, *row[1:]] for row in rows]
    return Dataset.from_dict({"input_ids": rows, "labels": labels}).shuffle(seed=seed)


def _user_rows(
    data: InteractionData, vocabulary: SidVocabulary, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> Iterator[list[int]]:
    head = encode_prompt(next_item_prompt([], vocabulary), tokenizer)
    shared = int(vocabulary.markers)  # the head ends with the first begin marker
    tokens_per_item = vocabulary.token_ids([0]).shape[1]
    max_items = sys.maxsize if max_length is None else (max_length - len(head) + shared) // tokens_per_item
    if max_items < 1:
        raise ValueError(
            f"got max_length={max_length}, which has no room for an item: the text before a history has {len(head)} "
            f"tokens and each item {tokens_per_item}; raise it"
        )
    for sequence in data.training_sequences():
        if len(sequence):
            for window in np.array_split(sequence, -(-len(sequence) // max_items)):
                yield head + vocabulary.token_ids(window).reshape(-1)[shared:].tolist()


def _item_rows(
    data: InteractionData,
    vocabulary: SidVocabulary,
    tokenizer: PreTrainedTokenizerBase,
    max_characters: int,
    rng: np.random.Generator,
) -> Iterator[list[int]]:
    """Yield rows of items with text, endlessly."""
    sids = vocabulary.text(np.arange(len(data.items)))
    texts = [escape_added_tokens(text, tokenizer) for text in item_texts(data.items, max_characters=max_characters)]
    pairs = list(zip(sids, texts, strict=True))
    rows = [
        tokenizer([template.format(sid=sid, text=text) for sid, text in pairs])["input_ids"]
        for template in ITEM_TEMPLATES
    ]
    for number in count():
        for item in rng.permutation(len(pairs)).tolist():
            yield rows[(number + item) % len(rows)][item]
