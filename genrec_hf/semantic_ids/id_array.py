"""`IdArray`: the outside ids of a catalogue as one Arrow array, without a Python string an item."""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec_hf.semantic_ids.hash_index import HashIndex, buffers, hash_texts
from genrec_hf.semantic_ids.item_ids import read_ids, read_list

# Ids that are written as JSON at once.
CHUNK = 1 << 16
# Bytes that JSON shows as they are, between quotes.
_PLAIN = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
_BETWEEN = pa.scalar('", "', pa.large_string())


class IdArray:
    """Outside ids by row, found both ways. Immutable.

    Args:
        texts (`pa.LargeStringArray`): ids that `read_ids` takes; that no two are alike is `refuse_repeats`'s to check.
    """

    def __init__(self, texts: pa.LargeStringArray) -> None:
        self._texts = texts
        self._index = HashIndex(len(texts), partial(_hashes, texts))
        self._checked = False

    @classmethod
    def read(cls, item_ids: "Iterable[str] | IdArray", name: str = "item_ids", ordered: bool = True) -> "IdArray":
        """The ids that a caller gave, in their order, without a step of Python for each; as `read_ids` otherwise.

        Raises:
            ValueError: as `read_ids`.
        """
        if isinstance(item_ids, IdArray):
            return item_ids
        ids = read_list(item_ids, name, "item ids", ordered=ordered)
        texts = _texts(ids)
        if texts is None or pc.any(pc.or_(pc.equal(pc.binary_length(texts), 0), pc.utf8_is_space(texts))).as_py():
            texts = pa.array(read_ids(ids, name), pa.large_string())  # names the id that is none
        return cls(texts)

    @classmethod
    def from_tensors(cls, content: np.ndarray, offsets: np.ndarray) -> "IdArray":
        """The array that `tensors` gave, nothing copied.

        Raises:
            ValueError: when the two make no texts.
        """
        kinds = [(array.dtype, array.ndim) for array in (content, offsets)]
        if kinds != [(np.uint8, 1), (np.int64, 1)] or len(offsets) == 0:
            raise ValueError(f"no bytes and offsets, but {content.dtype} and {offsets.dtype} {offsets.shape}")
        parts = [None, pa.py_buffer(offsets), pa.py_buffer(content)]
        texts = pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, parts)
        texts.validate(full=True)
        return cls(texts)

    def tensors(self) -> tuple[np.ndarray, np.ndarray]:
        """UTF-8 bytes of all ids, uint8, and where each begins and the last ends, int64 `[items + 1]`."""
        offsets, content = buffers(self._texts)
        return content[offsets[0] : offsets[-1]], offsets - offsets[0]

    def __len__(self) -> int:
        return len(self._texts)

    def __add__(self, other: "IdArray") -> "IdArray":
        return IdArray(pa.concat_arrays([self._texts, other._texts]))

    def take(self, rows: np.ndarray) -> "IdArray":
        """The ids of some rows `[n]`."""
        return IdArray(self._texts.take(pa.array(rows)))

    def tolist(self) -> list[str]:
        """Each id as a Python string."""
        return self._texts.to_pylist()

    def at(self, rows: np.ndarray) -> list[str]:
        """The ids of some rows `[n]`, as Python strings.

        Raises:
            ValueError: on what is no list of rows.
        """
        if rows.size == 0:
            return []
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise ValueError(f"got rows of shape {rows.shape} and dtype {rows.dtype}: pass whole numbers [n]")
        if not 0 <= rows.min() <= rows.max() < len(self):
            raise ValueError(
                f"got rows {rows.min()} to {rows.max()} for {len(self)} items, which name no item: pass 0 to "
                f"{len(self) - 1}, without padding"
            )
        return self.take(rows).tolist()

    def equals(self, item_ids: Sequence[str]) -> bool:
        """Whether these are, row by row, the ids."""
        if len(item_ids) != len(self):
            return False
        texts = _texts(list(item_ids))
        return texts is not None and bool(self._texts.equals(texts))

    def rows(self, item_ids: "IdArray") -> np.ndarray:
        """Rows of other ids `[n]`, which may repeat, int64; `-1` for those that are not here.

        Raises:
            ValueError: when two rows have the same id.
        """
        self.refuse_repeats()
        wanted = item_ids._texts
        return self._index.find(hash_texts(wanted), lambda rows, numbers: _same(self._texts, rows, wanted, numbers))

    def refuse_repeats(self) -> None:
        """Raise when two rows have the same id; looked for once."""
        if self._checked:
            return
        later, earlier = self._index.repeats(lambda rows, others: _same(self._texts, rows, self._texts, others))
        if len(later):
            raise ValueError(
                f"rows {earlier[0]} and {later[0]} share the item id {self._texts[int(later[0])].as_py()!r} "
                f"({len(later)} repeats in all): a recommendation could not be told apart; drop duplicate items"
            )
        self._checked = True

    def json(self) -> Iterator[bytes]:
        """Parts of what `json.dumps` makes of the list of ids."""
        for first in range(0, len(self), CHUNK):
            part = self._texts.slice(first, CHUNK)
            yield b", " if first else b"["
            offsets, content = buffers(part)
            if content[offsets[0] : offsets[-1]].tobytes().translate(None, _PLAIN):
                yield json.dumps(part.to_pylist())[1:-1].encode()
            else:
                one = pa.ListArray.from_arrays(pa.array([0, len(part)], pa.int32()), part)
                yield b'"' + pc.binary_join(one, _BETWEEN)[0].as_buffer().to_pybytes() + b'"'
        yield b"]"


def _hashes(texts: pa.LargeStringArray, first: int, stop: int) -> np.ndarray:
    return hash_texts(texts.slice(first, stop - first))


def _texts(ids: list[Any]) -> pa.LargeStringArray | None:
    """An array of texts; `None` where some are none, or none that a file can hold."""
    if not set(map(type, ids)) <= {str, np.str_}:
        return None
    try:
        return pa.array(ids, pa.large_string())
    except UnicodeEncodeError:  # half of a surrogate pair
        return None


def _same(
    texts: pa.LargeStringArray, rows: np.ndarray, others: pa.LargeStringArray, numbers: np.ndarray
) -> np.ndarray:
    equal = pc.equal(texts.take(pa.array(rows)), others.take(pa.array(numbers)))
    return equal.to_numpy(zero_copy_only=False)
