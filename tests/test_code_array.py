"""Codes are found by row and by SID, whatever the number of levels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf import SemanticIds
from genrec_hf.semantic_ids.code_array import CodeArray


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 4), st.integers(0, 100))
def test_rows_and_repeats_are_those_of_a_dictionary(levels, items, size, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(size, size=(items, levels))
    array, first, expected = CodeArray(codes, (1 << 20,) * levels), {}, []
    for row, sid in enumerate(map(tuple, codes.tolist())):
        if sid in first:
            expected.append(row)
        first.setdefault(sid, row)
    later, earlier = array.find_repeats()
    assert later.tolist() == expected and (codes[later] == codes[earlier]).all() and (earlier < later).all()
    wanted = np.concatenate([codes, rng.integers(size + 1, size=(5, levels)), np.full((1, levels), -1)])
    assert array.rows(wanted).tolist() == [first.get(tuple(sid), -1) for sid in wanted.tolist()]


@pytest.mark.parametrize("codes", [[[0.0, 1.0]], [0, 1], [[0, 1, 2]], [[True, False]], []])
def test_what_is_no_sid_is_not_looked_up(codes):
    sids = SemanticIds([[0, 1], [2, 1]], (3, 2), ["a", "b"])
    with pytest.raises(ValueError, match=r"got codes of shape .* and dtype .*: pass integers \[n, 2\], one code"):
        sids.rows_of_codes(codes)
    assert sids.rows_of_codes(np.array([[2, 1], [0, 0]], dtype=np.uint8)).tolist() == [1, -1]


@pytest.mark.parametrize(
    ("codes", "dtype", "outside"),
    [
        ([[0, 1], [2, 1]], np.uint8, None),
        ([[0, 1], [2, 2]], np.int64, (1, 1)),
        ([[0, 1], [3, 2]], np.int32, (1, 0)),
        ([[0, -1], [3, 2]], np.int16, (0, 1)),
        ([[0, 1], [2**64 - 1, 0]], np.uint64, (1, 0)),
    ],
)
def test_the_first_code_outside_of_its_level_is_told(codes, dtype, outside):
    assert CodeArray(np.array(codes, dtype=dtype), (3, 2)).find_out_of_range() == outside
    assert CodeArray(np.asfortranarray(np.array(codes, dtype=dtype)), (3, 2)).find_out_of_range() == outside
