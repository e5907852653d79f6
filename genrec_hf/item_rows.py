"""Converts item rows that callers pass to arrays and checks them."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np

# Item rows of one user: row numbers of the catalogue, from 0.
Rows = Sequence[int] | np.ndarray


def item_rows(rows: Rows, items: int, name: str) -> np.ndarray:
    """Convert item rows to an array and check that the catalogue has them; nothing is rounded or cast to integers.

    Args:
        rows (`Sequence[int]` or `np.ndarray`): `[n]`, integers from 0 to `items - 1`.
        items (`int`): number of items in the catalogue.
        name (`str`): name of the argument, for the error.

    Returns:
        `np.ndarray`: `[n]`, int64.

    Raises:
        ValueError: `rows` is not a flat list of integers (item ids, a mask, floats, nested lists), or a row is not in
            the catalogue.

    Example:
        >>> item_rows([3, 0], items=4, name="rows").tolist()
        [3, 0]
    """
    if isinstance(rows, list | tuple) and any(isinstance(row, bool) for row in rows):
        raise ValueError(f"{name} holds True or False: a mask would name wrong items; pass item rows (np.flatnonzero)")
    try:
        array = np.asarray(rows)
    except ValueError:  # nested lists of different lengths
        array = np.asarray(None)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"{name} holds item rows of shape {array.shape} and dtype {array.dtype}: ids, masks and fractions would "
            "name wrong items; pass a list of whole numbers, such as semantic_ids.rows(item_ids)"
        )
    if array.size and not 0 <= array.min() <= array.max() < items:
        raise ValueError(
            f"{name} holds item rows {array.min()} to {array.max()} for {items} items: they name wrong items; pass "
            f"0 to {items - 1}, without padding"
        )
    return array.astype(np.int64)


def is_whole(value: object) -> bool:
    """Return whether a value is an integer of Python or NumPy; `True` and `1.0` are not.

    Args:
        value (`object`): any value.

    Returns:
        `bool`: whether it is an integer.
    """
    return isinstance(value, Integral) and not isinstance(value, bool)
