"""Renders tables and values with intervals in Markdown, for the reports and the model card."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

_NUMBER = re.compile(r"[-+.]?\d")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    r"""Render a table; columns in which all cells begin with a number are aligned right.

    Args:
        header (`Sequence[str]`): `[columns]`, names of the columns.
        rows (`Iterable[Sequence[Any]]`): `[rows, columns]`, cells; `None` is an empty cell, and `|` is escaped.

    Returns:
        `str`: the lines of the table, without a newline at the end.

    Example:
        >>> print(markdown_table(["system", "recall"], [["ours", 0.5], ["a|b", None]]))
        | system | recall |
        | --- | ---: |
        | ours | 0.5 |
        | a\|b |  |
    """
    table = [list(row) for row in rows]
    columns = ([cell for cell in column if cell not in (None, "")] for column in zip(*table, strict=True))
    alignments = ["---:" if all(_NUMBER.match(str(cell)) for cell in column) else "---" for column in columns]
    return "\n".join(map(markdown_row, [header, alignments or ["---"] * len(header), *table]))


def markdown_row(cells: Sequence[Any]) -> str:
    """Render one line of a table.

    Args:
        cells (`Sequence[Any]`): `[columns]`; `None` is an empty cell, and `|` is escaped.

    Returns:
        `str`: the line, without a newline.
    """
    texts = ("" if cell is None else re.sub(r"(?<!\\)\|", r"\\|", str(cell)) for cell in cells)
    return f"| {' | '.join(texts)} |"


def with_interval(value: float, low: float, high: float, *, form: str = ".4f") -> str:
    """Format a value and its interval for a table.

    Args:
        value (`float`): the value.
        low (`float`): lower end of the interval.
        high (`float`): upper end of the interval.
        form (`str`, defaults to `".4f"`): format of all three.

    Returns:
        `str`: such as `"0.1234 [0.1100, 0.1300]"`.
    """
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
