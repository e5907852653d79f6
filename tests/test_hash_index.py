"""Rows are found by content, whatever their hashes; the index is made once."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf.semantic_ids import hash_index
from genrec_hf.semantic_ids.hash_index import HashIndex, hash_codes, hash_texts

CONTENT = np.array([5, 3, 5, 9, 3, 5, 1])
# One hash for all, one that two contents share, and one each.
HASHES = {"one": lambda x: x * 0, "two": lambda x: x % 2, "each": lambda x: x, "upper bits": lambda x: x << 60}


@pytest.mark.parametrize("of", HASHES.values(), ids=HASHES)
def test_equal_hashes_of_different_content_do_no_harm(of):
    index = HashIndex(len(CONTENT), lambda first, stop: of(CONTENT[first:stop]).astype(np.uint64))
    wanted = np.array([1, 3, 4, 5, 9, 0, 3])
    rows = index.find(of(wanted).astype(np.uint64), lambda rows, numbers: CONTENT[rows] == wanted[numbers])
    assert rows.tolist() == [6, 1, -1, 0, 3, -1, 1]
    later, earlier = index.find_repeats(lambda rows, others: CONTENT[rows] == CONTENT[others])
    assert (later.tolist(), earlier.tolist()) == ([2, 4, 5], [0, 1, 2])
    nothing = index.find(np.empty(0, dtype=np.uint64), lambda rows, numbers: CONTENT[rows] == 0)
    assert nothing.tolist() == [] and nothing.dtype == np.int64


def test_an_index_is_made_once_for_all_threads_and_can_be_copied(monkeypatch):
    monkeypatch.setattr(hash_index, "CHUNK", 3)
    asked = []

    def hashes(first, stop):
        asked.append((first, stop))
        return CONTENT[first:stop].astype(np.uint64)

    index = HashIndex(len(CONTENT), hashes)
    assert asked == []

    def look(_):
        return index.find(np.array([9], dtype=np.uint64), lambda rows, _: CONTENT[rows] == 9).tolist()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(look, range(40))) == [[3]] * 40
    assert asked == [(0, 3), (3, 6), (6, 7)]
    assert copy.deepcopy(index)._keys.tolist() == index._keys.tolist()


TEXT = st.lists(st.one_of(st.text(max_size=20), st.binary(max_size=30).map(lambda b: b.hex())), max_size=30)


@settings(max_examples=50, deadline=None)
@given(TEXT, st.integers(0, 5))
def test_a_text_has_one_hash_wherever_it_stands(texts, first):
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    alone = [int(hash_texts(pa.array([text], pa.large_string()))[0]) for text in texts]
    assert hash_texts(pa.array(texts, pa.large_string())[first:]).tolist() == alone[first:]
    assert len(set(alone)) == len(set(texts))


def test_hashes_tell_lengths_orders_and_levels_apart():
    texts = ["a", "aa", "a\0", "\0a", "ab", "ba", "a" * 8, "a" * 9, "a" * 16, "a" * 8 + "b" * 8, "b" * 8 + "a" * 8]
    assert len(set(hash_texts(pa.array(texts, pa.large_string())).tolist())) == len(texts)
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [256, 0], [0, 256]])
    assert len(set(hash_codes(codes).tolist())) == len(codes)
    assert hash_codes(codes[:, ::-1].astype(np.int32))[1] == hash_codes(codes)[2]
    # Neighbouring codes and ids, as catalogues have them, fill the upper bits evenly.
    codes = np.stack(np.divmod(np.arange(1 << 14), 1 << 7), axis=1)
    ids = pa.array([f"B{number:09d}" for number in range(1 << 14)], pa.large_string())
    for hashes in (hash_codes(codes), hash_texts(ids)):
        assert np.bincount((hashes >> np.uint64(56)).astype(int), minlength=256).min() > 30  # of 64 expected


def test_an_index_survives_pickle():
    from genrec_hf import SemanticIds

    sids = SemanticIds([[0, 1], [2, 0]], (3, 2), ["tea", "cup"])
    assert pickle.loads(pickle.dumps(sids)).rows(["cup"]).tolist() == [1]
