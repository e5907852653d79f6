"""Dense training sequences, where every next item of a window is a target, and prompts of single next items."""

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
    """Return windows of users' sequences, with the loss on the SID of every item after the first.

    One forward pass trains every next item of a window. What differs from prompts with one target: early items of a
    window are predicted from a short history, all targets of a window share one gradient step, and no
    end-of-sequence token is trained (decoding stops after the last level). The tokens before each target are those of
    `next_item_prompt` for the items before it in the window.

    With `instructions`, every window follows one instruction, which a randomly sampled item of it satisfies, and the
    loss is on the items that satisfy it: the next item, given that it satisfies the instruction.

    Args:
        sequences (`Sequence[np.ndarray]`): training sequences, item rows, oldest first.
        vocabulary (`SidVocabulary`): bound to `tokenizer`.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        max_history (`int`, defaults to 40): maximum number of items before a target; a window holds one item more.
        passes (`int`, defaults to 1): number of times that each sequence is split into windows, each time at other
            positions.
        seed (`int`, defaults to 0): seed of the windows, the instructions and the shuffle.
        instructions (`Instructions`, *optional*): generator of the instructions of this catalogue.
        first_vector (`int`, *optional*): `LlaraConfig.first_vector`; the id of its vector follows every SID.
        titles (`Sequence[str]`, *optional*): `[items]`, text from outside, put after a SID and before its vector,
            without a loss.

    Returns:
        `Dataset`: columns `input_ids` and `labels` (`-100` on the prompt, the first item, items that do not satisfy
        the instruction, titles, markers and vectors).

    Raises:
        ValueError: no sequence holds two items, `max_history` is below 1, or the tokenizer encodes a prompt
            differently when more text follows it.
    """
    check_least(1, max_history=max_history)
    refuse_other_prompts(vocabulary, tokenizer, "plain", titles=titles, first_vector=first_vector)
    head = encode_prompt(next_item_prompt([], vocabulary), tokenizer)
    rng = np.random.default_rng(seed)
    title_ids = None
    if titles is not None:
        texts = [title_text(title, tokenizer) for title in titles]
        title_ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = []
    for _ in range(passes):
        for sequence in sequences:
            for start, stop in _windows(len(sequence), max_history + 1, rng):
                window = sequence[start:stop]
                is_target = np.arange(len(window)) > 0
                if instructions is not None:
                    text, is_target = _sample_instruction(instructions, window, rng)
                    head = encode_prompt(next_item_prompt([], vocabulary, tokenizer, instruction=text), tokenizer)
                suffixes = [list(title_ids[item]) if title_ids else [] for item in window]
                if first_vector is not None:
                    suffixes = [[*ids, first_vector + int(item)] for ids, item in zip(suffixes, window, strict=True)]
                rows.append(_dense_row(head, vocabulary.token_ids(window), is_target, vocabulary.markers, suffixes))
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
    """Return prompts for the next item with the item that came next, for training on a model's own samples.

    Args:
        sequences (`Sequence[np.ndarray]`): training sequences, item rows, oldest first.
        vocabulary (`SidVocabulary`): converts items to SID text.
        max_history (`int`, defaults to 40): maximum number of most recent items in a prompt.
        examples (`int`, *optional*): number of events to sample uniformly; every event that has a history when not
            given.
        seed (`int`, defaults to 0): seed of the sampling.
        following (`int`, defaults to 1): maximum number of next items, fewer where a sequence ends.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): see `next_item_prompt`, as for the next two.
        vectors (`bool`, defaults to `False`): append the placeholder of its collaborative vector to every SID.
        titles (`Sequence[str]`, *optional*): `[items]`, text from outside, put after every SID.

    Returns:
        `Dataset`: columns `prompt` (`next_item_prompt`, byte for byte), `target` (item row), `following` (item rows,
        the target first) and `history` (item rows, oldest first, also those that the prompt leaves out); in the order
        of sampling.

    Raises:
        ValueError: no sequence holds two items, `max_history`, `examples` or `following` is below 1, or a sequence
            holds a row that is not in the catalogue.
    """
    check_least(1, max_history=max_history, examples=examples, following=following)
    all_rows, catalogue = np.concatenate([np.empty(0, dtype=np.int64), *sequences]), len(vocabulary.semantic_ids)
    if all_rows.size and not 0 <= all_rows.min() <= all_rows.max() < catalogue:
        raise ValueError(
            f"got item rows from {all_rows.min()} to {all_rows.max()} and a catalogue of {catalogue} items: the SIDs "
            "are of other items; pass sequences and a vocabulary of one data set"
        )
    events = [(user, position) for user, items in enumerate(sequences) for position in range(1, len(items))]
    sampled = np.random.default_rng(seed).permutation(len(events))[:examples]
    rows = []
    for user, position in (events[event] for event in sampled):
        history = sequences[user][:position].tolist()
        next_items = sequences[user][position : position + following].tolist()
        prompt = next_item_prompt(history[-max_history:], vocabulary, tokenizer, vectors=vectors, titles=titles)
        rows.append({"prompt": prompt, "target": next_items[0], "following": next_items, "history": history})
    dataset = Dataset.from_list(rows)
    _refuse_empty(dataset, sequences)
    return dataset


def _windows(length: int, size: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Split `length` events into windows of at most `size` events, and yield the start and stop of each.

    Consecutive windows overlap in one event, so that every event but the first is a target in exactly one window.
    """
    step = size - 1
    start = -int(rng.integers(step)) if length > size else 0
    while start + 1 < length:
        if start + size > 1:
            yield max(start, 0), min(start + size, length)
        start += step


def _sample_instruction(
    instructions: Instructions, window: np.ndarray, rng: np.random.Generator
) -> tuple[str, np.ndarray]:
    """Sample an instruction that an item after the first satisfies.

    Returns:
        `tuple`: the text of the instruction, and `[items]`, bool: which items satisfy it given the items before them.
    """
    position = int(rng.integers(1, len(window)))
    instruction = instructions.for_event(window[:position], int(window[position]), rng)
    satisfied = [
        instructions.satisfied(instruction, window[:index], window[[index]])[0] for index in range(1, len(window))
    ]
    return instruction.text, np.array([False, *satisfied])


def _dense_row(
    head: list[int], sids: np.ndarray, is_target: np.ndarray, markers: bool, suffixes: Sequence[list[int]]
) -> dict[str, list[int]]:
    """Return the head and the SIDs, each followed by its suffix, with the loss on the codes of the targets."""
    sid_labels = sids.copy()
    sid_labels[~is_target] = IGNORED
    if markers:
        sid_labels[:, [0, -1]] = IGNORED
    input_ids, labels = list(head), [IGNORED] * len(head)
    for sid, sid_label, suffix in zip(sids.tolist(), sid_labels.tolist(), suffixes, strict=True):
        input_ids += [*sid, *suffix]
        labels += [*sid_label, *[IGNORED] * len(suffix)]
    if markers:  # the head ends with the first begin marker
        del input_ids[len(head)], labels[len(head)]
    return {"input_ids": input_ids, "labels": labels}


def _refuse_empty(dataset: Dataset, sequences: Sequence[np.ndarray]) -> None:
    if len(dataset) == 0:
        raise ValueError(
            f"none of {len(sequences)} training sequences holds two items: there is no next item to learn; check the "
            "split and min_user_events"
        )
