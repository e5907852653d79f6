"""The prompt for the next item, written once: training, rollouts and evaluation call this and no other."""

import re
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from genrec_hf.tasks.turns import chat_turns
from genrec_hf.vocabulary import SID_BEGIN, VECTOR, SidVocabulary, escape_added_tokens

# What examples look like: plain text, or turns of a chat in the model's own template.
Form = Literal["plain", "chat"]
NEXT_ITEM = "A user's items, oldest first, and the one that comes next:\n{instruction}"
INSTRUCTION = "The user says: {instruction}\n"
_PLACE = re.compile(re.escape(VECTOR) + r"(\d+)\|>")
_SID = re.compile(rf"<s_[a-z]_\d+>|{re.escape(SID_BEGIN)}")


def vector_place(item: int) -> str:
    """What stands in a prompt for the collaborative vector of an item row, until `encode_prompt` puts its id there."""
    return f"{VECTOR}{item}|>"


def next_item_prompt(
    history: Sequence[int] | np.ndarray,
    vocabulary: SidVocabulary,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
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
        instruction (`str`, *optional*): an instruction in the user's words; outside text, never read as SID or control tokens.
        vectors (`bool`, defaults to `False`): put the place of its collaborative vector behind every SID.
        titles (`Sequence[str]`, *optional*): `[items]`, outside text between a SID and its vector.

    Returns:
        `str`: the prompt.
    """
    instruction = " ".join((instruction or "").split())
    if (instruction or titles is not None) and tokenizer is None:
        raise ValueError("outside text without a tokenizer: it cannot be made safe, pass tokenizer=")
    if instruction:
        instruction = INSTRUCTION.format(
            instruction=escape_added_tokens(instruction, cast(PreTrainedTokenizerBase, tokenizer))
        )
    items = []
    for sid, item in zip(vocabulary.text(history), history, strict=True):
        title = "" if titles is None else title_text(titles[item], cast(PreTrainedTokenizerBase, tokenizer))
        items.append(sid + title + (vector_place(item) if vectors else ""))
    return NEXT_ITEM.format(instruction=instruction) + "".join(items) + vocabulary.begin


def title_text(title: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """What stands in a prompt for a title behind its SID: nothing, or a space and words that stay words."""
    return f" {escape_added_tokens(title, tokenizer)}" if title else ""


def encode_prompt(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    *,
    form: Form = "plain",
    first_vector: int | None = None,
) -> list[int]:
    """Token ids of a prompt that asks for a SID, the way the trainer makes them.

    Args:
        prompt (`str`): from `next_item_prompt` or a task.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        max_length (`int`, *optional*): most tokens.
        form (`str`, defaults to `"plain"`): `"plain"` text, or `"chat"`: what the user says in the model's chat
            template, with all that stands there before an answer of the assistant (`chat_turns`).
        first_vector (`int`, *optional*): `LlaraConfig.first_vector`, where the model reads collaborative vectors: the
            place of an item's becomes the id `first_vector + item`.

    Raises:
        ValueError: when the prompt does not fit into `max_length` tokens, the tokenizer has no chat template, or a
            vector stands in the prompt that the model does not read or that names no item.
    """
    if form == "chat":
        before, between, _ = chat_turns(tokenizer)
        prompt = before + prompt.strip() + between
    (ids,) = _token_ids([prompt], tokenizer, form, first_vector)
    refuse_long_prompt(ids, max_length)
    return ids


def refuse_long_prompt(ids: Sequence[int], max_length: int | None) -> None:
    """Raise where a prompt would have to be cut.

    Raises:
        ValueError: it has more tokens than `max_length`.
    """
    if max_length is not None and len(ids) > max_length:
        raise ValueError(
            f"a prompt of {len(ids)} tokens does not fit into {max_length}: cutting it would change what is asked; "
            "shorten the instruction or lower max_history"
        )


def encode_pairs(
    prompts: Sequence[str],
    completions: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    form: Form = "plain",
    first_vector: int | None = None,
) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompts, and of the completion behind each of them with what ends it.

    Args:
        prompts (`Sequence[str]`): from tasks.
        completions (`Sequence[str]`): the answer to each.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        form (`str`, defaults to `"plain"`): the end of a `"plain"` text is the end-of-sequence token; of an answer in
            a `"chat"`, what the template puts there.
        first_vector (`int`, *optional*): as of `encode_prompt`.

    Returns:
        `list[tuple]`: ids of a prompt, which are those of `encode_prompt` where the completion starts with a SID; and
        those that follow.

    Raises:
        ValueError: when a prompt and its completion share a token, so that nobody could ask what was trained; and as
            `encode_prompt` does.
    """
    asked, answers = list(prompts), [completion + (tokenizer.eos_token or "") for completion in completions]
    if form == "chat":
        before, between, after = chat_turns(tokenizer)
        asked = [before + prompt.strip() + between for prompt in prompts]
        answers = [completion.strip() + after for completion in completions]
        for row, answer in enumerate(answers):
            if not _SID.match(answer):
                # Words may form one token with the space before them, a SID never does.
                asked[row] = asked[row].rstrip(" ")
                answers[row] = between[len(between.rstrip(" ")) :] + answer
    whole = [prompt + answer for prompt, answer in zip(asked, answers, strict=True)]
    pairs = []
    for prompt_ids, ids in zip(
        _token_ids(asked, tokenizer, form, first_vector), _token_ids(whole, tokenizer, form, first_vector), strict=True
    ):
        if ids[: len(prompt_ids)] != prompt_ids:
            _raise_torn(prompt_ids, tokenizer)
        pairs.append((prompt_ids, ids[len(prompt_ids) :]))
    return pairs


def refuse_other_prompts(
    vocabulary: SidVocabulary,
    tokenizer: PreTrainedTokenizerBase,
    form: Form = "plain",
    *,
    titles: Sequence[str] | None = None,
    first_vector: int | None = None,
) -> None:
    """Raise where the model would be asked for a next item in other tokens than it is trained on.

    The tokens of a prompt have to be the first of those of the prompt with its answer, and the tokens of the answer
    those of the item. In plain text they also have to be the first of the prompt for one item more (dense sequences).

    Args:
        vocabulary (`SidVocabulary`): bound to `tokenizer`.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        form (`str`, defaults to `"plain"`): of the prompts.
        titles (`Sequence[str]`, *optional*): `[items]`, as of `next_item_prompt`.
        first_vector (`int`, *optional*): as of `encode_prompt`.

    Raises:
        ValueError: see above.
    """
    vectors, item = first_vector is not None, len(vocabulary.semantic_ids) - 1
    sid = vocabulary.token_ids([item])[0].tolist()[int(vocabulary.markers) :]
    rest = vocabulary.text([item])[0].removeprefix(vocabulary.begin)
    for history in ([], [0]):
        prompt, longer = (
            next_item_prompt(items, vocabulary, tokenizer, vectors=vectors, titles=titles)
            for items in (history, [*history, item])
        )
        asked = encode_prompt(prompt, tokenizer, None, form=form, first_vector=first_vector)
        ((trained, answer),) = encode_pairs([prompt], [rest], tokenizer, form=form, first_vector=first_vector)
        dense = encode_prompt(longer, tokenizer, None, form=form, first_vector=first_vector)
        levels = vocabulary.semantic_ids.levels
        goes_on = form == "chat" or dense[: len(asked) + levels] == asked + sid[:levels]
        if asked != trained or answer[: len(sid)] != sid or not goes_on:
            raise ValueError(
                f"the prompt {tokenizer.decode(trained + answer)[-60:]!r} does not begin with the tokens of its "
                f"question {tokenizer.decode(asked)[-40:]!r}: the model would be asked otherwise than it was trained; "
                "use the tokenizer of another base model"
            )


def _token_ids(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: Form, first_vector: int | None
) -> list[list[int]]:
    """Of whole texts; a chat template writes the special tokens of a chat itself."""
    special = form == "plain"
    if not any(VECTOR in text for text in texts):
        return cast(list[list[int]], tokenizer(list(texts), add_special_tokens=special)["input_ids"])
    return [_token_ids_with_vectors(text, tokenizer, special, first_vector) for text in texts]


def _token_ids_with_vectors(
    text: str, tokenizer: PreTrainedTokenizerBase, special: bool, first_vector: int | None
) -> list[int]:
    head, *places = _PLACE.split(text)  # text, then item and text in turn
    unread = text.count(VECTOR) - len(places) // 2
    if unread or (places and first_vector is None):
        raise ValueError(
            f"got a prompt with {text.count(VECTOR)} places of collaborative vectors, {unread} of them without an "
            f"item, and first_vector={first_vector}: they would be read as text; pass the LlaraConfig's first_vector"
        )
    ids: list[int] = tokenizer(head, add_special_tokens=special)["input_ids"]
    if places:
        behind = tokenizer(places[1::2], add_special_tokens=False)["input_ids"]
        for item, after in zip(places[::2], behind, strict=True):
            ids += [cast(int, first_vector) + int(item), *after]
    return ids


def _raise_torn(prompt_ids: list[int], tokenizer: PreTrainedTokenizerBase) -> None:
    appended = tokenizer("a")["input_ids"][-1]
    if appended == prompt_ids[-1] and appended in tokenizer.all_special_ids:
        raise ValueError(
            f"the tokenizer puts {tokenizer.decode([appended])!r} behind every text, so a prompt would end before its "
            "answer: take that out of its post-processor (add_eos_token=False) and save it anew"
        )
    raise ValueError(
        f"the prompt {tokenizer.decode(prompt_ids)[-40:]!r} ends inside a token of its completion: end the prompt "
        "with a space, or start the completion with one; in a chat, use form='plain'"
    )
