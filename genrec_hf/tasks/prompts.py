"""The prompt for the next item, written once: training, rollouts and evaluation call this and no other."""

from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from genrec_hf.vocabulary import VECTOR, SidVocabulary, escape_added_tokens

# What examples look like: plain text, or turns of a chat in the model's own template.
Form = Literal["plain", "chat"]
NEXT_ITEM = "A user's items, oldest first, and the one that comes next:\n{wish}"
WISH = "The user says: {instruction}\n"


def next_item_prompt(
    history: Sequence[int] | np.ndarray,
    vocabulary: SidVocabulary,
    tokenizer: PreTrainedTokenizerBase | None = None,
    instruction: str | None = None,
    vectors: bool = False,
) -> str:
    """The prompt whose continuation is the SID of the user's next item.

    The history stands last, SID after SID with nothing between (with markers, the begin marker of the SID to come is
    the end of the prompt), so the prompt for a longer history starts with the prompt for a shorter one: one sequence
    of SIDs trains every next item in it (dense supervision) on the very bytes that evaluation feeds.

    Args:
        history (`Sequence[int]`): item rows, oldest first; empty for a cold user.
        vocabulary (`SidVocabulary`): turns items into SID text.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): needed with `instruction`, whose look-alikes it tells.
        instruction (`str`, *optional*): a wish in the user's words; outside text, never read as SID or control tokens.
        vectors (`bool`, defaults to `False`): put the place of its collaborative vector behind every SID, for
            `encode_prompt` to fill.

    Returns:
        `str`: the prompt.
    """
    wish = " ".join((instruction or "").split())
    if wish:
        if tokenizer is None:
            raise ValueError("an instruction without a tokenizer: it cannot be made safe, pass tokenizer=")
        wish = WISH.format(instruction=escape_added_tokens(wish, tokenizer))
    items = [sid + VECTOR for sid in vocabulary.text(history)] if vectors else vocabulary.text(history)
    return NEXT_ITEM.format(wish=wish) + "".join(items) + vocabulary.begin


def encode_prompt(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    form: Form = "plain",
    vector_ids: Sequence[int] | np.ndarray = (),
) -> list[int]:
    """Token ids of a prompt, the way the trainer makes them.

    Args:
        prompt (`str`): from `next_item_prompt` or a task.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        max_length (`int`, *optional*): most tokens.
        form (`str`, defaults to `"plain"`): `"plain"` text, or `"chat"`: what the user says in the model's chat
            template, with the start of the assistant's turn after it.
        vector_ids (`Sequence[int]`, *optional*): ids of the collaborative vectors of the places in the prompt, in
            order: `LlaraConfig.first_vector` plus the item row.

    Raises:
        ValueError: when the prompt does not fit into `max_length` tokens, the tokenizer has no chat template, or there
            are not as many vectors as places for them.
    """
    if form == "chat":
        refuse_no_chat_template(tokenizer)
        message = [{"role": "user", "content": prompt.strip()}]
        prompt = cast(str, tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
    parts = prompt.split(VECTOR)
    if len(parts) - 1 != len(vector_ids):
        raise ValueError(
            f"got {len(vector_ids)} vectors for {len(parts) - 1} places in the prompt: they would stand for other "
            "items; pass one vector id for each place"
        )
    ids: list[int] = tokenizer(parts[0], add_special_tokens=form == "plain")["input_ids"]
    for vector, part in zip(vector_ids, parts[1:], strict=True):
        ids += [int(vector), *tokenizer(part, add_special_tokens=False)["input_ids"]]
    if max_length is not None and len(ids) > max_length:
        raise ValueError(
            f"a prompt of {len(ids)} tokens does not fit into {max_length}: cutting it would change what is asked; "
            "shorten the instruction or lower max_history"
        )
    return ids


def refuse_no_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise where the chat form is asked for and the tokenizer knows no chat.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            "form='chat' and the tokenizer has no chat template: nobody taught this model turns; take an instruct "
            "model, or form='plain'"
        )
