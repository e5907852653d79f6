"""Items, neighbours and prefixes: fields by hand, from training events alone, and none where the data has none."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sources import RNG, make, values

from genrec_hf.tasks.items import similar_items


def test_prefixes_share_what_more_than_half_of_their_items_have():
    sources, _ = make()
    prefixes = sources["prefixes"]
    assert dict(zip(values(prefixes, "prefix"), [*values(prefixes, "shared"), ""], strict=True)) == {
        "<s_a_0>": "tea, hot",
        "<s_a_1>": "",
    }
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
    sources, vocabulary = make()
    others = values(sources["neighbours"], "other")
    assert set(others) == set(vocabulary.text(range(4))), "items 4 and 5 are held out"


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
    found = similar_items([np.array(sequence, dtype=np.int64) for sequence in lists], 7, neighbours, window=window)
    assert [tuple(row)[:2] for row in found.itertuples(index=False)] == [row[:2] for row in expected]
    np.testing.assert_allclose(found["similarity"].to_numpy(dtype=float), [row[2] for row in expected])
