"""Dense sequences: a whole history with every next item in it as a target, or every one that fulfils an instruction."""

from collections.abc import Iterator, Sequence

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from genrec_hf.checks import check_least
from genrec_hf.tasks.instructions import Instructions
from genrec_hf.tasks.prompts import encode_prompt, next_item_prompt, refuse_other_prompts, title_text
from genrec_hf.vocabulary import SidVocabulary

IGNORED = -100


def dense_dataset(
    sequences: Sequence[np.ndarray],
    vocabulary: SidVocabulary,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_history: int = 40,
    passes: int = 1,
    seed: int = 0,
    instructions: Instructions | None = None,
    first_vector: int | None = None,
    titles: Sequence[str] | None = None,
) -> Dataset:
    """Whole stretches of a user's sequence, with the loss on every item's SID after the first.

    One forward pass teaches as many next items as the stretch holds. Against one-target prompts: early items of a
    stretch are predicted from a short history, all of a stretch's targets share one gradient step, and no
    end-of-sequence token is trained (decoding stops by depth). The prompt of each target is the one that
    `next_item_prompt` gives for the items before it in the stretch, token for token.

    With `instructions` every stretch stands behind one instruction, which an item of it drawn at random fulfils, and the loss is on
    the items that fulfil it: what comes next, given that it is what the user asked for.

    Args:
        sequences (`Sequence[np.ndarray]`): training sequences, item rows, oldest first.
        vocabulary (`SidVocabulary`): bound to `tokenizer`.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        max_history (`int`, defaults to 40): a stretch holds up to one item more.
        passes (`int`, defaults to 1): times that each sequence is cut, each time at other places.
        seed (`int`, defaults to 0): of the cuts, the instructions and the shuffle.
        instructions (`Instructions`, *optional*): of the catalogue; the instruction of each row is one of theirs.
        first_vector (`int`, *optional*): `LlaraConfig.first_vector`; the place of its vector stands behind every SID.
        titles (`Sequence[str]`, *optional*): `[items]`, outside text between a SID and what follows it, not learnt.

    Returns:
        `Dataset`: columns `input_ids` and `labels` (`-100` on the prompt, the first item, items that do not fulfil the
        instruction, markers and vectors).

    Raises:
        ValueError: when no sequence holds two items, `max_history` leaves no room for one, or the tokenizer reads a
            prompt otherwise when more follows it.
    """
    _refuse_no_history(max_history)
    refuse_other_prompts(vocabulary, tokenizer, "plain", titles=titles, first_vector=first_vector)
    head = encode_prompt(next_item_prompt([], vocabulary), tokenizer)
    rng = np.random.default_rng(seed)
    told = None
    if titles is not None:
        told = tokenizer([title_text(title, tokenizer) for title in titles], add_special_tokens=False)["input_ids"]
    rows = []
    for _ in range(passes):
        for sequence in sequences:
            for start, stop in _stretches(len(sequence), max_history + 1, rng):
                stretch = sequence[start:stop]
                learnt = np.arange(len(stretch)) > 0
                if instructions is not None:
                    words, learnt = _dense_instruction(instructions, stretch, rng)
                    head = encode_prompt(next_item_prompt([], vocabulary, tokenizer, instruction=words), tokenizer)
                behind = [list(told[item]) if told else [] for item in stretch]
                if first_vector is not None:
                    behind = [[*ids, first_vector + int(item)] for ids, item in zip(behind, stretch, strict=True)]
                rows.append(_dense_row(head, vocabulary.token_ids(stretch), learnt, vocabulary.markers, behind))
    dataset = Dataset.from_list(rows)
    _refuse_empty(dataset, sequences)
    return dataset.shuffle(seed=seed)


def next_item_prompts(
    sequences: Sequence[np.ndarray],
    vocabulary: SidVocabulary,
    max_history: int = 40,
    *,
    examples: int | None = None,
    seed: int = 0,
    following: int = 1,
    tokenizer: PreTrainedTokenizerBase | None = None,
    vectors: bool = False,
    titles: Sequence[str] | None = None,
) -> Dataset:
    """Prompts for the next item with the item that came, for training on a model's own answers.

    Args:
        sequences (`Sequence[np.ndarray]`): training sequences, item rows, oldest first.
        vocabulary (`SidVocabulary`): turns items into SID text.
        max_history (`int`, defaults to 40): most recent items in a prompt.
        examples (`int`, *optional*): events that are drawn, all alike; every one that has a history when not given.
        seed (`int`, defaults to 0): of the draw.
        following (`int`, defaults to 1): most items that came next, fewer where a sequence ends.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): of `next_item_prompt`, as the next two are.
        vectors (`bool`, defaults to `False`): put the place of its collaborative vector behind every SID.
        titles (`Sequence[str]`, *optional*): `[items]`, outside text behind every SID.

    Returns:
        `Dataset`: `prompt` (`next_item_prompt`, byte for byte), `target` (item row), `following` (item rows, the
        target first), `history` (item rows, oldest first, all of them and not only those of the prompt); in drawn
        order.

    Raises:
        ValueError: as `dense_dataset`, on `examples` or `following` below 1, or on rows that are no items.
    """
    _refuse_no_history(max_history)
    check_least(1, examples=examples, following=following)
    chosen, catalogue = np.concatenate([np.empty(0, dtype=np.int64), *sequences]), len(vocabulary.semantic_ids)
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < catalogue:
        raise ValueError(
            f"got item rows from {chosen.min()} to {chosen.max()} and a catalogue of {catalogue}: sequences and SIDs "
            "are of other items"
        )
    events = [(user, place) for user, items in enumerate(sequences) for place in range(1, len(items))]
    drawn = np.random.default_rng(seed).permutation(len(events))[:examples]
    rows = []
    for user, place in (events[event] for event in drawn):
        past, coming = sequences[user][:place].tolist(), sequences[user][place : place + following].tolist()
        prompt = next_item_prompt(past[-max_history:], vocabulary, tokenizer, vectors=vectors, titles=titles)
        rows.append({"prompt": prompt, "target": coming[0], "following": coming, "history": past})
    dataset = Dataset.from_list(rows)
    _refuse_empty(dataset, sequences)
    return dataset


def _stretches(length: int, size: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Cut `length` events into stretches of at most `size` sharing one event: all but the first are targets once."""
    step = size - 1
    start = -int(rng.integers(step)) if length > size else 0
    while start + 1 < length:
        if start + size > 1:
            yield max(start, 0), min(start + size, length)
        start += step


def _dense_instruction(
    instructions: Instructions, stretch: np.ndarray, rng: np.random.Generator
) -> tuple[str, np.ndarray]:
    """An instruction in words that an item after the first fulfils, and `[items]`, which ones do, each after those before."""
    place = int(rng.integers(1, len(stretch)))
    instruction = instructions.of_event(stretch[:place], int(stretch[place]), rng)
    does = [instructions.fulfilled(instruction, stretch[:each], stretch[[each]])[0] for each in range(1, len(stretch))]
    return instruction.words, np.array([False, *does])


def _dense_row(
    head: list[int], sids: np.ndarray, learnt: np.ndarray, markers: bool, behind: Sequence[list[int]]
) -> dict[str, list[int]]:
    """Head, then SID after SID, each with what stands `behind` it; the loss on the codes of `learnt` items."""
    labels = sids.copy()
    labels[~learnt] = IGNORED
    if markers:
        labels[:, [0, -1]] = IGNORED
    input_ids, wanted = list(head), [IGNORED] * len(head)
    for sid, label, ids in zip(sids.tolist(), labels.tolist(), behind, strict=True):
        input_ids += [*sid, *ids]
        wanted += [*label, *[IGNORED] * len(ids)]
    if markers:  # the head ends with the first begin marker
        del input_ids[len(head)], wanted[len(head)]
    return {"input_ids": input_ids, "labels": wanted}


def _refuse_no_history(max_history: int) -> None:
    if max_history < 1:
        raise ValueError(f"max_history={max_history}: a prompt needs room for at least one item")


def _refuse_empty(dataset: Dataset, sequences: Sequence[np.ndarray]) -> None:
    if len(dataset) == 0:
        raise ValueError(
            f"none of {len(sequences)} training sequences holds two items: there is no next item to learn; check the "
            "split and min_user_events"
        )
