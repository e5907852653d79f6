"""Ids in one array: found both ways, written as JSON would, and refused as lists of them are."""

import hashlib
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf import SemanticIds
from genrec_hf.semantic_ids import id_array
from genrec_hf.semantic_ids.id_array import IdArray

ID = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
PLAIN = st.from_regex(r"[A-Z0-9]{1,10}", fullmatch=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(ID, PLAIN), min_size=1, max_size=40, unique=True), st.integers(1, 7), st.data())
def test_ids_of_any_text_behave_as_a_list_of_them(ids, chunk, data):
    array, before = IdArray.read(ids), id_array.CHUNK
    id_array.CHUNK = chunk
    try:
        assert b"".join(array.json()) == json.dumps(ids).encode()
    finally:
        id_array.CHUNK = before
    rows = np.array(data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=10)), dtype=np.int64)
    wanted = [ids[row] for row in rows]
    assert (
        array.to_strings(rows) == wanted == array.take(rows).tolist()
        and array.rows(IdArray.read(wanted)).tolist() == rows.tolist()
    )
    other = data.draw(ID)
    assert array.rows(IdArray.read([other])).tolist() == [ids.index(other) if other in ids else -1]
    again = IdArray.from_tensors(*array.tensors())
    assert again.tolist() == ids and again.equals(ids) and not again.equals([*ids[:-1], ids[-1] + "x"])
    assert IdArray(array._texts[1:]).tensors()[1][0] == 0
    assert IdArray.from_tensors(*IdArray(array._texts[1:]).tensors()).tolist() == ids[1:]
    assert (array + IdArray.read(["one", "more"])).tolist() == [*ids, "one", "more"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(ID, PLAIN), min_size=1, max_size=20, unique=True), st.integers(1, 9))
def test_the_fingerprint_is_that_of_json_and_codes(ids, size):
    codes = np.stack([np.arange(len(ids)), np.arange(len(ids)) % size], axis=1)
    digest = hashlib.sha256(json.dumps([(len(ids), size), tuple(ids)]).encode())
    digest.update(codes.astype("<i8").tobytes())
    assert SemanticIds(codes.astype(np.int32), (len(ids), size), ids).fingerprint == digest.hexdigest()[:16]


def test_the_fingerprint_is_what_it_was_for_tokenizers_saved_earlier():
    sids = SemanticIds([[0, 1], [2, 0], [2, 1]], (3, 2), ["tea", "cup", "Kännchen ☕"])
    assert sids.fingerprint == "c6dff35881729006"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "\ud800"], r"item_ids holds '\ud800', which is not valid Unicode and cannot be saved"),
        (["a", "b", "a", "a", "b"], "rows 0 and 2 share the item id 'a' (3 repeats in all)"),
        (["a", b"b"], "item_ids holds b'b' (bytes): item ids are text, decode it first"),
        (["a", None], "item_ids holds None (NoneType)"),
        (["a", "\u3000\x1f"], "holds the blank id"),
    ],
)
def test_what_makes_no_catalogue_is_refused(ids, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SemanticIds(np.arange(len(ids))[:, None], (len(ids),), ids)
    if "repeats" in message:
        with pytest.raises(ValueError, match=re.escape(message)):
            IdArray.read(ids).rows(IdArray.read(["a"]))
    else:
        with pytest.raises(ValueError, match=re.escape(message)):
            SemanticIds([[0]], (1,), ["z"]).rows(ids)


def test_other_items_are_told_apart():
    ids = IdArray.read(["a", "b"])
    assert ids.equals(("a", "b")) and ids.equals(np.array(["a", "b"]))
    for other in (["b", "a"], ["a"], ["a", None], ["a", b"b"], ["a", 1], ["a", "\ud800"]):
        assert not ids.equals(other)


def test_tensors_that_are_no_texts_are_refused():
    content, offsets = IdArray.read(["ä", "b"]).tensors()
    assert (content.tobytes(), offsets.tolist()) == ("äb".encode(), [0, 2, 3])
    for wrong in (
        (content[:-1], offsets),
        (content, offsets[::-1].copy()),
        (content, np.array([0, 1, 3])),  # cuts a letter
        (content, offsets.astype(np.int32)),
        (content.astype(np.int64), offsets),
        (content, offsets[:0]),
        (content, offsets[:, None]),
    ):
        with pytest.raises(ValueError, match=r"."):
            IdArray.from_tensors(*wrong)
