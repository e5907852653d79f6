"""Sorts SIDs lexicographically, for tries and for looking up which SIDs are assigned."""

import numpy as np

# Rows whose keys are computed at once, so that they stay in the processor's cache.
CHUNK = 1 << 16


def sorted_codes(codes: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sort SIDs in the lexicographic order of their codes; rows with equal codes keep their order.

    Args:
        codes (`np.ndarray`): `[n, levels]`, integers of at least 0.

    Returns:
        `tuple[np.ndarray, list[np.ndarray]]`: the row numbers `[n]` in sorted order, and for each level its codes
        `[n]` in that order, of the smallest unsigned type where SIDs fit into 64 bits.
    """
    widths = [int(column.max(initial=0)).bit_length() for column in codes.T]
    row_bits = len(codes).bit_length()
    if sum(widths) + row_bits > 64:
        order = np.lexsort(codes.T[::-1])
        return order, [codes[order, level] for level in range(codes.shape[1])]
    # Sorting integers is many times faster than sorting rows of codes, or sorting them indirectly.
    keys = np.zeros(len(codes), dtype=np.uint64)
    for first in range(0, len(codes), CHUNK):
        part, key = codes[first : first + CHUNK], keys[first : first + CHUNK]
        for column, width in zip(part.T, widths, strict=True):
            key <<= np.uint64(width)
            key |= column.astype(np.uint64)
        key <<= np.uint64(row_bits)
        key |= np.arange(first, first + len(part), dtype=np.uint64)
    keys.sort()
    order = _extract_bits(keys, 0, row_bits)
    ends = row_bits + np.cumsum([0, *widths[:0:-1]])[::-1]
    return order, [_extract_bits(keys, int(end), width) for end, width in zip(ends, widths, strict=True)]


def _extract_bits(keys: np.ndarray, first: int, width: int) -> np.ndarray:
    """Extract `width` bits of each key, starting at bit `first`, into the smallest unsigned type that holds them."""
    bits = np.empty(len(keys), dtype=np.min_scalar_type((1 << width) - 1))
    for start in range(0, len(keys), CHUNK):
        part = keys[start : start + CHUNK] >> np.uint64(first)
        bits[start : start + CHUNK] = part & np.uint64((1 << width) - 1)
    return bits
