"""Next-item examples: every event after a user's first is a target, behind the very tokens that evaluation feeds."""

import numpy as np
import pandas as pd
import pytest
from conftest import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.data import InteractionData
from genrec_hf.tasks import (
    EventLimits,
    Instruction,
    Instructions,
    Mixture,
    dense_dataset,
    encode_prompt,
    make_sources,
    next_item_prompt,
    next_item_prompts,
)
from genrec_hf.tasks.instructions import PHRASES

CODES = np.array(list(np.ndindex(4, 4, 4)))[::-1]
SIDS = SemanticIds(CODES, (4, 4, 4), [f"i{item}" for item in range(len(CODES))])


def world(markers):
    tokenizer = make_tokenizer()
    return tokenizer, SidVocabulary(SIDS, markers=markers).extend(tokenizer)


WORLDS = {markers: world(markers) for markers in (False, True)}


def one_target(sequences, vocabulary, tokenizer, max_history=40):
    """The rows of the task `next_item`, every event one of training."""
    rows = [
        (f"u{u}", f"i{item}", step, "train") for u, items in enumerate(sequences) for step, item in enumerate(items)
    ]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "split"])
    data = InteractionData(events, pd.DataFrame({"item_id": SIDS.item_ids}), {})
    limits = EventLimits(max_history=max_history)
    return Mixture(["next_item"], make_sources(data, vocabulary, tokenizer, limits=limits))


def targets_of(row, vocabulary):
    """`(tokens before, item)` of every SID of a dense row that bears loss, read from the labels alone."""
    ids, labels, levels = row["input_ids"], row["labels"], vocabulary.semantic_ids.levels
    assert len(ids) == len(labels) and all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    level_0 = set(vocabulary.level_token_ids[0].tolist())
    starts = [place for place, label in enumerate(labels) if label in level_0]
    bearing = [place for place, label in enumerate(labels) if label != -100]
    assert bearing == [start + level for start in starts for level in range(levels)]
    items = vocabulary.items(np.array([ids[start : start + levels] for start in starts]))
    return [(ids[:start], int(item)) for start, item in zip(starts, items, strict=True)]


@given(
    lengths=st.lists(st.integers(0, 13), min_size=1, max_size=4).filter(lambda lengths: max(lengths) > 1),
    max_history=st.integers(1, 6),
    passes=st.integers(1, 3),
    seed=st.integers(0, 50),
    markers=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_dense_targets_stand_behind_the_prompt_of_what_is_before_them(lengths, max_history, passes, seed, markers):
    tokenizer, vocabulary = WORLDS[markers]
    rng = np.random.default_rng(seed)
    # Items of different users differ, so that a target tells its place.
    pool = np.split(rng.permutation(len(CODES))[: sum(lengths)], np.cumsum(lengths)[:-1])
    place = {int(item): (user, step) for user, sequence in enumerate(pool) for step, item in enumerate(sequence)}
    seen = []
    for row in dense_dataset(pool, vocabulary, tokenizer, max_history=max_history, passes=passes, seed=seed):
        found = targets_of(row, vocabulary)
        user, first = place[found[0][1]]
        assert len(found) <= max_history
        for number, (before, item) in enumerate(found):
            history = pool[user][first - 1 : first + number]
            assert before == encode_prompt(next_item_prompt(history, vocabulary), tokenizer)
            assert item == pool[user][first + number]
            seen.append((user, first + number))
    assert sorted(seen) == sorted([(user, step) for user, n in enumerate(lengths) for step in range(1, n)] * passes)


COLOURS = ["red", "green", "blue", "grey"]
INSTRUCTIONS = Instructions([[COLOURS[codes[0]]] for codes in CODES], np.arange(len(CODES))[::-1])
SAID = {
    phrase.format(argument=colour): Instruction(kind, colour if "{" in phrase else "", "")
    for kind, phrases in PHRASES.items()
    for phrase in phrases
    for colour in COLOURS
}


@pytest.mark.parametrize("markers", [False, True])
def test_dense_rows_with_an_instruction_train_what_satisfies_it_after_the_prompt_of_evaluation(markers):
    tokenizer, vocabulary = WORLDS[markers]
    rng, kinds = np.random.default_rng(0), set()
    pool = [rng.permutation(len(CODES))[:length] for length in (2, 9, 30, 64)]
    rows = dense_dataset(pool, vocabulary, tokenizer, max_history=8, passes=6, seed=1, instructions=INSTRUCTIONS)
    for row in rows:
        words = tokenizer.decode(row["input_ids"]).split("The user says: ")[1].split("\n")[0]
        instruction, width = SAID[words], SIDS.levels + 2 * markers
        head = len(encode_prompt(next_item_prompt([], vocabulary, tokenizer, instruction=words), tokenizer)) - markers
        window = vocabulary.items(np.array(row["input_ids"][head:]).reshape(-1, width)[:, markers:][:, : SIDS.levels])
        satisfying = [
            place
            for place in range(1, len(window))
            if INSTRUCTIONS.satisfied(instruction, window[:place])[window[place]]
        ]
        found = targets_of(row, vocabulary)
        assert [item for _, item in found] == window[satisfying].tolist() != []
        for (before, _), place in zip(found, satisfying, strict=True):
            assert before == encode_prompt(
                next_item_prompt(window[:place], vocabulary, tokenizer, instruction=words), tokenizer
            )
        kinds.add(instruction.kind)
    assert kinds == set(PHRASES)


def test_passes_cut_at_other_places_and_short_sequences_stay_whole():
    tokenizer, vocabulary = WORLDS[False]
    sequence = np.arange(20)
    cuts = {
        tuple(
            sorted(
                len(row["input_ids"])
                for row in dense_dataset([sequence], vocabulary, tokenizer, max_history=6, seed=seed)
            )
        )
        for seed in range(8)
    }
    assert len(cuts) > 1
    head = len(encode_prompt(next_item_prompt([], vocabulary), tokenizer))
    for length in (2, 6, 7):
        (row,) = dense_dataset([np.arange(length)], vocabulary, tokenizer, max_history=6)
        assert len(row["input_ids"]) == head + 3 * length
    whole = dense_dataset([sequence], vocabulary, tokenizer, max_history=6, passes=2, seed=3)
    assert (
        whole.to_list() == dense_dataset([sequence], vocabulary, tokenizer, max_history=6, passes=2, seed=3).to_list()
    )
    assert whole.column_names == ["input_ids", "labels"]


@pytest.mark.parametrize("markers", [False, True])
def test_one_target_rows_hold_the_most_recent_items_whole(markers):
    tokenizer, vocabulary = WORLDS[markers]
    sequences = [np.array([1, 2, 3, 4, 5]), np.array([6]), np.array([], dtype=np.int64), np.array([7, 8])]
    expected = {
        (next_item_prompt(history, vocabulary), target)
        for history, target in [([1], 2), ([1, 2], 3), ([2, 3], 4), ([3, 4], 5), ([7], 8)]
    }
    rows = one_target(sequences, vocabulary, tokenizer, max_history=2)
    assert {(row["prompt"], row["target"]) for row in rows} == expected and len(rows) == 5
    for row in rows:
        # Together they are the prompt's text with one more SID, and tokenise as the two apart.
        whole = vocabulary.text([row["target"]])[0]
        assert row["prompt"] + row["completion"] == row["prompt"].removesuffix(vocabulary.begin) + whole
        ids = [tokenizer(text)["input_ids"] for text in (row["prompt"], row["completion"])]
        assert tokenizer(row["prompt"] + row["completion"])["input_ids"] == ids[0] + ids[1]


def test_dense_and_one_target_rows_have_the_same_targets_behind_the_same_tokens():
    tokenizer, vocabulary = WORLDS[True]
    sequences = [np.array([1, 2, 3, 4, 5]), np.array([7, 8])]
    dense = [pair for row in dense_dataset(sequences, vocabulary, tokenizer) for pair in targets_of(row, vocabulary)]
    single = [
        (tokenizer(row["prompt"])["input_ids"], row["target"]) for row in one_target(sequences, vocabulary, tokenizer)
    ]
    assert sorted(dense) == sorted(single)


def test_nothing_to_learn_raises():
    tokenizer, vocabulary = WORLDS[False]
    for sequences in ([], [np.array([3]), np.array([], dtype=np.int64)]):
        with pytest.raises(ValueError, match="holds two items"):
            dense_dataset(sequences, vocabulary, tokenizer)
    with pytest.raises(ValueError, match="no example is left of next_item"):
        one_target([np.array([3])], vocabulary, tokenizer)
    with pytest.raises(ValueError, match="max_history=0"):
        dense_dataset([np.array([1, 2])], vocabulary, tokenizer, max_history=0)
    with pytest.raises(ValueError, match="max_history=0"):
        one_target([np.array([1, 2])], vocabulary, tokenizer, max_history=0)


@given(st.lists(st.lists(st.integers(0, 63), min_size=0, max_size=9), min_size=1, max_size=4), st.integers(1, 5))
def test_prompts_for_a_models_own_answers_are_those_of_every_event(sequences, max_history):
    sequences = [np.array(items, dtype=np.int64) for items in sequences]
    vocabulary = WORLDS[False][1]
    events = [(items[:at].tolist(), int(items[at])) for items in sequences for at in range(1, len(items))]
    if not events:
        with pytest.raises(ValueError, match="holds two items"):
            next_item_prompts(sequences, vocabulary, max_history)
        return
    rows = list(next_item_prompts(sequences, vocabulary, max_history, seed=3))
    assert sorted((row["history"], row["target"]) for row in rows) == sorted(events)
    for row in rows:
        assert row["prompt"] == next_item_prompt(row["history"][-max_history:], vocabulary)
    assert list(next_item_prompts(sequences, vocabulary, max_history, examples=1, seed=3)) == rows[:1]
    several = {row["target"]: row["following"] for row in next_item_prompts([np.arange(5)], vocabulary, following=3)}
    assert several == {1: [1, 2, 3], 2: [2, 3, 4], 3: [3, 4], 4: [4]}


def test_no_prompts_are_refused():
    for wrong in (-1, 64):
        with pytest.raises(ValueError, match="and a catalogue of 64 items: the SIDs are of other items"):
            next_item_prompts([np.array([3, wrong])], WORLDS[False][1])
    for how, message in (({"max_history": 0}, "max_history=0"), ({"examples": 0}, "got examples=0")):
        with pytest.raises(ValueError, match=message):
            next_item_prompts([np.arange(3)], WORLDS[False][1], **how)
