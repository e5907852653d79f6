"""The prompt for the next item and its token ids, the same in training, rollouts and evaluation."""

import re
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from genrec_hf.tasks.turns import chat_turns
from genrec_hf.vocabulary import SID_BEGIN, VECTOR, SidVocabulary, escape_added_tokens

# The format of examples: plain text, or turns of a chat in the model's own template.
Form = Literal["plain", "chat"]
NEXT_ITEM = "A user's items, oldest first, and the one that comes next:\n{instruction}"
INSTRUCTION = "The user says: {instruction}\n"
_PLACEHOLDER = re.compile(re.escape(VECTOR) + r"(\d+)\|>")
_SID = re.compile(rf"<s_[a-z]_\d+>|{re.escape(SID_BEGIN)}")


def vector_placeholder(item: int) -> str:
    """Return the placeholder of an item's collaborative vector, which `encode_prompt` replaces by the vector's id.

    Args:
        item (`int`): item row.

    Returns:
        `str`: the placeholder.
    """
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
    """Return the prompt whose continuation is the SID of the user's next item.

    The history is the last part of the prompt, SID after SID with nothing between them (with markers, the prompt ends
    with the begin marker of the next SID). The prompt for a longer history therefore starts with the prompt for a
    shorter one, and one sequence of SIDs trains every next item in it (dense supervision) on the same bytes that
    evaluation uses.

    Args:
        history (`Sequence[int]`): item rows, oldest first; empty for a user without history.
        vocabulary (`SidVocabulary`): converts items to SID text.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): required with `instruction` and `titles`; names the special
            tokens that are escaped in them.
        instruction (`str`, *optional*): an instruction in the user's words; text from outside, which is never encoded
            as SID or control tokens.
        vectors (`bool`, defaults to `False`): append the placeholder of its collaborative vector to every SID.
        titles (`Sequence[str]`, *optional*): `[items]`, text from outside, put between a SID and its vector.

    Returns:
        `str`: the prompt.

    Raises:
        ValueError: `instruction` or `titles` are given without a tokenizer.
    """
    instruction = " ".join((instruction or "").split())
    if (instruction or titles is not None) and tokenizer is None:
        raise ValueError(
            "got an instruction or titles without a tokenizer: they could be encoded as SID or control tokens; pass "
            "tokenizer="
        )
    if instruction:
        instruction = INSTRUCTION.format(
            instruction=escape_added_tokens(instruction, cast(PreTrainedTokenizerBase, tokenizer))
        )
    items = []
    for sid, item in zip(vocabulary.text(history), history, strict=True):
        title = "" if titles is None else title_text(titles[item], cast(PreTrainedTokenizerBase, tokenizer))
        items.append(sid + title + (vector_placeholder(item) if vectors else ""))
    return NEXT_ITEM.format(instruction=instruction) + "".join(items) + vocabulary.begin


def title_text(title: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that a prompt has for a title after its SID.

    Args:
        title (`str`): text from outside; empty for an item without a title.
        tokenizer (`PreTrainedTokenizerBase`): names the special tokens that are escaped.

    Returns:
        `str`: a space and the escaped title, or an empty string without a title.
    """
    return f" {escape_added_tokens(title, tokenizer)}" if title else ""


def encode_prompt(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    *,
    form: Form = "plain",
    first_vector: int | None = None,
) -> list[int]:
    """Return the token ids of a prompt that asks for a SID, the same as in training.

    Args:
        prompt (`str`): from `next_item_prompt` or a task.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        max_length (`int`, *optional*): maximum number of tokens; no limit when not given.
        form (`str`, defaults to `"plain"`): `"plain"` text, or `"chat"`: the user's turn in the model's chat template,
            with everything that the template puts before the assistant's answer (`chat_turns`).
        first_vector (`int`, *optional*): `LlaraConfig.first_vector` of a model that reads collaborative vectors; the
            placeholder of an item's vector becomes the id `first_vector + item`.

    Returns:
        `list[int]`: token ids, and ids of vectors.

    Raises:
        ValueError: the prompt does not fit into `max_length` tokens, the tokenizer has no chat template, or the prompt
            holds a placeholder of a vector without `first_vector`, or one that names no item.
    """
    if form == "chat":
        before, between, _ = chat_turns(tokenizer)
        prompt = before + prompt.strip() + between
    (ids,) = _token_ids([prompt], tokenizer, form, first_vector)
    refuse_long_prompt(ids, max_length)
    return ids


def refuse_long_prompt(ids: Sequence[int], max_length: int | None) -> None:
    """Raise if a prompt has more than `max_length` tokens.

    Args:
        ids (`Sequence[int]`): token ids of the prompt.
        max_length (`int`, *optional*): maximum number of tokens; `None` for no limit.

    Raises:
        ValueError: the prompt is too long.
    """
    if max_length is not None and len(ids) > max_length:
        raise ValueError(
            f"a prompt of {len(ids)} tokens does not fit into {max_length}: truncating it would change the question; "
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
    """Return the token ids of prompts and of their completions, each completion with its end.

    Args:
        prompts (`Sequence[str]`): from tasks.
        completions (`Sequence[str]`): the answer to each prompt.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        form (`str`, defaults to `"plain"`): a `"plain"` completion ends with the end-of-sequence token, an answer in a
            `"chat"` with what the template puts after it.
        first_vector (`int`, *optional*): see `encode_prompt`.

    Returns:
        `list[tuple]`: for each pair, the ids of the prompt, which are those of `encode_prompt` where the completion
        starts with a SID, and the ids of the completion.

    Raises:
        ValueError: a prompt and its completion share a token, so that the prompt alone has other tokens than in
            training; or as `encode_prompt` does, except for the length.
    """
    questions, answers = list(prompts), [completion + (tokenizer.eos_token or "") for completion in completions]
    if form == "chat":
        before, between, after = chat_turns(tokenizer)
        questions = [before + prompt.strip() + between for prompt in prompts]
        answers = [completion.strip() + after for completion in completions]
        for row, answer in enumerate(answers):
            if not _SID.match(answer):
                # Words may form one token with the space before them, a SID never does.
                questions[row] = questions[row].rstrip(" ")
                answers[row] = between[len(between.rstrip(" ")) :] + answer
    texts = [question + answer for question, answer in zip(questions, answers, strict=True)]
    pairs = []
    for prompt_ids, ids in zip(
        _token_ids(questions, tokenizer, form, first_vector),
        _token_ids(texts, tokenizer, form, first_vector),
        strict=True,
    ):
        if ids[: len(prompt_ids)] != prompt_ids:
            _raise_inseparable(prompt_ids, tokenizer)
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
    """Raise if the tokenizer gives prompts for the next item other tokens in evaluation than in training.

    The tokens of a prompt must be the first tokens of the prompt with its answer, and the tokens of the answer must be
    those of the item. In plain text they must also be the first tokens of the prompt for one item more (dense
    sequences).

    Args:
        vocabulary (`SidVocabulary`): bound to `tokenizer`.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        form (`str`, defaults to `"plain"`): format of the prompts.
        titles (`Sequence[str]`, *optional*): `[items]`, see `next_item_prompt`.
        first_vector (`int`, *optional*): see `encode_prompt`.

    Raises:
        ValueError: the tokens differ.
    """
    vectors, item = first_vector is not None, len(vocabulary.semantic_ids) - 1
    sid = vocabulary.token_ids([item])[0].tolist()[int(vocabulary.markers) :]
    completion = vocabulary.text([item])[0].removeprefix(vocabulary.begin)
    for history in ([], [0]):
        prompt, longer = (
            next_item_prompt(items, vocabulary, tokenizer, vectors=vectors, titles=titles)
            for items in (history, [*history, item])
        )
        prompt_ids = encode_prompt(prompt, tokenizer, None, form=form, first_vector=first_vector)
        ((trained, answer),) = encode_pairs([prompt], [completion], tokenizer, form=form, first_vector=first_vector)
        dense = encode_prompt(longer, tokenizer, None, form=form, first_vector=first_vector)
        levels = vocabulary.semantic_ids.levels
        is_prefix = form == "chat" or dense[: len(prompt_ids) + levels] == prompt_ids + sid[:levels]
        if prompt_ids != trained or answer[: len(sid)] != sid or not is_prefix:
            raise ValueError(
                f"the training example {tokenizer.decode(trained + answer)[-60:]!r} does not begin with the tokens of "
                f"the prompt {tokenizer.decode(prompt_ids)[-40:]!r}: the model would be evaluated on other tokens "
                "than it was trained on; use the tokenizer of another base model"
            )


def _token_ids(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: Form, first_vector: int | None
) -> list[list[int]]:
    """Return the token ids of each text, with special tokens unless a chat template has written them already."""
    special = form == "plain"
    if not any(VECTOR in text for text in texts):
        return cast(list[list[int]], tokenizer(list(texts), add_special_tokens=special)["input_ids"])
    return [_token_ids_with_vectors(text, tokenizer, special, first_vector) for text in texts]


def _token_ids_with_vectors(
    text: str, tokenizer: PreTrainedTokenizerBase, special: bool, first_vector: int | None
) -> list[int]:
    head, *parts = _PLACEHOLDER.split(text)  # the head, then item and text in turn
    without_item = text.count(VECTOR) - len(parts) // 2
    if without_item or (parts and first_vector is None):
        raise ValueError(
            f"got a prompt with {text.count(VECTOR)} placeholders of collaborative vectors, {without_item} of them "
            f"without an item, and first_vector={first_vector}: they would be encoded as text; pass first_vector of "
            "the LlaraConfig"
        )
    ids: list[int] = tokenizer(head, add_special_tokens=special)["input_ids"]
    if parts:
        text_ids = tokenizer(parts[1::2], add_special_tokens=False)["input_ids"]
        for item, following_ids in zip(parts[::2], text_ids, strict=True):
            ids += [cast(int, first_vector) + int(item), *following_ids]
    return ids


def _raise_inseparable(prompt_ids: list[int], tokenizer: PreTrainedTokenizerBase) -> None:
    appended = tokenizer("a")["input_ids"][-1]
    if appended == prompt_ids[-1] and appended in tokenizer.all_special_ids:
        raise ValueError(
            f"the tokenizer appends {tokenizer.decode([appended])!r} to every text, so a prompt would end before its "
            "answer: remove the token from its post-processor (add_eos_token=False) and save the tokenizer again"
        )
    raise ValueError(
        f"the prompt {tokenizer.decode(prompt_ids)[-40:]!r} ends inside a token of its completion: end the prompt "
        "with a space, or start the completion with one; in a chat, use form='plain'"
    )
