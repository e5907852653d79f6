"""`HashIndex`: looks up rows by the hash of their content (ids or SIDs), in one sorted array of 8 bytes per row."""

from collections.abc import Callable
from threading import Lock

import numpy as np
import pyarrow as pa

# `(rows [n], others [n]) -> bool [n]`: whether the content of each row equals that of the other, which is a row or a
# query.
Same = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Rows that are hashed at once, so that their words stay in the processor's cache.
CHUNK = 1 << 15
# One lock for all indexes: a lock in the index itself could not be copied or pickled.
_LOCK = Lock()


class HashIndex:
    """Index from content to rows, by hash; built at the first lookup, by one thread.

    Each entry holds the upper bits of a row's hash above the row number, so that one sort of integers builds the
    index, and rows with equal hashes are adjacent and in order. Different content with equal hashes is distinguished
    by comparing the content itself.

    Args:
        rows (`int`): number of rows, below 2**40.
        hashes (`Callable`): `(first, stop) -> uint64 [stop - first]`, hashes of these rows.
    """

    def __init__(self, rows: int, hashes: Callable[[int, int], np.ndarray]) -> None:
        self._rows, self._hashes = rows, hashes
        self._row_bits = np.uint64(max(1, (rows - 1).bit_length()))
        self._sorted_keys: np.ndarray | None = None

    @property
    def _keys(self) -> np.ndarray:
        if self._sorted_keys is None:
            with _LOCK:
                if self._sorted_keys is None:
                    keys = np.empty(self._rows, dtype=np.uint64)
                    for first in range(0, self._rows, CHUNK):
                        stop = min(first + CHUNK, self._rows)
                        keys[first:stop] = self._upper_bits(self._hashes(first, stop))
                        keys[first:stop] |= np.arange(first, stop, dtype=np.uint64)
                    keys.sort()
                    self._sorted_keys = keys
        return self._sorted_keys

    def _upper_bits(self, hashes: np.ndarray) -> np.ndarray:
        return hashes >> self._row_bits << self._row_bits

    def _row_numbers(self, keys: np.ndarray) -> np.ndarray:
        return (keys & ((np.uint64(1) << self._row_bits) - np.uint64(1))).astype(np.int64)

    def find(self, hashes: np.ndarray, same: Same) -> np.ndarray:
        """Find the first row with the content of each query.

        Args:
            hashes (`np.ndarray`): uint64 `[n]`, hashes of the queries.
            same (`Same`): compares rows with queries, which are numbered from 0.

        Returns:
            `np.ndarray`: rows `[n]`, int64; `-1` where no row has the content.
        """
        keys, rows = self._keys, np.full(len(hashes), -1, dtype=np.int64)
        queries = np.argsort(hashes)  # searchsorted is several times faster for queries in the order of the keys
        query_bits = self._upper_bits(hashes[queries])
        position = np.searchsorted(keys, query_bits)
        while len(queries):
            key = keys[np.minimum(position, len(keys) - 1)]
            match = (position < len(keys)) & (self._upper_bits(key) == query_bits)
            row, queries = self._row_numbers(key[match]), queries[match]
            position, query_bits = position[match], query_bits[match]
            equal = same(row, queries)
            rows[queries[equal]] = row[equal]
            queries, position, query_bits = queries[~equal], position[~equal] + 1, query_bits[~equal]
        return rows

    def find_repeats(self, same: Same) -> tuple[np.ndarray, np.ndarray]:
        """Find rows with the content of an earlier row.

        Args:
            same (`Same`): compares rows with rows.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: rows `[n]` in ascending order, int64, and for each the last earlier row
            `[n]` with the same content.
        """
        keys, upper_bits = self._keys, self._upper_bits(self._keys)
        position, distance = np.flatnonzero(upper_bits[1:] == upper_bits[:-1]) + 1, 1
        later, earlier = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        while len(position):
            row, previous = self._row_numbers(keys[position]), self._row_numbers(keys[position - distance])
            equal = same(previous, row)
            later.append(row[equal])
            earlier.append(previous[equal])
            # Different content with the same hash: compare with the row before that one.
            distance += 1
            position = position[~equal & (position >= distance)]
            position = position[upper_bits[position] == upper_bits[position - distance]]
        order = np.argsort(np.concatenate(later))
        return np.concatenate(later)[order], np.concatenate(earlier)[order]


def hash_codes(codes: np.ndarray) -> np.ndarray:
    """Compute the hashes of SIDs.

    Args:
        codes (`np.ndarray`): `[n, levels]`, integers.

    Returns:
        `np.ndarray`: `[n]`, uint64.
    """
    hashes = np.zeros(len(codes), dtype=np.uint64)
    for column in codes.T:
        hashes = _mix(hashes, column.astype(np.uint64))
    return hashes


def hash_texts(texts: pa.LargeStringArray) -> np.ndarray:
    """Compute the hashes of texts from their UTF-8 bytes, eight at a time.

    Args:
        texts (`pa.LargeStringArray`): `n` texts.

    Returns:
        `np.ndarray`: `[n]`, uint64.
    """
    offsets, content = text_buffers(texts)
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    # A word of eight bytes may begin at any byte; the last ones end in the padding.
    padded = np.concatenate([content[offsets[0] : offsets[-1]], np.zeros(8, dtype=np.uint8)])
    words = np.ndarray(len(padded) - 7, dtype="<u8", buffer=padded.data, strides=(1,))
    hashes = _mix(np.zeros(len(texts), dtype=np.uint64), lengths.astype(np.uint64))
    rows: np.ndarray | slice = slice(None)
    for first in range(0, int(lengths.max(initial=1)), 8):
        if first:
            rows = np.flatnonzero(lengths > first)
        # Bits of the word that belong to other texts are shifted out.
        other_bits = (64 - 8 * np.minimum(lengths[rows] - first, 8)).astype(np.uint64)
        hashes[rows] = _mix(hashes[rows], words[starts[rows] + first] << other_bits)
    return hashes


def text_buffers(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the buffers of an array of texts, without copying them.

    Args:
        texts (`pa.LargeStringArray`): `n` texts.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: offsets `[n + 1]`, int64, and the UTF-8 bytes that they point into, uint8.
    """
    _, offsets, content = texts.buffers()
    first = texts.offset
    return (
        np.frombuffer(offsets, dtype=np.int64)[first : first + len(texts) + 1],
        np.frombuffer(content, dtype=np.uint8) if content is not None else np.zeros(0, dtype=np.uint8),
    )


def _mix(hashes: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Extend hashes by the next words, both uint64 `[n]`, with the steps of splitmix64."""
    mixed = (hashes ^ words) + np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
