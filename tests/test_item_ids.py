"""Ids are text, one an item: what only looks like a list of them never becomes other ids."""

import re

import numpy as np
import pandas as pd
import pytest

from genrec_hf import SemanticIds
from genrec_hf.semantic_ids import RqKmeans
from genrec_hf.semantic_ids.item_ids import read_ids

POINTS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
QUANTIZER = RqKmeans((3, 3)).fit(POINTS, progress=False)
SIDS = SemanticIds(
    np.column_stack([QUANTIZER.encode(POINTS), np.arange(6)]), (3, 3, 8), [*"123456"], quantizer=QUANTIZER
)
NO_LIST = {
    "text": ("12", "item_ids='12' would be read letter by letter"),
    "bytes": (b"12", "item_ids=b'12' would be read letter by letter"),
    "mapping": ({"1": 5, "2": 6}, "item_ids is a dict, whose values would be ignored"),
    "set": ({"1", "2"}, "item_ids is a set, which has no order"),
    "nothing": (None, "item_ids is None (NoneType): pass a list of item ids"),
    "number": (50, "item_ids is 50 (int): pass a list of item ids"),
}
NO_IDS = {
    "int": (50, "holds 50 (int): item ids are text, pass '50'"),
    "numpy int": (np.int64(50), "holds np.int64(50) (int64): item ids are text, pass '50'"),
    "float": (50.0, "holds 50.0 (float): item ids are text, pass each id as a string"),
    "missing": (float("nan"), "holds nan (float): item ids are text"),
    "none": (None, "holds None (NoneType): item ids are text"),
    "bool": (True, "holds True (bool): item ids are text, pass each id as a string"),
    "bytes": (b"a", "holds b'a' (bytes): item ids are text, decode it first"),
    "list": (["a"], "holds ['a'] (list): item ids are text"),
    "empty": ("", "holds the blank id '', which identifies no item"),
    "blank": (" \t", "holds the blank id"),
}


def ways(ids):
    """Everything that takes ids, with `ids` and as many codes or embeddings."""
    count = len(ids) if hasattr(ids, "__len__") else 1
    yield lambda: SemanticIds([[row] for row in range(count)], (count,), ids)
    yield lambda: SIDS.add(ids, POINTS[:count])
    yield lambda: SIDS.rows(ids)


@pytest.mark.parametrize(("ids", "message"), NO_LIST.values(), ids=NO_LIST)
def test_what_is_no_list_of_ids_is_refused(ids, message):
    for ask in ways(ids):
        with pytest.raises(ValueError, match=re.escape(message)):
            ask()
    if not isinstance(ids, set):
        with pytest.raises(ValueError, match=re.escape(message)):
            SIDS.remove(ids)
    else:
        assert SIDS.remove(ids).item_ids == tuple("3456")  # no order needed


@pytest.mark.parametrize(("item_id", "message"), NO_IDS.values(), ids=NO_IDS)
def test_what_is_no_text_never_becomes_an_id(item_id, message):
    for ask in (*ways(["a", item_id]), lambda: SIDS.remove(["1", item_id])):
        with pytest.raises(ValueError, match=re.escape(f"item_ids {message}")):
            ask()


def test_every_ordered_iterable_of_text_is_a_list_of_ids():
    given = (
        ["b", "a"],
        ("b", "a"),
        np.array(["b", "a"]),
        pd.Series(["b", "a"]),
        iter("ba"),
        {"x": "b", "y": "a"}.values(),
    )
    for ids in given:
        found = read_ids(ids)
        assert found == ["b", "a"] and all(type(item_id) is str for item_id in found)
    assert read_ids([]) == [] and read_ids({"a"}, ordered=False) == ["a"]
    assert SemanticIds([[0], [1]], (2,), np.array(["50", "51"])).item_ids == ("50", "51")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["7"], "'7' is not in the catalogue of 6 items: check the spelling, leave unknown ids out, or build"),
        (["1", "x", "y", "x"], "'x', 'y' are not in the catalogue"),
        ([*"abcdef"], "'a', 'b', 'c' and 3 more are not in the catalogue"),
        (["1 "], "'1 ' is not in the catalogue"),
    ],
)
def test_unknown_ids_are_named(ids, message):
    for ask in (SIDS.rows, SIDS.remove):
        with pytest.raises(ValueError, match=re.escape(f"item_ids: {message}")):
            ask(ids)
    with pytest.raises(ValueError, match=re.escape(f"deny: {message}")):
        SIDS.rows(ids, name="deny")


NO_EMBEDDINGS = {
    "none": (None, "got embeddings of shape () and dtype object: pass an array of numbers"),
    "text": ("x", "got embeddings of shape () and dtype <U1"),
    "numbers as text": ([["1", "2", "3"]], "dtype <U1: pass an array of numbers"),
    "a mask": ([[True, False, True]], "dtype bool: pass an array of numbers"),
    "complex": ([[1j, 2, 3]], "dtype complex128"),
    "objects": ([[None, 1, 2]], "dtype object"),
    "of several lengths": ([[1.0, 2.0], [1.0]], "of several lengths: pass embeddings [n, d]"),
    "too many": (POINTS[:2], "got 1 item ids, 2 embeddings and no events: pass one row for each item"),
    "missing values": (POINTS[:1] * np.nan, "NaN or infinite"),
}
NO_EVENTS = {
    "text": (["5"], "got events of shape (1,) and dtype <U1: pass an array of numbers"),
    "none": ([None], "dtype object: pass an array of numbers"),
    "one number": (5, "got events of shape () and dtype int64"),
    "a table": ([[1]], "got 1 item ids, 1 embeddings and events of shape (1, 1): pass one row for each item"),
    "missing": (
        [float("nan")],
        "got events with NaN or infinite counts, which cannot be ordered: pass 0 for an unknown count",
    ),
}


@pytest.mark.parametrize(("embeddings", "message"), NO_EMBEDDINGS.values(), ids=NO_EMBEDDINGS)
def test_new_items_have_embeddings_of_numbers(embeddings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SIDS.add(["a"], embeddings)
    assert SIDS.add(["a"], POINTS[:1].tolist()).codes.tolist() == SIDS.add(["a"], POINTS[:1]).codes.tolist()


@pytest.mark.parametrize(("events", "message"), NO_EVENTS.values(), ids=NO_EVENTS)
def test_new_items_have_counts_that_can_be_ordered(events, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SIDS.add(["a"], POINTS[:1], events)
    assert len(SIDS.add(["a"], POINTS[:1], [3])) == 7
