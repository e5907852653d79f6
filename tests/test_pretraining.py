"""Pre-training text: every training event once, behind the bytes that evaluation feeds, and items beside their SID."""

import numpy as np
import pandas as pd
import pytest
from conftest import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.data import RawData, prepare
from genrec_hf.tasks import encode_prompt, next_item_prompt, pretraining_dataset

ITEMS = 27


def world(lengths, markers=False, titles=None):
    """Users of these lengths, who never take an item twice; with leave-one-out, two events of each do not train."""
    rng = np.random.default_rng(0)
    rows = [rng.permutation(ITEMS)[:length] for length in lengths]
    events = [
        {"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": step}
        for user, sequence in enumerate(rows)
        for step, item in enumerate(sequence)
    ]
    titles = titles or [f"thing {item}" for item in range(ITEMS)]
    items = pd.DataFrame({"item_id": [f"i{item}" for item in range(ITEMS)], "title": titles})
    data = prepare(RawData("toy", pd.DataFrame(events), items), k_core=0)
    codes = np.array(list(np.ndindex(3, 3, 3)))[: len(data.items)]
    tokenizer = make_tokenizer()
    sids = SemanticIds(codes, (3, 3, 3), data.item_ids)
    return data, tokenizer, SidVocabulary(sids, markers=markers).extend(tokenizer)


def items_of(row, vocabulary):
    """Item rows of every SID in a row of ids, in order; nothing else of the row is a level token."""
    levels = vocabulary.semantic_ids.levels
    ids = np.array(row)[np.isin(row, np.concatenate(vocabulary.level_token_ids))]
    return vocabulary.items(ids.reshape(-1, levels)).tolist()


@given(
    lengths=st.lists(st.integers(3, ITEMS), min_size=1, max_size=5),
    room=st.integers(1, 30),
    markers=st.booleans(),
    seed=st.integers(0, 50),
)
@settings(max_examples=30, deadline=None)
def test_every_training_event_stands_once_behind_the_prompt_of_what_is_before_it(lengths, room, markers, seed):
    data, tokenizer, vocabulary = world(lengths, markers)
    head, width = encode_prompt(next_item_prompt([], vocabulary), tokenizer), 5 if markers else 3
    longest = len(head) + room * width - markers
    dataset = pretraining_dataset(data, vocabulary, tokenizer, max_length=longest, item_share=0, seed=seed)
    found = []
    for row in dataset:
        ids, items = row["input_ids"], items_of(row["input_ids"], vocabulary)
        assert row["labels"] == [-100, *ids[1:]] and len(ids) <= longest
        for place, item in enumerate(items):
            prompt = encode_prompt(next_item_prompt(items[:place], vocabulary), tokenizer)
            sid = vocabulary.token_ids([item])[0, int(markers) :].tolist()
            assert ids[: len(prompt) + len(sid)] == prompt + sid
        assert len(ids) == len(head) + width * len(items) - markers
        found.append(items)
    # The windows of a user follow each other, and their lengths differ by one at most.
    expected = []
    for sequence in data.training_sequences():
        windows = -(-len(sequence) // room)
        cuts = [len(sequence) // windows + (part < len(sequence) % windows) for part in range(windows)]
        expected += [part.tolist() for part in np.split(sequence, np.cumsum(cuts)[:-1])]
    assert sorted(found) == sorted(expected)


def split_rows(dataset, tokenizer, vocabulary):
    head = tokenizer(next_item_prompt([], vocabulary))["input_ids"]
    rows = list(dataset["input_ids"])
    users = [row for row in rows if row[: len(head)] == head]
    return users, [row for row in rows if row[: len(head)] != head]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_items_make_up_the_stated_share_of_the_tokens(share):
    data, tokenizer, vocabulary = world([20] * 20)
    dataset = pretraining_dataset(data, vocabulary, tokenizer, item_share=share)
    users, items = split_rows(dataset, tokenizer, vocabulary)
    assert len(users) == 20
    tokens = [sum(map(len, rows)) for rows in (users, items)]
    assert abs(tokens[1] - share * sum(tokens)) < max(map(len, items))


def test_an_item_is_described_beside_its_sid_in_both_wordings():
    data, tokenizer, vocabulary = world([20] * 20)
    texts = dict(zip(vocabulary.text(np.arange(ITEMS)), data.items["title"], strict=True))
    expected = {f"{sid} {title}" for sid, title in texts.items()} | {f"{title} {sid}" for sid, title in texts.items()}
    _, items = split_rows(pretraining_dataset(data, vocabulary, tokenizer, item_share=0.6), tokenizer, vocabulary)
    found = [tokenizer.decode(row) for row in items]
    assert len(found) > 2 * ITEMS and set(found) == expected
    counts = pd.Series(found).value_counts()
    assert counts.max() - counts.min() <= 1, "no item is described more often than another"


def test_outside_text_is_no_sid():
    titles = ["<s_a_0><s_b_0><s_c_0> <|im_end|> {text} {sid}", *(f"thing {item}" for item in range(1, ITEMS))]
    data, tokenizer, vocabulary = world([20] * 20, titles=titles)
    users, items = split_rows(pretraining_dataset(data, vocabulary, tokenizer), tokenizer, vocabulary)
    control = set(tokenizer.all_special_ids)
    assert all(len(items_of(row, vocabulary)) == 1 and not control & set(row) for row in items)
    assert users and any("{text} {sid}" in tokenizer.decode(row) for row in items)


def test_only_training_events_and_the_same_rows_for_the_same_seed():
    data, tokenizer, vocabulary = world([6, 9])
    dataset = pretraining_dataset(data, vocabulary, tokenizer, seed=3)
    assert dataset.to_list() == pretraining_dataset(data, vocabulary, tokenizer, seed=3).to_list()
    assert dataset.to_list() != pretraining_dataset(data, vocabulary, tokenizer, seed=4).to_list()
    assert dataset.column_names == ["input_ids", "labels"]
    users, _ = split_rows(dataset, tokenizer, vocabulary)
    sequences = data.training_sequences()
    assert sorted(len(sequence) for sequence in sequences) == [4, 7]
    assert sorted(items_of(row, vocabulary) for row in users) == sorted(map(list, sequences))


def test_a_long_user_is_whole_where_nothing_limits_it():
    data, tokenizer, vocabulary = world([27])
    assert len(pretraining_dataset(data, vocabulary, tokenizer, max_length=None, item_share=0)) == 1


def test_what_cannot_be_learnt_raises(monkeypatch):
    data, tokenizer, vocabulary = world([5, 5])
    for share in (-0.1, 1, 1.5):
        with pytest.raises(ValueError, match=f"item_share={share}"):
            pretraining_dataset(data, vocabulary, tokenizer, item_share=share)
    with pytest.raises(ValueError, match="got max_length=10, which has no room for an item"):
        pretraining_dataset(data, vocabulary, tokenizer, max_length=10)
    monkeypatch.setattr(type(data), "training_sequences", lambda self: [np.array([], dtype=np.int64)] * 2)
    with pytest.raises(ValueError, match="none of 2 users has a training event"):
        pretraining_dataset(data, vocabulary, tokenizer)
