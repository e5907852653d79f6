"""SIDs in lexicographic order: what makes a trie, and tells which SIDs are taken."""

import numpy as np

# Rows whose keys are made at once, so that they stay in the processor's cache.
CHUNK = 1 << 16


def sorted_codes(codes: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rows of SIDs in the lexicographic order of their codes, equal ones by row.

    Args:
        codes (`np.ndarray`): `[n, levels]`, whole numbers from 0.

    Returns:
        `tuple`: the rows `[n]`, and for each level its codes `[n]` in that order, unsigned where that saves memory.
    """
    widths = [int(column.max(initial=0)).bit_length() for column in codes.T]
    row_bits = len(codes).bit_length()
    if sum(widths) + row_bits > 64:
        order = np.lexsort(codes.T[::-1])
        return order, [codes[order, level] for level in range(codes.shape[1])]
    # Sorting whole numbers is many times faster than sorting rows of codes, or sorting them indirectly.
    keys = np.zeros(len(codes), dtype=np.uint64)
    for first in range(0, len(codes), CHUNK):
        part, key = codes[first : first + CHUNK], keys[first : first + CHUNK]
        for column, width in zip(part.T, widths, strict=True):
            key <<= np.uint64(width)
            key |= column.astype(np.uint64)
        key <<= np.uint64(row_bits)
        key |= np.arange(first, first + len(part), dtype=np.uint64)
    keys.sort()
    order = _bits(keys, 0, row_bits)
    ends = row_bits + np.cumsum([0, *widths[:0:-1]])[::-1]
    return order, [_bits(keys, int(end), width) for end, width in zip(ends, widths, strict=True)]


def _bits(keys: np.ndarray, first: int, width: int) -> np.ndarray:
    """So many bits of each key, from the one of that number on, in the smallest integers that hold them."""
    bits = np.empty(len(keys), dtype=np.min_scalar_type((1 << width) - 1))
    for start in range(0, len(keys), CHUNK):
        part = keys[start : start + CHUNK] >> np.uint64(first)
        bits[start : start + CHUNK] = part & np.uint64((1 << width) - 1)
    return bits
