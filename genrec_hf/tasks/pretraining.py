"""Pre-training text: whole users as SIDs, mixed with item text that names its SID."""

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

# SID and text predict each other: what stands first is read, what stands last is learnt.
ITEM_WORDINGS = ("{sid} {text}", "{text} {sid}")


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
    """Running text for continued pre-training: every user's whole sequence, and items described beside their SID.

    Two kinds of rows, the loss on every token after the first (PLUM, arXiv:2510.07784, continued pre-training):

    - a user: the head that `next_item_prompt([])` gives, then the SIDs of all training events, oldest first. What
      stands before a SID is, token for token, the prompt that `next_item_prompt` gives for the items before it, so
      that what is learnt here is learnt on the bytes that evaluation feeds. A user too long for `max_length` is cut
      between items into stretches of nearly equal length, each a row with a head; every event is in one of them.
    - an item: `<sid> title. Categories: ...` or the text first and the SID last. Each pass over the items has a new
      order and the other wording.

    What differs from PLUM: no features of the event (watch time, channel) stand between the SIDs, and no row ends with
    an end-of-sequence token, since decoding stops by depth.

    Args:
        data (`InteractionData`): items and training events; nothing of the validation and test events is read.
        vocabulary (`SidVocabulary`): bound to `tokenizer`.
        tokenizer (`PreTrainedTokenizerBase`): extended; tells which outside text would read as a SID or control token.
        max_length (`int`, *optional*, defaults to 1024): tokens of the longest row of a user; `None` cuts no user.
        item_share (`float`, defaults to 0.5): the items' share of all tokens, in `[0, 1)`; items are repeated until it
            is reached, and some left out when it is small.
        max_characters (`int`, defaults to 200): longest item text.
        seed (`int`, defaults to 0): of the choice of items and the shuffle.

    Returns:
        `Dataset`: columns `input_ids` and `labels` (`-100` on the first token alone).

    Raises:
        ValueError: on a share outside `[0, 1)`, semantic ids of other items, a `max_length` without room for an item,
            a tokenizer that reads a prompt otherwise when more follows it, or when there is no training event.
    """
    if not 0 <= item_share < 1:
        raise ValueError(f"got item_share={item_share}: give the items' share of all tokens, from 0 to below 1")
    vocabulary.semantic_ids.refuse_other_items(data.item_ids)
    refuse_other_prompts(vocabulary, tokenizer)
    rows = list(_user_rows(data, vocabulary, tokenizer, max_length))
    if not rows:
        raise ValueError(f"none of {len(data.user_ids)} users has a training event: there is no sequence to learn")
    wanted = item_share / (1 - item_share) * sum(map(len, rows))
    for row in _item_rows(data, vocabulary, tokenizer, max_characters, np.random.default_rng(seed)):
        if wanted < len(row) / 2:
            break
        wanted -= len(row)
        rows.append(row)
    labels = [[IGNORED, *row[1:]] for row in rows]
    return Dataset.from_dict({"input_ids": rows, "labels": labels}).shuffle(seed=seed)


def _user_rows(
    data: InteractionData, vocabulary: SidVocabulary, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> Iterator[list[int]]:
    head = encode_prompt(next_item_prompt([], vocabulary), tokenizer)
    known = int(vocabulary.markers)  # the head ends with the first begin marker
    width = vocabulary.token_ids([0]).shape[1]
    room = sys.maxsize if max_length is None else (max_length - len(head) + known) // width
    if room < 1:
        raise ValueError(
            f"max_length={max_length} has no room for an item: the head takes {len(head)} tokens and each item {width}"
        )
    for sequence in data.training_sequences():
        if len(sequence):
            for stretch in np.array_split(sequence, -(-len(sequence) // room)):
                yield head + vocabulary.token_ids(stretch).reshape(-1)[known:].tolist()


def _item_rows(
    data: InteractionData,
    vocabulary: SidVocabulary,
    tokenizer: PreTrainedTokenizerBase,
    max_characters: int,
    rng: np.random.Generator,
) -> Iterator[list[int]]:
    """Described items without end."""
    sids = vocabulary.text(np.arange(len(data.items)))
    texts = [escape_added_tokens(text, tokenizer) for text in item_texts(data.items, max_characters=max_characters)]
    pairs = list(zip(sids, texts, strict=True))
    wordings = [
        tokenizer([wording.format(sid=sid, text=text) for sid, text in pairs])["input_ids"]
        for wording in ITEM_WORDINGS
    ]
    for number in count():
        for item in rng.permutation(len(pairs)).tolist():
            yield wordings[(number + item) % len(wordings)][item]
