"""`CodeArray`: the SIDs of a catalogue as one array of codes, found both ways."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from genrec_hf.semantic_ids.hash_index import HashIndex, hash_codes
from genrec_hf.semantic_ids.id_array import IdArray


class CodeArray:
    """Codes by row, whose rows are found by their codes. Immutable.

    Args:
        codes (`np.ndarray`): `[items, levels]`, integers; copied.
        level_sizes (`Sequence[int]`): sizes of the levels.

    Raises:
        ValueError: on another shape or what is no integer.
    """

    def __init__(self, codes: np.ndarray, level_sizes: Sequence[int]) -> None:
        if codes.ndim != 2 or codes.shape[1] != len(level_sizes) or codes.size == 0:
            raise ValueError(
                f"codes have shape {codes.shape} for {len(level_sizes)} level sizes: pass [items, levels] with one "
                "size a level and at least one item"
            )
        if not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"codes are {codes.dtype}: rounding would change items' SIDs, pass integer codes")
        self.codes = codes.astype(np.int64, order="C")
        self.codes.setflags(write=False)
        self.level_sizes = tuple(int(size) for size in level_sizes)
        self._index = HashIndex(len(codes), partial(_hashes, self.codes))

    def outside(self) -> tuple[int, int] | None:
        """Row and level of the first code that its level does not hold; `None` where there is none."""
        # As unsigned numbers, negative ones are larger than any size.
        outside = self.codes.view(np.uint64) >= np.maximum(self.level_sizes, 0).astype(np.uint64)
        if not outside.any():
            return None
        row, level = divmod(int(np.argmax(outside)), self.codes.shape[1])
        return row, level

    def rows(self, codes: np.ndarray) -> np.ndarray:
        """Rows `[n]` of SIDs `[n, levels]`, int64, the first of those that share one; `-1` where there is none.

        Raises:
            ValueError: on another shape, or what is no integer.
        """
        if codes.ndim != 2 or codes.shape[1] != self.codes.shape[1] or not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(
                f"got codes of shape {codes.shape} and dtype {codes.dtype}: pass whole numbers "
                f"[n, {self.codes.shape[1]}], one code a level"
            )
        return self._index.find(
            hash_codes(codes), lambda rows, numbers: (self.codes[rows] == codes[numbers]).all(axis=1)
        )

    def refuse_repeats(self, item_ids: IdArray) -> None:
        """Raise, naming two of these items, when two rows have the same SID."""
        later, earlier = self.repeats()
        if len(later):
            first, second = item_ids.at(np.array([earlier[0], later[0]]))
            raise ValueError(
                f"items {first!r} and {second!r} share the semantic id {tuple(self.codes[later[0]].tolist())!r} "
                f"({len(later)} repeats in all): a recommendation could not be told apart; resolve collisions first "
                "(resolve_collisions)"
            )

    def repeats(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows `[n]` whose SID a row before has too, in order, and the last such row before each `[n]`."""
        return self._index.repeats(lambda rows, others: (self.codes[rows] == self.codes[others]).all(axis=1))


def _hashes(codes: np.ndarray, first: int, stop: int) -> np.ndarray:
    return hash_codes(codes[first:stop])
