"""Dense sequences: a whole history with every next item in it as a target, some of them behind a wish."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from genrec_hf.tasks.prompts import encode_prompt, next_item_prompt
from genrec_hf.tasks.wishes import Wishes
from genrec_hf.vocabulary import SidVocabulary

IGNORED = -100
# Of the items that could have a wish before them, the share that has one.
WISHED = 0.25


def dense_dataset(
    sequences: Sequence[np.ndarray],
    vocabulary: SidVocabulary,
    tokenizer: PreTrainedTokenizerBase,
    max_history: int = 40,
    passes: int = 1,
    seed: int = 0,
    wishes: Wishes | None = None,
) -> Dataset:
    """Whole stretches of a user's sequence, with the loss on every item's SID after the first.

    One forward pass teaches as many next items as the stretch holds. Against one-target prompts: early items of a
    stretch are predicted from a short history, all of a stretch's targets share one gradient step, and no
    end-of-sequence token is trained (decoding stops by depth). The prompt of each target is the one that
    `next_item_prompt` gives for the items before it in the stretch, token for token.

    With `wishes` every fourth item, drawn at random, stands behind a wish that it fulfils. Its prompt is that of
    `next_item_prompt` with the wish as instruction, but for the wishes that stand further up, as in a conversation.

    Args:
        sequences (`Sequence[np.ndarray]`): training sequences, item rows, oldest first.
        vocabulary (`SidVocabulary`): bound to `tokenizer`.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        max_history (`int`, defaults to 40): a stretch holds up to one item more.
        passes (`int`, defaults to 1): times that each sequence is cut, each time at other places.
        seed (`int`, defaults to 0): of the cuts, the wishes and the shuffle.
        wishes (`Wishes`, *optional*): of the catalogue.

    Returns:
        `Dataset`: columns `input_ids` and `labels` (`-100` on the prompt, the first item, wishes and markers).

    Raises:
        ValueError: when no sequence holds two items, or `max_history` leaves no room for one.
    """
    _refuse_no_history(max_history)
    known = int(vocabulary.markers)  # a prompt ends with the begin marker of the SID to come
    head = encode_prompt(next_item_prompt([], vocabulary), tokenizer)
    head = head[: len(head) - known]
    wish_ids = partial(_wish_ids, vocabulary=vocabulary, tokenizer=tokenizer, known={})
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(passes):
        for sequence in sequences:
            for start, stop in _stretches(len(sequence), max_history + 1, rng):
                stretch = sequence[start:stop]
                said = {} if wishes is None else _wishes_along(wishes, stretch, rng)
                before = {place: wish_ids(words) for place, words in said.items()}
                rows.append(_dense_row(head, vocabulary.token_ids(stretch), before, vocabulary.markers))
    dataset = Dataset.from_list(rows)
    _refuse_empty(dataset, sequences)
    return dataset.shuffle(seed=seed)


def _stretches(length: int, size: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Cut `length` events into stretches of at most `size` sharing one event: all but the first are targets once."""
    step = size - 1
    start = -int(rng.integers(step)) if length > size else 0
    while start + 1 < length:
        if start + size > 1:
            yield max(start, 0), min(start + size, length)
        start += step


def _wishes_along(wishes: Wishes, stretch: np.ndarray, rng: np.random.Generator) -> dict[int, str]:
    """By place in the stretch, a wish in words that the item there fulfils."""
    places = 1 + np.flatnonzero(rng.random(len(stretch) - 1) < WISHED)
    return {place: wishes.of_event(stretch[:place], int(stretch[place]), rng).words for place in places.tolist()}


def _wish_ids(
    words: str, vocabulary: SidVocabulary, tokenizer: PreTrainedTokenizerBase, known: dict[str, list[int]]
) -> list[int]:
    """Token ids of a wish behind a SID, made once."""
    if words not in known:
        plain, asked = (
            encode_prompt(next_item_prompt([0], vocabulary, tokenizer, wish), tokenizer) for wish in (None, words)
        )
        marker = int(vocabulary.markers)
        known[words] = asked[len(plain) - marker : len(asked) - marker]
    return known[words]


def _dense_row(head: list[int], sids: np.ndarray, before: dict[int, list[int]], markers: bool) -> dict[str, list[int]]:
    """The head, and SIDs `[items, tokens]` one after another, each after what stands before it, if anything does."""
    targets = sids.copy()
    targets[0] = IGNORED
    if markers:
        targets[:, [0, -1]] = IGNORED
    ids, labels = list(head), [IGNORED] * len(head)
    for place, (sid, target) in enumerate(zip(sids.tolist(), targets.tolist(), strict=True)):
        said = before.get(place, [])
        ids += [*said, *sid]
        labels += [*([IGNORED] * len(said)), *target]
    return {"input_ids": ids, "labels": labels}


def _refuse_no_history(max_history: int) -> None:
    if max_history < 1:
        raise ValueError(f"max_history={max_history}: a prompt needs room for at least one item")


def _refuse_empty(dataset: Dataset, sequences: Sequence[np.ndarray]) -> None:
    if len(dataset) == 0:
        raise ValueError(
            f"none of {len(sequences)} training sequences holds two items: there is no next item to learn; check the "
            "split and min_user_events"
        )
