"""Text files, plain or gzipped: their encoding is detected and stated, and what cannot be read is refused by name."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

GZIP = b"\x1f\x8b"
# UTF-32 stands first, as its mark begins with that of UTF-16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


@contextmanager
def open_text(
    file: Path, *, encoding: str | None = None, otherwise: str = "cp1252", notes: list[str] | None = None
) -> Iterator[TextIO]:
    """Open a text file for reading, compressed by gzip or not, whatever its name says.

    The encoding is that of the byte order mark (UTF-8, UTF-16, UTF-32); without one UTF-8 where the whole file is
    valid UTF-8, else `otherwise`. A file that begins as UTF-8 and has broken characters later is refused.

    Args:
        file (`Path`): the file.
        encoding (`str`, *optional*): read it as this, and detect nothing.
        otherwise (`str`, defaults to `"cp1252"`): the encoding of a file that is not UTF-8.
        notes (`list[str]`, *optional*): a sentence is appended where the encoding is not UTF-8.

    Yields:
        `TextIO`: line ends are kept as they are.

    Raises:
        ValueError: the file is binary, is not in that encoding, is a gzip file cut short, or is compressed twice.
    """
    try:
        if encoding is not None:
            encoding = _known_encoding(encoding)
        else:
            encoding = _detect(file, otherwise)
            if not encoding.startswith("utf-8") and notes is not None:
                notes.append(f"{file.name} is not UTF-8 and was read as {encoding}; `encoding` names another one")
        with _open_bytes(file) as raw, io.TextIOWrapper(raw, encoding=encoding, newline="") as text:
            yield text
    except UnicodeError as error:
        raise ValueError(f"{file.name} cannot be read as {encoding} ({error}): give its own `encoding`") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{file.name} is a damaged gzip file ({error}): copy or download it again") from error


def first_line(file: Path) -> str:
    """Read the first line, to tell what a file holds.

    Args:
        file (`Path`): the file.

    Returns:
        `str`: without a byte order mark; characters that are not UTF-8 are replaced; `""` where nothing can be read.
    """
    try:
        with _open_bytes(file) as raw:
            mark = next((mark for mark in BYTE_ORDER_MARKS if raw.peek(4).startswith(mark)), b"")
            text = io.TextIOWrapper(raw, encoding=BYTE_ORDER_MARKS.get(mark, "utf-8"), errors="replace")
            return text.readline()
    except (ValueError, OSError, EOFError, zlib.error):
        return ""


def _known_encoding(name: str) -> str:
    try:
        "".encode(name)
    except LookupError as error:
        raise ValueError(f"got encoding={name!r}, which Python does not know; use one such as 'cp1252'") from error
    # A byte order mark is no part of the text.
    return "utf-8-sig" if codecs.lookup(name).name == "utf-8" else name


@contextmanager
def _open_bytes(file: Path) -> Iterator[Any]:
    with file.open("rb") as plain:
        if not plain.peek(2).startswith(GZIP):
            yield plain
            return
        with gzip.open(plain, "rb") as packed, io.BufferedReader(cast(io.RawIOBase, packed)) as unpacked:
            if unpacked.peek(2).startswith(GZIP):
                raise ValueError(f"{file.name} is compressed by gzip twice: decompress it once")
            yield unpacked


def _detect(file: Path, otherwise: str) -> str:
    with _open_bytes(file) as raw:
        head = raw.peek(4)
        for mark, encoding in BYTE_ORDER_MARKS.items():
            if head.startswith(mark):
                return encoding
        decoder = codecs.getincrementaldecoder("utf-8")()
        ascii_so_far, done = True, False
        while not done:
            chunk = raw.read(1 << 20)
            done = not chunk
            if b"\0" in chunk:
                raise ValueError(f"{file.name} is binary, or UTF-16 without a byte order mark: give its `encoding`")
            try:
                ascii_so_far &= decoder.decode(chunk, final=done).isascii()
            except UnicodeDecodeError as error:
                if not ascii_so_far or not error.object[: error.start].isascii():
                    raise ValueError(
                        f"{file.name} is UTF-8 with broken characters, such as {error.object[error.start :][:4]!r} "
                        f"after {error.object[: error.start][-20:].decode(errors='replace')!r}: repair it, or give "
                        "its `encoding`"
                    ) from error
                return otherwise
    return "utf-8"
