"""What examples are about: fields counted by hand, from training events alone, and none where the data has none."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from conftest import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.data import RawData, prepare
from genrec_hf.tasks import EventLimits, make_subjects
from genrec_hf.tasks.subjects import similar_items

DAY, RNG = 86_400, np.random.default_rng(0)
CODES = [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0]]


def world(categories=("tea, hot", "tea", "tea, hot", "pot", "iron", ""), titles="abcdef", markers=False, **limits):
    """One user who chose items 0, 1, 2, 3, 4, 5 in this order, a day apart; the last two are held out."""
    ids = [f"i{item}" for item in range(6)]
    events = pd.DataFrame(
        {"user_id": "u", "item_id": ids, "timestamp": DAY * np.arange(6), "rating": [5, 4, 3, 2, 1, 5]}
    )
    items = pd.DataFrame({"item_id": ids, "title": list(titles), "categories": list(categories)})
    data, tokenizer = prepare(RawData("odd", events, items)), make_tokenizer()
    vocabulary = SidVocabulary(SemanticIds(CODES, (3, 3), data.item_ids), markers=markers).extend(tokenizer)
    return data, vocabulary, tokenizer, EventLimits(**limits)


def make(split="train", **kwargs):
    data, vocabulary, tokenizer, limits = world(**kwargs)
    return make_subjects(data, vocabulary, tokenizer, split=split, limits=limits), vocabulary


def values(about, field):
    return [about.value(field, subject, RNG) for subject in range(len(about)) if about.has(field)[subject]]


def test_fields_of_events_by_hand():
    subjects, vocabulary = make("test", max_history=4, max_titles=2)
    events = subjects["events"]
    sid = vocabulary.text(range(6))
    assert values(events, "history") == ["".join(sid[1:5])] and events.cut == 1
    assert values(events, "history_titles") == ["- d\n- e"]
    assert values(events, "rated_history") == [f"{sid[1]} 4, {sid[2]} 3, {sid[3]} 2, {sid[4]} 1"]
    assert values(events, "timed_history") == [f"{sid[1]} 4 days, {sid[2]} 3 days, {sid[3]} 2 days, {sid[4]} 1 day"]
    assert values(events, "preference") == ["tea, hot, pot, of late iron"]
    assert (values(events, "stars"), values(events, "liked")) == (["5"], ["yes"])
    assert not events.has("next_sids").any() and not events.has("category").any() and not events.has("review").any()


def test_an_event_without_a_rating_is_told_without_one():
    data, vocabulary, tokenizer, limits = world()
    data.interactions.loc[1, "rating"] = np.nan
    events = make_subjects(data, vocabulary, tokenizer, limits=limits)["events"]
    sid = vocabulary.text(range(4))
    assert events.has("stars").tolist() == events.has("rated_history").tolist() == [False, True, True]
    assert values(events, "rated_history") == [f"{sid[0]} 5, {sid[1]}", f"{sid[0]} 5, {sid[1]}, {sid[2]} 3"]


def test_a_begin_marker_ends_the_prompt_and_leaves_the_answer():
    subjects, vocabulary = make(markers=True)
    events = subjects["events"]
    assert (
        values(events, "begin")[0] == "<|sid_begin|>"
        and vocabulary.text([1])[0] == "<|sid_begin|>" + values(events, "rest")[0]
    )


def test_prefixes_share_what_more_than_half_of_their_items_have():
    subjects, _ = make()
    prefixes = subjects["prefixes"]
    assert dict(zip(values(prefixes, "prefix"), [*values(prefixes, "shared"), ""], strict=True)) == {
        "<s_a_0>": "tea, hot", "<s_a_1>": "",
    }  # fmt: skip
    assert prefixes.has("shared").tolist() == [True, False]


def test_items_without_a_field_do_not_have_it():
    items = make(titles=["a", "", " ", "d", "e", ""])[0]["items"]
    assert items.has("title").tolist() == [True, False, False, True, True, False]
    assert items.has("category").tolist() == [True] * 5 + [False]
    assert items.has("text").tolist() == items.has("query").tolist() == [True] * 5 + [False], (
        "a made-up name is no text"
    )
    assert items.has("nonsense").tolist() == [False] * 6


def test_a_query_is_made_of_the_items_own_words():
    items = make(categories=["tea, hot"] * 6)[0]["items"]
    asked = {items.query(0, RNG) for _ in range(60)}
    assert {"tea, hot", "tea", "hot"} < asked and len(asked) > 3
    assert all(word.strip(".,:") in ("a", "Categories", "tea", "hot") for query in asked for word in query.split())


def test_neighbours_come_from_training_events_only():
    subjects, vocabulary = make()
    others = values(subjects["neighbours"], "other")
    assert set(others) == set(vocabulary.text(range(4))), "items 4 and 5 are held out"


def test_a_catalogue_smaller_than_the_list_gives_fewer_candidates():
    events = make("test", candidates=20)[0]["events"]
    assert events.candidates(0).tolist() == [5], "all the others are in the history"
    for name, value in (("max_history", 0), ("candidates", 1), ("next_count", 1)):
        with pytest.raises(ValueError, match=f"got {name}={value}"):
            EventLimits(**{name: value})


def test_fingerprints_follow_what_is_said():
    def prints(**kwargs):
        return {name: about.fingerprint for name, about in make(**kwargs)[0].items()}

    one = prints()
    assert one == prints()
    assert all(prints(titles="abcdeX")[name] != one[name] for name in ("items", "neighbours", "events"))
    assert prints(categories=["tea"] * 6)["prefixes"] != one["prefixes"]
    assert prints(max_history=2)["events"] != one["events"] and prints(split="test")["events"] != one["events"]


def test_semantic_ids_whose_rows_are_not_the_data_sets_are_refused(toy_data, toy_sids, tokenizer):
    smaller = SidVocabulary(toy_sids.remove(["i3"])).extend(tokenizer)
    with pytest.raises(ValueError, match="the 24 items of the data set are not, row by row, the 23"):
        make_subjects(toy_data, smaller, tokenizer)


@given(st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=5), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_similar_items_equal_counting_by_hand(lists, neighbours, window):
    together, events = Counter(), Counter(item for sequence in lists for item in sequence)
    for sequence in lists:
        for i, left in enumerate(sequence):
            for right in sequence[i + 1 : i + 1 + window]:
                together[left, right] += 1
                together[right, left] += 1
    expected = []
    for item in range(7):
        scored = {o: n / np.sqrt(events[i] * events[o]) for (i, o), n in together.items() if i == item != o}
        expected += [
            (item, other, scored[other]) for other in sorted(scored, key=lambda o: (-scored[o], o))[:neighbours]
        ]
    found = similar_items([np.array(sequence, dtype=np.int64) for sequence in lists], 7, neighbours, window)
    assert [tuple(row)[:2] for row in found.itertuples(index=False)] == [row[:2] for row in expected]
    np.testing.assert_allclose(found["similarity"].to_numpy(dtype=float), [row[2] for row in expected])
