"""Collision resolution: every item its own SID, nothing else changed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf.semantic_ids import resolve_collisions


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_items_of_a_group_are_numbered_in_row_order(codes):
    unique, sizes = resolve_collisions(np.array(codes), (3, 3))
    numbers = [codes[:row].count(code) for row, code in enumerate(codes)]
    if max(numbers) == 0:
        assert unique.tolist() == [list(code) for code in codes] and sizes == (3, 3)
    else:
        assert unique.tolist() == [[*code, number] for code, number in zip(codes, numbers, strict=True)]
        assert sizes == (3, 3, max(numbers) + 1)
    assert len(np.unique(unique, axis=0)) == len(codes)
