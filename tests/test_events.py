"""Events as a task source: every field counted by hand."""

import numpy as np
import pytest
from test_sources import make, values, world

from genrec_hf.tasks import EventLimits, make_sources


def test_fields_of_events_by_hand():
    sources, vocabulary = make("test", max_history=4, max_titles=2)
    events = sources["events"]
    sid = vocabulary.text(range(6))
    assert values(events, "history") == ["".join(sid[1:5])] and events.truncated == 1
    assert values(events, "history_titles") == ["- d\n- e"]
    assert values(events, "rated_history") == [f"{sid[1]} 4, {sid[2]} 3, {sid[3]} 2, {sid[4]} 1"]
    assert values(events, "timed_history") == [f"{sid[1]} 4 days, {sid[2]} 3 days, {sid[3]} 2 days, {sid[4]} 1 day"]
    assert values(events, "preference") == ["tea, hot, pot, of late iron"]
    assert (values(events, "stars"), values(events, "liked")) == (["5"], ["yes"])
    assert not events.has("next_sids").any() and not events.has("category").any() and not events.has("review").any()


def test_an_event_without_a_rating_is_told_without_one():
    data, vocabulary, tokenizer, limits = world()
    data.interactions.loc[1, "rating"] = np.nan
    events = make_sources(data, vocabulary, tokenizer, limits=limits)["events"]
    sid = vocabulary.text(range(4))
    assert events.has("stars").tolist() == events.has("rated_history").tolist() == [False, True, True]
    assert values(events, "rated_history") == [f"{sid[0]} 5, {sid[1]}", f"{sid[0]} 5, {sid[1]}, {sid[2]} 3"]


@pytest.mark.parametrize(
    ("unit", "expected"), [("seconds", [False] * 3), ("positions", [False] * 3), (None, [True] * 3)]
)
def test_times_that_are_no_dates_are_not_told_in_days(unit, expected):
    data, vocabulary, tokenizer, limits = world()
    data.info["times"] = {"unit": unit}
    data.interactions["timestamp"] = [0, *range(1_577_836_800, 1_577_836_799 + len(data.interactions))]
    events = make_sources(data, vocabulary, tokenizer, limits=limits)["events"]
    assert events.has("timed_history").tolist() == expected


def test_a_begin_marker_ends_the_prompt_and_leaves_the_answer():
    sources, vocabulary = make(markers=True)
    events = sources["events"]
    assert (
        values(events, "begin")[0] == "<|sid_begin|>"
        and vocabulary.text([1])[0] == "<|sid_begin|>" + values(events, "rest")[0]
    )


def test_a_catalogue_smaller_than_the_list_gives_fewer_candidates():
    events = make("test", candidates=20)[0]["events"]
    assert events.candidates(0).tolist() == [5], "all the others are in the history"
    for name, value in (("max_history", 0), ("candidates", 1), ("next_count", 1)):
        with pytest.raises(ValueError, match=f"got {name}={value}"):
            EventLimits(**{name: value})
