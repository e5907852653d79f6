"""What users ask: each argument is read as it was meant, or refused with what to do."""

import re
from functools import cache

import numpy as np
import pandas as pd
import pytest
from test_recommender import ASKED, HISTORIES, IDS, ITEMS, attentive

from genrec_hf import Recommender
from genrec_hf.generation import Mmr, PrefixCap, RequestFilters
from genrec_hf.generation import SearchSettings as Search
from genrec_hf.item_rows import item_rows

EMBEDDINGS = np.random.default_rng(3).normal(size=(ITEMS, 5))


@cache
def shared():
    """A recommender that no test changes."""
    return attentive()


def refused(message, **kwargs):
    """`recommend` raises a `ValueError` of exactly these words."""
    with pytest.raises(ValueError, match=re.escape(message)):
        shared().recommend(**{"histories": [["i1"]], "k": 3, **kwargs})


NO_HISTORIES = {
    "text": ("i1", "histories='i1' would be read letter by letter: pass a list of histories"),
    "one user's list": (["i1", "i2"], "histories holds the text 'i1': each letter would be an item id"),
    "text beside a list": ([["i1"], "i2"], "histories holds the text 'i2': each letter would be an item id"),
    "an array of ids": (np.array(["i1", "i2"]), "each letter would be an item id"),
    "set": ([{"i1", "i2"}], "histories[0] is a set, which has no order: pass a list of item ids"),
    "frozenset": ([["i1"], frozenset()], "histories[1] is a frozenset, which has no order"),
    "keys": ([{"i1": 5}.keys()], "histories[0] is a dict_keys, which has no order"),
    "mapping": ([{"i1": 5}], "histories[0] is a dict, whose values would be ignored"),
    "mapping of users": ({"i1": ["i2"]}, "histories is a dict, whose values would be ignored"),
    "set of users": ({("i1",)}, "histories is a set, which has no order"),
    "none": (None, "histories is None (NoneType): pass a list of histories"),
    "none within": ([["i1"], None], "histories[1] is None (NoneType): pass a list of item ids"),
    "number": (5, "histories is 5 (int): pass a list of histories"),
    "number within": ([5], "histories[0] is 5 (int): pass a list of item ids"),
    "bytes": ([b"i1"], "histories[0]=b'i1' would be read letter by letter"),
    "integer ids": ([[50, 181]], "histories[0] holds 50 (int): item ids are text, pass '50'"),
    "integer ids in an array": (
        np.array([[50]]),
        "histories[0] holds np.int64(50) (int64): item ids are text, pass '50'",
    ),
    "missing id": ([["i1", float("nan")]], "histories[0] holds nan (float): item ids are text"),
    "blank id": ([["i1", ""]], "histories[0] holds the blank id ''"),
    "nested": ([[["i1"]]], "histories[0] holds ['i1'] (list): item ids are text"),
    "unknown": (
        [[], ["i1", "x", "i2", "y"]],
        "histories[1]: 'x', 'y' are not in the catalogue of 16 items: check the",
    ),
}


@pytest.mark.parametrize(("histories", "message"), NO_HISTORIES.values(), ids=NO_HISTORIES)
def test_what_is_no_list_of_histories_is_refused(histories, message):
    refused(message, histories=histories)


def test_ids_of_one_letter_are_not_read_out_of_a_text():
    sids = shared().semantic_ids
    digits = [str(row) for row in range(ITEMS)]  # "1" to "9" are items, and so is each letter of "12"
    rec = Recommender.__new__(Recommender)
    rec.__dict__ = shared().__dict__ | {"semantic_ids": type(sids)(sids.codes, sids.level_sizes, digits)}
    assert len(rec.recommend([["1", "2"]], k=3)[0]) == 3
    for histories in ("11", ["12", "2", "3"], [["1"], "2"]):
        with pytest.raises(ValueError, match="letter"):
            rec.recommend(histories, k=3)
    for name in ("deny", "allow"):
        for ids in ("11", [["1"], "2"], ["12", ["2"]]):
            with pytest.raises(ValueError, match=r"letter by letter|entries for 2 histories"):
                rec.recommend([["1"], ["2"]], k=3, **{name: ids})
    for call in (rec.encode, rec.rank):
        with pytest.raises(ValueError, match=r"histories\[0\] holds item rows of .*semantic_ids\.rows\(item_ids\)"):
            call([["5"]])


def test_every_ordered_iterable_is_a_history():
    rec = shared()
    expected = rec.recommend(ASKED, k=4)
    given = {
        "tuples": tuple(map(tuple, ASKED)),
        "arrays": [np.array(history, dtype=str) for history in ASKED],
        "series": pd.Series(ASKED),
        "generators": ((item for item in history) for history in ASKED),
        "values": dict(enumerate(ASKED)).values(),
    }
    for name, histories in given.items():
        assert rec.recommend(histories, k=4) == expected, name
    assert rec.recommend(np.array([["i1", "i2"], ["i3", "i4"]]), k=4) == rec.recommend(
        [["i1", "i2"], ["i3", "i4"]], k=4
    )


NO_FILTERS = {
    "mapping": ({"i2": 1}, " is a dict, whose values would be ignored: pass a list of item ids"),
    "mapping within": ([{"i2": 1}], "[0] is a dict, whose values would be ignored"),
    "text": ("i2", "='i2' would be read letter by letter"),
    "bytes": (b"i2", "=b'i2' would be read letter by letter"),
    "number": (5, " is 5 (int): pass a list of item ids"),
    "bool": (False, " is False (bool): pass a list of item ids"),
    "integer ids": ([50, 181], " holds 50 (int): item ids are text, pass '50'"),
    "integer ids of a user": ([[50]], "[0] holds 50 (int): item ids are text, pass '50'"),
    "missing id": (["i1", None], " holds 2 entries for 1 histories: pass item ids for all users, or a list"),
    "a set of collections": ({("i1",)}, " holds 1 entries for 1 histories: pass item ids for all users, or a list"),
    "number within": ([["i1"], 5], " holds 2 entries for 1 histories"),
    "blank": ([" "], " holds the blank id ' '"),
    "unknown": (["x", "i2", "y", "z", "w"], ": 'x', 'y', 'z' and 1 more are not in the catalogue of 16 items"),
    "unknown of a user": ([["x"]], "[0]: 'x' is not in the catalogue of 16 items: check the spelling"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["deny", "allow"])
@pytest.mark.parametrize(("ids", "message"), NO_FILTERS.values(), ids=NO_FILTERS)
def test_what_is_no_filter_is_refused(name, ids, message):
    refused(name + message, **{name: ids})


SETTINGS = {
    "filter_seen": (["false", "no", 0, 1, None, [True]], "pass True or False; any text would count as True"),
    "k": (
        ["3", 3.0, 2.5, True, None, 0, -1, ITEMS + 1, np.float32(3)],
        f"it must be a whole number from 1 to {ITEMS}",
    ),
    "search": ([20, True, {"num_beams": 20}], "pass SearchSettings(num_beams=..., batch_size=...)"),
    "reranker": ([0.5, True, "0.5", EMBEDDINGS], "pass an object with the method rerank, such as Mmr(embeddings)"),
}
SEARCH_SETTINGS = {
    "num_beams": (["20", 20.0, 20.5, False, -5, np.bool_(True)], "it must be a whole number, at least 1"),
    "batch_size": (["8", 2.0, None, True, 0, -1], "it must be a whole number, at least 1"),
    "prefix_cap": ([2, True, "2", (1, 1), {"items": 1}], "pass PrefixCap(items, length)"),
}
CASES = [(name, value, message) for name, (values, message) in SETTINGS.items() for value in values]


@pytest.mark.parametrize(
    ("name", "value", "message"), CASES, ids=[f"{name}-{value!r:.12}" for name, value, _ in CASES]
)
def test_settings_of_another_type_are_refused(name, value, message):
    refused(message, **{name: value})
    refused(f"{name}={value!r}", **{name: value})
    with pytest.raises(ValueError, match=re.escape(message)):
        shared().rank([], **{"k": 3, name: value})  # with nobody to serve, too


@pytest.mark.parametrize("name", SEARCH_SETTINGS)
def test_settings_of_a_search_are_checked(name):
    values, message = SEARCH_SETTINGS[name]
    for value in values:
        with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}: {message}")):
            Search(**{name: value})
    refused("got num_beams=2 for k=3 items: num_beams must be at least k", search=Search(num_beams=2))
    with pytest.raises(ValueError, match="num_beams=2 for k=3"):
        shared().rank([], 3, search=Search(num_beams=2))


def test_numbers_of_numpy_are_numbers():
    rec = shared()
    search = Search(num_beams=np.int32(20), batch_size=np.uint8(2))
    ranked = rec.recommend(ASKED, k=np.int64(3), filter_seen=np.bool_(True), search=search)
    assert ranked == rec.recommend(ASKED, k=3)


@pytest.mark.parametrize("k", ["3", 2.5, True, None, 0])
def test_completions_are_counted_in_whole_numbers_too(k):
    with pytest.raises(ValueError, match="it must be a whole number, at least 1"):
        shared().complete([[5, 6]], k)


NO_INSTRUCTIONS = {
    "number": (5, "instruction is 5 (int): pass a list of instructions"),
    "number within": ([5], "instruction holds 5 (int): pass text, or None"),
    "bytes": (b"cheap", "instruction=b'cheap' would be read letter by letter"),
    "missing": ([float("nan")], "instruction holds nan (float): pass text, or None"),
    "mapping": ({"cheap": 1}, "instruction is a dict, whose values would be ignored"),
    "set": ({"cheap"}, "instruction is a set, which has no order"),
    "bool": (False, "instruction is False (bool): pass a list of instructions"),
    "half a character": ("cheap \ud83d", "which has surrogates: decode the text as UTF-8"),
}


@pytest.mark.parametrize(("instruction", "message"), NO_INSTRUCTIONS.values(), ids=NO_INSTRUCTIONS)
def test_what_is_no_wish_is_refused(instruction, message):
    refused(message, instruction=instruction)
    for call in (shared().rank, shared().encode):
        with pytest.raises(ValueError, match=re.escape(message)):
            call([[1]], instruction=instruction)


NO_ROWS = {
    "ids": (
        ["5"],
        "dtype <U1: ids, masks and fractions would name wrong items; pass a list of whole numbers, such as",
    ),
    "fractions": ([1.0], "dtype float64: ids, masks and fractions"),
    "a mask": (np.ones(3, dtype=bool), "dtype bool: ids, masks and fractions"),
    "true among rows": ([1, True], "True or False: a mask would name wrong items"),
    "nested": ([[1]], "shape (1, 1)"),
    "ragged": ([[1], [1, 2]], "shape ()"),
    "one row": (3, "shape ()"),
    "none": ([None], "dtype object"),
    "set": ({1, 2}, "dtype object"),
    "padding": ([3, -1], "item rows -1 to 3 for 16 items: they name wrong items; pass 0 to 15, without padding"),
    "too high": ([3, 16], "item rows 3 to 16 for 16 items"),
    "wraps around": (np.array([2**64 - 1], dtype=np.uint64), f"item rows {2**64 - 1} to {2**64 - 1} for 16 items"),
}


@pytest.mark.parametrize(("rows", "message"), NO_ROWS.values(), ids=NO_ROWS)
def test_what_is_no_row_is_refused_wherever_rows_go(rows, message):
    rec = shared()
    calls = {
        "histories[0]": lambda: rec.encode([rows]),
        "histories[1]": lambda: rec.rank([[1], rows], k=3).items,
        "deny[0]": lambda: rec.rank([[1]], k=3, deny=[rows]).items,
        "allow[0]": lambda: rec.rank([[1]], k=3, allow=[rows]).items,
        "deny": lambda: RequestFilters(rec.trie, deny=[rows]),
        "allow": lambda: RequestFilters(rec.trie, allow=[rows]),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=re.escape(f"{name} holds") + ".*" + re.escape(message)):
            call()


def test_rows_of_any_whole_type_are_rows():
    for rows in ([3, 0], (3, 0), np.array([3, 0], dtype=np.uint8), pd.Series([3, 0]), range(3, -1, -3)):
        found = item_rows(rows, ITEMS, "rows")
        assert found.tolist() == [3, 0] and found.dtype == np.int64
    assert item_rows([], ITEMS, "rows").dtype == np.int64
    batch = shared().encode(HISTORIES)
    assert batch["input_ids"].shape[0] == len(HISTORIES)


@pytest.mark.parametrize("histories", [None, 5, {"a": [1]}, {(1,)}])
def test_rows_of_users_come_in_a_list(histories):
    for call in (shared().rank, shared().encode):
        with pytest.raises(
            ValueError, match=r"histories is .*pass a list of histories, one list of item rows for each user"
        ):
            call(histories)


@pytest.mark.parametrize(("given", "left"), [(["i3"], 1), ([], 0), (["i1"], 0), (IDS, ITEMS - 1)])
def test_lists_are_as_long_as_what_is_left(given, left):
    (found,) = shared().recommend([["i1"]], k=ITEMS, allow=given)
    assert len(found) == left and set(found) <= set(given) - {"i1"}
    (found,) = shared().recommend(
        [["i1"]], k=3, allow=given, reranker=Mmr(EMBEDDINGS), search=Search(prefix_cap=PrefixCap(1))
    )
    assert len(found) <= min(3, left)


MADE = {
    "normalization": ("bogus", "got normalization='bogus'; use one of full, level, trie"),
    "form": ("chatty", "got form='chatty'; use one of plain, chat"),
    "max_history": (2.5, "max_history=2.5: it must be a whole number, at least 1"),
    "titles": ("x" * ITEMS, "titles"),
}


@pytest.mark.parametrize(("name", "value", "message"), [(name, *each) for name, each in MADE.items()], ids=MADE)
def test_a_recommender_is_made_with_what_it_knows(name, value, message):
    rec = shared()
    with pytest.raises(ValueError, match=re.escape(message)):
        Recommender(rec.model, rec.tokenizer, rec.semantic_ids, **{name: value})
    with pytest.raises(ValueError, match="max_history=True"):
        Recommender(rec.model, rec.tokenizer, rec.semantic_ids, max_history=True)


def test_a_recommender_says_what_it_is():
    assert repr(shared()) == (
        "Recommender(model='LlamaForCausalLM', items=16, levels=3, normalization='full', form='plain', max_history=40)"
    )
    rec = Recommender.__new__(Recommender)
    rec.__dict__ = shared().__dict__ | {"normalization": "trie"}
    assert "normalization='trie'" in repr(rec)


@pytest.mark.parametrize(
    ("batches", "progress", "shown"), [(10, None, False), (11, None, True), (11, False, False), (1, True, True)]
)
def test_a_long_list_of_users_shows_progress(batches, progress, shown, capsys):
    kwargs = {} if progress is None else {"progress": progress}
    shared().recommend([["i1"]] * batches, k=1, **kwargs, search=Search(batch_size=1, num_beams=1))
    assert ("Recommending" in capsys.readouterr().err) == shown
