"""The prompt of every task, written once: training, rollouts and evaluation call these functions and no others."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from genrec_hf.vocabulary import SidVocabulary, escape_added_tokens

NEXT_ITEM = "A user's items, oldest first, and the one that comes next:\n{wish}"
WISH = "The user says: {instruction}\n"

# One row a grounding task: prompt and completion over the fields `sid`, `title`, `category`, `text`, `other` (the SID
# of a similar item). Completions that are text start with a space, so that prompt and completion split between tokens.
GROUNDING = {
    "sid_to_title": ("The title of the item {sid} is:", " {title}"),
    "title_to_sid": ('The item with the title "{title}" is: ', "{sid}"),
    "sid_to_category": ("The categories of the item {sid} are:", " {category}"),
    "text_to_sid": ("{text}\nThe item described above is: ", "{sid}"),
    "similar_items": ("Users who chose the item {sid} also chose: ", "{other}"),
}


def next_item_prompt(
    history: Sequence[int] | np.ndarray,
    vocabulary: SidVocabulary,
    tokenizer: PreTrainedTokenizerBase | None = None,
    instruction: str | None = None,
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

    Returns:
        `str`: the prompt.
    """
    wish = " ".join((instruction or "").split())
    if wish:
        if tokenizer is None:
            raise ValueError("an instruction without a tokenizer: it cannot be made safe, pass tokenizer=")
        wish = WISH.format(instruction=escape_added_tokens(wish, tokenizer))
    return NEXT_ITEM.format(wish=wish) + "".join(vocabulary.text(history)) + vocabulary.begin


def encode_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> list[int]:
    """Token ids of a prompt, the way the trainer makes them.

    Raises:
        ValueError: when the prompt does not fit into `max_length` tokens.
    """
    ids = tokenizer(prompt)["input_ids"]
    if max_length is not None and len(ids) > max_length:
        raise ValueError(
            f"a prompt of {len(ids)} tokens does not fit into {max_length}: cutting it would change what is asked; "
            "shorten the instruction or lower max_history"
        )
    return ids
