"""The prompt for the next item, written once: training, rollouts and evaluation call this and no other."""

import re
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from genrec_hf.vocabulary import VECTOR, SidVocabulary, escape_added_tokens

# What examples look like: plain text, or turns of a chat in the model's own template.
Form = Literal["plain", "chat"]
NEXT_ITEM = "A user's items, oldest first, and the one that comes next:\n{wish}"
WISH = "The user says: {instruction}\n"
_PLACE = re.compile(re.escape(VECTOR) + r"(\d+)\|>")


def vector_place(item: int) -> str:
    """What stands in a prompt for the collaborative vector of an item row, until `encode_prompt` puts its id there."""
    return f"{VECTOR}{item}|>"


def next_item_prompt(
    history: Sequence[int] | np.ndarray,
    vocabulary: SidVocabulary,
    tokenizer: PreTrainedTokenizerBase | None = None,
    instruction: str | None = None,
    vectors: bool = False,
    titles: Sequence[str] | None = None,
) -> str:
    """The prompt whose continuation is the SID of the user's next item.

    The history stands last, SID after SID with nothing between (with markers, the begin marker of the SID to come is
    the end of the prompt), so the prompt for a longer history starts with the prompt for a shorter one: one sequence
    of SIDs trains every next item in it (dense supervision) on the very bytes that evaluation feeds.

    Args:
        history (`Sequence[int]`): item rows, oldest first; empty for a cold user.
        vocabulary (`SidVocabulary`): turns items into SID text.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): needed with `instruction` and `titles`, whose look-alikes it
            tells.
        instruction (`str`, *optional*): a wish in the user's words; outside text, never read as SID or control tokens.
        vectors (`bool`, defaults to `False`): put the place of its collaborative vector behind every SID.
        titles (`Sequence[str]`, *optional*): `[items]`, outside text between a SID and its vector.

    Returns:
        `str`: the prompt.
    """
    wish = " ".join((instruction or "").split())
    if (wish or titles is not None) and tokenizer is None:
        raise ValueError("outside text without a tokenizer: it cannot be made safe, pass tokenizer=")
    if wish:
        wish = WISH.format(instruction=escape_added_tokens(wish, cast(PreTrainedTokenizerBase, tokenizer)))
    items = []
    for sid, item in zip(vocabulary.text(history), history, strict=True):
        title = "" if titles is None else title_text(titles[item], cast(PreTrainedTokenizerBase, tokenizer))
        items.append(sid + title + (vector_place(item) if vectors else ""))
    return NEXT_ITEM.format(wish=wish) + "".join(items) + vocabulary.begin


def title_text(title: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """What stands in a prompt for a title behind its SID: nothing, or a space and words that stay words."""
    return f" {escape_added_tokens(title, tokenizer)}" if title else ""


def encode_prompt(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    form: Form = "plain",
    first_vector: int | None = None,
) -> list[int]:
    """Token ids of a prompt, the way the trainer makes them.

    Args:
        prompt (`str`): from `next_item_prompt` or a task.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        max_length (`int`, *optional*): most tokens.
        form (`str`, defaults to `"plain"`): `"plain"` text, or `"chat"`: what the user says in the model's chat
            template, with the start of the assistant's turn after it.
        first_vector (`int`, *optional*): `LlaraConfig.first_vector`, where the model reads collaborative vectors: the
            place of an item's becomes the id `first_vector + item`.

    Raises:
        ValueError: when the prompt does not fit into `max_length` tokens, the tokenizer has no chat template, or a
            vector stands in the prompt that the model does not read or that names no item.
    """
    if form == "chat":
        refuse_no_chat_template(tokenizer)
        message = [{"role": "user", "content": prompt.strip()}]
        prompt = cast(str, tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
    head, *places = _PLACE.split(prompt)  # text, then item and text in turn
    unread = prompt.count(VECTOR) - len(places) // 2
    if unread or (places and first_vector is None):
        raise ValueError(
            f"got a prompt with {prompt.count(VECTOR)} places of collaborative vectors, {unread} of them without an "
            f"item, and first_vector={first_vector}: they would be read as text; pass the LlaraConfig's first_vector"
        )
    ids: list[int] = tokenizer(head, add_special_tokens=form == "plain")["input_ids"]
    if places:
        texts = tokenizer(places[1::2], add_special_tokens=False)["input_ids"]
        for item, text in zip(places[::2], texts, strict=True):
            ids += [cast(int, first_vector) + int(item), *text]
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
