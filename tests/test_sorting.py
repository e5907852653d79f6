"""Both ways of sorting give the lexicographic order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf.semantic_ids import sorting
from genrec_hf.semantic_ids.sorting import sorted_codes

CODE = st.integers(0, 3) | st.sampled_from([0, 255, 256, 2**15, 2**31 - 1, 2**62])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5).flatmap(lambda levels: st.lists(st.tuples(*[CODE] * levels), min_size=1, max_size=30)))
def test_rows_and_codes_come_in_the_order_of_the_codes(codes):
    expected = sorted(range(len(codes)), key=lambda item: (codes[item], item))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "CHUNK", 7)
        order, columns = sorted_codes(np.array(codes))
    assert order.tolist() == expected
    assert [column.tolist() for column in columns] == np.array(codes)[expected].T.tolist()


@pytest.mark.parametrize(("bits", "dtype"), [(59, np.uint64), (60, np.uint64), (61, np.int64)])
def test_keys_of_64_bits_are_sorted_as_they_are_and_longer_ones_are_not_made(bits, dtype):
    codes = np.array([[(1 << bits) - 1, 3], [0, 2], [(1 << bits) - 1, 1], [(1 << bits - 1), 0]])
    order, columns = sorted_codes(codes)  # 2 bits of the second level, 3 of the row
    assert order.tolist() == [1, 3, 2, 0] and columns[0].tolist() == sorted(codes[:, 0].tolist())
    assert columns[0].dtype == (dtype if bits < 60 else np.int64)


def test_nothing_is_in_order():
    order, columns = sorted_codes(np.zeros((0, 3), dtype=np.int64))
    assert order.tolist() == [] and [column.tolist() for column in columns] == [[], [], []]
