"""Tables in Markdown, for every report and the model card."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

_FIGURE = re.compile(r"[-+.]?\d")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    r"""Render a table; columns whose cells all begin with a figure are aligned right.

    Args:
        header (`Sequence[str]`): names of the columns.
        rows (`Iterable[Sequence[Any]]`): cells `[rows, columns]`; `None` is an empty cell, and a `|` is escaped.

    Returns:
        `str`: lines without a newline at the end.

    Example:
        >>> print(markdown_table(["system", "recall"], [["ours", 0.5], ["a|b", None]]))
        | system | recall |
        | --- | ---: |
        | ours | 0.5 |
        | a\|b |  |
    """
    table = [list(row) for row in rows]
    columns = ([cell for cell in column if cell not in (None, "")] for column in zip(*table, strict=True))
    rules = ["---:" if all(_FIGURE.match(str(cell)) for cell in column) else "---" for column in columns]
    return "\n".join(map(markdown_row, [header, rules or ["---"] * len(header), *table]))


def markdown_row(cells: Sequence[Any]) -> str:
    """Render one line of a table."""
    texts = ("" if cell is None else re.sub(r"(?<!\\)\|", r"\\|", str(cell)) for cell in cells)
    return f"| {' | '.join(texts)} |"
