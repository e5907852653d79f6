"""Item rows: what is accepted as rows of a catalogue."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf.item_rows import is_whole, item_rows


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-2, 6), max_size=4))
def test_rows_are_accepted_if_the_catalogue_has_all_of_them(rows):
    for values in (rows, tuple(rows), np.array(rows, dtype=np.int16)):
        if all(0 <= row < 5 for row in rows):
            array = item_rows(values, 5, "rows")
            assert array.tolist() == rows and array.dtype == np.int64
        else:
            with pytest.raises(
                ValueError, match=r"rows holds item rows .* for 5 items: .*pass 0 to 4, without padding"
            ):
                item_rows(values, 5, "rows")


def test_whole_numbers():
    assert all(map(is_whole, (0, -3, 10**30, np.int8(4), np.uint64(4))))
    assert not any(map(is_whole, (True, np.True_, 1.0, np.float32(1), "1", None)))
