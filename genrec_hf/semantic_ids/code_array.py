"""`CodeArray`: the codes of a catalogue, with an index from SIDs to rows."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from genrec_hf.semantic_ids.hash_index import HashIndex, hash_codes
from genrec_hf.semantic_ids.id_array import IdArray


class CodeArray:
    """Codes `[items, levels]` with an index from SIDs to rows. Immutable.

    Args:
        codes (`np.ndarray`): `[items, levels]`, integers; copied.
        level_sizes (`Sequence[int]`): sizes of the levels.

    Raises:
        ValueError: on another shape, no item, or codes that are not integers.
    """

    def __init__(self, codes: np.ndarray, level_sizes: Sequence[int]) -> None:
        if codes.ndim != 2 or codes.shape[1] != len(level_sizes) or codes.size == 0:
            raise ValueError(
                f"got codes of shape {codes.shape} for {len(level_sizes)} level sizes: pass codes [items, levels] "
                "with at least one item, and one size per level"
            )
        if not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"got codes of dtype {codes.dtype}: pass integer codes")
        self.codes = codes.astype(np.int64, order="C")
        self.codes.setflags(write=False)
        self.level_sizes = tuple(int(size) for size in level_sizes)
        self._index = HashIndex(len(codes), partial(_hash_rows, self.codes))

    def find_out_of_range(self) -> tuple[int, int] | None:
        """Return row and level of the first code below 0 or not below its level size; `None` if there is none."""
        # As unsigned integers, negative ones are larger than any size.
        out_of_range = self.codes.view(np.uint64) >= np.maximum(self.level_sizes, 0).astype(np.uint64)
        if not out_of_range.any():
            return None
        row, level = divmod(int(np.argmax(out_of_range)), self.codes.shape[1])
        return row, level

    def rows(self, codes: np.ndarray) -> np.ndarray:
        """Look up the rows of SIDs.

        Args:
            codes (`np.ndarray`): `[n, levels]`, integers.

        Returns:
            `np.ndarray`: `[n]`, int64; the first of several rows with the same SID, `-1` for a SID that no row has.

        Raises:
            ValueError: on another shape, or codes that are not integers.
        """
        if codes.ndim != 2 or codes.shape[1] != self.codes.shape[1] or not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(
                f"got codes of shape {codes.shape} and dtype {codes.dtype}: pass integers [n, {self.codes.shape[1]}], "
                "one code per level"
            )
        return self._index.find(
            hash_codes(codes), lambda rows, numbers: (self.codes[rows] == codes[numbers]).all(axis=1)
        )

    def refuse_repeats(self, item_ids: IdArray) -> None:
        """Raise when two rows have the same SID.

        Args:
            item_ids (`IdArray`): outside ids in row order, for the message.

        Raises:
            ValueError: naming two items with the same SID.
        """
        later, earlier = self.find_repeats()
        if len(later):
            first, second = item_ids.to_strings(np.array([earlier[0], later[0]]))
            raise ValueError(
                f"items {first!r} and {second!r} share the semantic id {tuple(self.codes[later[0]].tolist())!r} "
                f"({len(later)} repeats in all), which then identifies neither: make SIDs unique with "
                "resolve_collisions, or pass shared=True to allow it"
            )

    def find_repeats(self) -> tuple[np.ndarray, np.ndarray]:
        """Find rows with the SID of an earlier row.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: rows `[n]` in ascending order, and for each the last earlier row `[n]`
            with the same SID.
        """
        return self._index.find_repeats(lambda rows, earlier: (self.codes[rows] == self.codes[earlier]).all(axis=1))


def _hash_rows(codes: np.ndarray, first: int, stop: int) -> np.ndarray:
    return hash_codes(codes[first:stop])
