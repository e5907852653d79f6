"""`IdArray`: the outside ids of a catalogue as one Arrow array, without a Python string per item."""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec_hf.semantic_ids.hash_index import HashIndex, hash_texts, text_buffers
from genrec_hf.semantic_ids.item_ids import read_ids, read_list

# Ids that are written as JSON at once.
CHUNK = 1 << 16
# Bytes that JSON does not escape.
_UNESCAPED = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
_SEPARATOR = pa.scalar('", "', pa.large_string())


class IdArray:
    """Outside ids in row order, with an index from ids to rows. Immutable.

    Args:
        texts (`pa.LargeStringArray`): ids that `read_ids` accepts; `refuse_repeats` checks that they are unique.
    """

    def __init__(self, texts: pa.LargeStringArray) -> None:
        self._texts = texts
        self._index = HashIndex(len(texts), partial(_hash_rows, texts))
        self._unique = False

    @classmethod
    def read(cls, item_ids: "Iterable[str] | IdArray", name: str = "item_ids", ordered: bool = True) -> "IdArray":
        """Read the ids that a caller passed, as `read_ids` does, but without a Python operation per id.

        Args:
            item_ids (`Iterable[str]` or `IdArray`): ids; an `IdArray` is returned as it is.
            name (`str`, defaults to `"item_ids"`): name of the argument in errors.
            ordered (`bool`, defaults to `True`): refuse a set, because the order matters.

        Returns:
            `IdArray`: the ids in their order.

        Raises:
            ValueError: as `read_ids`.
        """
        if isinstance(item_ids, IdArray):
            return item_ids
        ids = read_list(item_ids, name, "item ids", ordered=ordered)
        texts = _to_text_array(ids)
        if texts is None or pc.any(pc.or_(pc.equal(pc.binary_length(texts), 0), pc.utf8_is_space(texts))).as_py():
            texts = pa.array(read_ids(ids, name), pa.large_string())  # raises, naming the invalid id
        return cls(texts)

    @classmethod
    def from_tensors(cls, content: np.ndarray, offsets: np.ndarray) -> "IdArray":
        """Create an `IdArray` from the arrays that `tensors` returns, without copying them.

        Args:
            content (`np.ndarray`): UTF-8 bytes of all ids, uint8.
            offsets (`np.ndarray`): `[items + 1]`, int64, where each id begins, and where the last ends.

        Returns:
            `IdArray`: of `items` ids.

        Raises:
            ValueError: when the arrays have another type or do not hold valid texts.
        """
        types = [(array.dtype, array.ndim) for array in (content, offsets)]
        if types != [(np.uint8, 1), (np.int64, 1)] or len(offsets) == 0:
            raise ValueError(
                f"got bytes of dtype {content.dtype} and offsets of dtype {offsets.dtype} and shape {offsets.shape}: "
                "pass uint8 [bytes] and int64 [items + 1]"
            )
        parts = [None, pa.py_buffer(offsets), pa.py_buffer(content)]
        texts = pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, parts)
        texts.validate(full=True)
        return cls(texts)

    def tensors(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids as arrays that can be saved.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: UTF-8 bytes of all ids, uint8, and where each begins and the last ends,
            int64 `[items + 1]`.
        """
        offsets, content = text_buffers(self._texts)
        return content[offsets[0] : offsets[-1]], offsets - offsets[0]

    def __len__(self) -> int:
        return len(self._texts)

    def __add__(self, other: "IdArray") -> "IdArray":
        return IdArray(pa.concat_arrays([self._texts, other._texts]))

    def take(self, rows: np.ndarray) -> "IdArray":
        """Return the ids of rows as an `IdArray`.

        Args:
            rows (`np.ndarray`): `[n]`, integers in range.

        Returns:
            `IdArray`: of `n` ids.
        """
        return IdArray(self._texts.take(pa.array(rows)))

    def tolist(self) -> list[str]:
        """Return all ids as Python strings."""
        return self._texts.to_pylist()

    def to_strings(self, rows: np.ndarray) -> list[str]:
        """Return the ids of rows as Python strings.

        Args:
            rows (`np.ndarray`): `[n]`, integers from 0 to `items - 1`.

        Returns:
            `list[str]`: `n` ids.

        Raises:
            ValueError: on another shape or dtype, or on a row that does not exist.
        """
        if rows.size == 0:
            return []
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise ValueError(f"got rows of shape {rows.shape} and dtype {rows.dtype}: pass integers [n]")
        if not 0 <= rows.min() <= rows.max() < len(self):
            raise ValueError(
                f"got rows {rows.min()} to {rows.max()} for {len(self)} items: pass rows from 0 to {len(self) - 1}, "
                "without padding"
            )
        return self.take(rows).tolist()

    def equals(self, item_ids: Sequence[str]) -> bool:
        """Return whether other ids are the same in the same order.

        Args:
            item_ids (`Sequence[str]`): `[n]`.

        Returns:
            `bool`: `False` also where they are not text.
        """
        if len(item_ids) != len(self):
            return False
        texts = _to_text_array(list(item_ids))
        return texts is not None and bool(self._texts.equals(texts))

    def rows(self, item_ids: "IdArray") -> np.ndarray:
        """Look up the rows of ids.

        Args:
            item_ids (`IdArray`): `n` ids, which may repeat.

        Returns:
            `np.ndarray`: rows `[n]`, int64; `-1` for an id that no row has.

        Raises:
            ValueError: when two rows have the same id.
        """
        self.refuse_repeats()
        queries = item_ids._texts
        return self._index.find(
            hash_texts(queries), lambda rows, numbers: _compare_texts(self._texts, rows, queries, numbers)
        )

    def refuse_repeats(self) -> None:
        """Raise when two rows have the same id; the result of the search is kept.

        Raises:
            ValueError: naming two rows with the same id.
        """
        if self._unique:
            return
        later, earlier = self._index.find_repeats(
            lambda rows, other_rows: _compare_texts(self._texts, rows, self._texts, other_rows)
        )
        if len(later):
            raise ValueError(
                f"rows {earlier[0]} and {later[0]} share the item id {self._texts[int(later[0])].as_py()!r} "
                f"({len(later)} repeats in all), which then identifies neither: drop duplicate items"
            )
        self._unique = True

    def json(self) -> Iterator[bytes]:
        """Yield the parts of the text that `json.dumps` returns for the list of ids."""
        for first in range(0, len(self), CHUNK):
            part = self._texts.slice(first, CHUNK)
            yield b", " if first else b"["
            offsets, content = text_buffers(part)
            if content[offsets[0] : offsets[-1]].tobytes().translate(None, _UNESCAPED):
                yield json.dumps(part.to_pylist())[1:-1].encode()
            else:
                one_list = pa.ListArray.from_arrays(pa.array([0, len(part)], pa.int32()), part)
                yield b'"' + pc.binary_join(one_list, _SEPARATOR)[0].as_buffer().to_pybytes() + b'"'
        yield b"]"


def _hash_rows(texts: pa.LargeStringArray, first: int, stop: int) -> np.ndarray:
    return hash_texts(texts.slice(first, stop - first))


def _to_text_array(ids: list[Any]) -> pa.LargeStringArray | None:
    """Convert ids to an array of texts; return `None` if one is not text, or not valid Unicode."""
    if not set(map(type, ids)) <= {str, np.str_}:
        return None
    try:
        return pa.array(ids, pa.large_string())
    except UnicodeEncodeError:  # half of a surrogate pair
        return None


def _compare_texts(
    texts: pa.LargeStringArray, rows: np.ndarray, other_texts: pa.LargeStringArray, other_rows: np.ndarray
) -> np.ndarray:
    equal = pc.equal(texts.take(pa.array(rows)), other_texts.take(pa.array(other_rows)))
    return equal.to_numpy(zero_copy_only=False)
