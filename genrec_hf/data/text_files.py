"""Opens text files, plain or gzipped, and detects their encoding."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

GZIP = b"\x1f\x8b"
# UTF-32 comes first, as its mark begins with that of UTF-16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


@contextmanager
def open_text(
    file: Path, *, encoding: str | None = None, fallback_encoding: str = "cp1252", notes: list[str] | None = None
) -> Iterator[TextIO]:
    """Open a text file for reading; a file compressed by gzip is recognized by its content, not by its name.

    The encoding is that of the byte order mark (UTF-8, UTF-16, UTF-32). Without one it is UTF-8 if the whole file is
    valid UTF-8, else `fallback_encoding`. A file that begins as UTF-8 and has invalid characters later is refused.

    Args:
        file (`Path`): the file.
        encoding (`str`, *optional*): encoding of the file; detected by default.
        fallback_encoding (`str`, defaults to `"cp1252"`): encoding of a file that is not UTF-8.
        notes (`list[str]`, *optional*): list to which a sentence is appended if the encoding is not UTF-8.

    Yields:
        `TextIO`: the open file; line ends are not converted.

    Raises:
        ValueError: the file is binary, is not in the encoding, or is a gzip file that is truncated or compressed
            twice; or `encoding` is unknown.
    """
    try:
        if encoding is not None:
            encoding = _known_encoding(encoding)
        else:
            encoding = _detect_encoding(file, fallback_encoding)
            if not encoding.startswith("utf-8") and notes is not None:
                notes.append(f"{file.name} is not UTF-8 and was read as {encoding}; set `encoding` for another one")
        with _open_bytes(file) as raw, io.TextIOWrapper(raw, encoding=encoding, newline="") as text:
            yield text
    except UnicodeError as error:
        raise ValueError(f"{file.name} cannot be read as {encoding} ({error}): set its `encoding`") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{file.name} is a damaged gzip file ({error}): copy or download it again") from error


def first_line(file: Path) -> str:
    """Read the first line of a file, to recognize its format.

    Args:
        file (`Path`): the file, plain or gzipped.

    Returns:
        `str`: the line without a byte order mark; invalid characters are replaced; `""` if the file cannot be read.
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
    # The byte order mark is not part of the text.
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


def _detect_encoding(file: Path, fallback_encoding: str) -> str:
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
                raise ValueError(f"{file.name} is binary, or UTF-16 without a byte order mark: set its `encoding`")
            try:
                ascii_so_far &= decoder.decode(chunk, final=done).isascii()
            except UnicodeDecodeError as error:
                if not ascii_so_far or not error.object[: error.start].isascii():
                    raise ValueError(
                        f"{file.name} is UTF-8 with invalid characters, such as {error.object[error.start :][:4]!r} "
                        f"after {error.object[: error.start][-20:].decode(errors='replace')!r}: repair it, or set its "
                        "`encoding`"
                    ) from error
                return fallback_encoding
    return "utf-8"
