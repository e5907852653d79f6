"""`HashIndex`: which row holds what, as one sorted array of 8 bytes a row, for ids and for SIDs."""

from collections.abc import Callable
from threading import Lock

import numpy as np
import pyarrow as pa

# `(rows [n], others [n]) -> bool [n]`: whether each row holds what the other does, a row or what is looked up.
Same = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Rows that are hashed at once, so that their words stay in the processor's cache.
CHUNK = 1 << 15
# Of the module, so that what holds an index can be copied and pickled.
_MAKING = Lock()


class HashIndex:
    """Finds rows by the hash of their content; made when first asked, once, whatever thread asks.

    Each entry holds the upper bits of a row's hash above the number of the row, so that one sort of whole numbers
    makes the index, and rows of equal hash lie side by side in their order. Equal hashes of different content do no
    harm: the content itself is compared at the end.

    Args:
        rows (`int`): how many there are, fewer than 2**40.
        hashes (`Callable`): `(first, stop) -> uint64 [stop - first]`, hashes of these rows.
    """

    def __init__(self, rows: int, hashes: Callable[[int, int], np.ndarray]) -> None:
        self._rows, self._hashes = rows, hashes
        self._bits = np.uint64(max(1, (rows - 1).bit_length()))
        self._made: np.ndarray | None = None

    @property
    def _keys(self) -> np.ndarray:
        if self._made is None:
            with _MAKING:
                if self._made is None:
                    keys = np.empty(self._rows, dtype=np.uint64)
                    for first in range(0, self._rows, CHUNK):
                        stop = min(first + CHUNK, self._rows)
                        keys[first:stop] = self._upper(self._hashes(first, stop))
                        keys[first:stop] |= np.arange(first, stop, dtype=np.uint64)
                    keys.sort()
                    self._made = keys
        return self._made

    def _upper(self, hashes: np.ndarray) -> np.ndarray:
        return hashes >> self._bits << self._bits

    def _row(self, keys: np.ndarray) -> np.ndarray:
        return (keys & ((np.uint64(1) << self._bits) - np.uint64(1))).astype(np.int64)

    def find(self, hashes: np.ndarray, same: Same) -> np.ndarray:
        """The first row of each content that is looked up, int64 `[n]`; `-1` where no row holds it.

        Args:
            hashes (`np.ndarray`): uint64 `[n]`, of what is looked up.
            same (`Same`): compares rows with numbers, from 0, of what is looked up.
        """
        keys, rows = self._keys, np.full(len(hashes), -1, dtype=np.int64)
        left = np.argsort(hashes)  # in the order of the keys, many are found several times faster
        wanted = self._upper(hashes[left])
        place = np.searchsorted(keys, wanted)
        while len(left):
            key = keys[np.minimum(place, len(keys) - 1)]
            there = (place < len(keys)) & (self._upper(key) == wanted)
            row, left, place, wanted = self._row(key[there]), left[there], place[there], wanted[there]
            equal = same(row, left)
            rows[left[equal]] = row[equal]
            left, place, wanted = left[~equal], place[~equal] + 1, wanted[~equal]
        return rows

    def repeats(self, same: Same) -> tuple[np.ndarray, np.ndarray]:
        """Rows `[n]` whose content a row before holds as well, in order, and the last such row `[n]` before each.

        Args:
            same (`Same`): compares rows with rows.
        """
        keys, upper = self._keys, self._upper(self._keys)
        place, distance = np.flatnonzero(upper[1:] == upper[:-1]) + 1, 1
        later, earlier = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        while len(place):
            row, before = self._row(keys[place]), self._row(keys[place - distance])
            equal = same(before, row)
            later.append(row[equal])
            earlier.append(before[equal])
            # Of another content with the same hash: the row before that one.
            distance += 1
            place = place[~equal & (place >= distance)]
            place = place[upper[place] == upper[place - distance]]
        order = np.argsort(np.concatenate(later))
        return np.concatenate(later)[order], np.concatenate(earlier)[order]


def hash_codes(codes: np.ndarray) -> np.ndarray:
    """Hashes of SIDs, uint64 `[n]`, of codes `[n, levels]`."""
    hashes = np.zeros(len(codes), dtype=np.uint64)
    for column in codes.T:
        hashes = _mixed(hashes, column.astype(np.uint64))
    return hashes


def hash_texts(texts: pa.LargeStringArray) -> np.ndarray:
    """Hashes of texts, uint64 `[n]`: their UTF-8 bytes, eight at a time."""
    offsets, content = buffers(texts)
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    # A word may begin at any byte; the last ones end in the padding.
    padded = np.concatenate([content[offsets[0] : offsets[-1]], np.zeros(8, dtype=np.uint8)])
    words = np.ndarray(len(padded) - 7, dtype="<u8", buffer=padded.data, strides=(1,))
    hashes = _mixed(np.zeros(len(texts), dtype=np.uint64), lengths.astype(np.uint64))
    rows: np.ndarray | slice = slice(None)
    for first in range(0, int(lengths.max(initial=1)), 8):
        if first:
            rows = np.flatnonzero(lengths > first)
        # Bits of the word that belong to other texts are shifted out.
        foreign = (64 - 8 * np.minimum(lengths[rows] - first, 8)).astype(np.uint64)
        hashes[rows] = _mixed(hashes[rows], words[starts[rows] + first] << foreign)
    return hashes


def buffers(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets `[n + 1]`, int64, and the bytes that they point into, of an array of texts; nothing is copied."""
    _, offsets, content = texts.buffers()
    first = texts.offset
    return (
        np.frombuffer(offsets, dtype=np.int64)[first : first + len(texts) + 1],
        np.frombuffer(content, dtype=np.uint8) if content is not None else np.zeros(0, dtype=np.uint8),
    )


def _mixed(hashes: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Hashes of what came before and the next words, both uint64 `[n]`: the steps of splitmix64."""
    mixed = (hashes ^ words) + np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
