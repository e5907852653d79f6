"""Reads records from JSON lines, lines of Python literals, or a JSON array."""

import ast
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genrec_hf.data.text_files import first_line, open_text


def json_records(
    file: Path, *, encoding: str | None = None, notes: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Read the records of a file one by one: JSON lines, Python literals or a JSON array, plain or gzipped.

    Args:
        file (`Path`): the file.
        encoding (`str`, *optional*): as in `open_text`.
        notes (`list[str]`, *optional*): as in `open_text`.

    Yields:
        `dict`: one record.

    Raises:
        ValueError: a line is neither a JSON object nor a Python dictionary, or the file is not text; the error names
            file and line.
    """
    with open_text(file, encoding=encoding, notes=notes) as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1 and line.lstrip().startswith("["):
                yield from _array(line + lines.read(), file)
                return
            if not line.strip():
                continue
            record = _record(line)
            if record is None:
                raise ValueError(
                    f"line {number} of {file.name} is not a JSON object, or is truncated: {line.strip()[:60]!r}; "
                    "repair or remove that line"
                )
            yield record


def first_keys(file: Path) -> set[str]:
    """Return the keys of the first record of a JSON-lines file.

    Args:
        file (`Path`): the file.

    Returns:
        `set[str]`: keys; empty if the first line is not a record.
    """
    return set(_record(first_line(file)) or {})


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = _python_literal(line)
    return record if isinstance(record, dict) else None


def _python_literal(line: str) -> object:
    # Amazon's metadata of 2014 are Python literals. `literal_eval` parses them and runs no code.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escape sequences, which are kept as they are
        try:
            return ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None


def _array(text: str, file: Path) -> Iterator[dict[str, Any]]:
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file.name} is not a complete JSON array ({error}): repair it, or write JSON lines"
        ) from error
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise ValueError(
                f"record {number} of {file.name} is not a JSON object: {str(record)[:60]!r}; repair or remove it"
            )
        yield record
