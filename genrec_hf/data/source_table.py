"""Defines the table of one source file under the column names of genrec_hf, with its own names for errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

EVENT_FIELDS = ("user_id", "item_id", "timestamp", "rating")
# Texts that users wrote about an item.
REVIEW_FIELDS = ("review", "headline")
TEXT_FIELDS = ("title", "year", "categories", "brand", "description")

# Name of a file, its table, and whether it is delimited text.
SourceFile = tuple[str, pd.DataFrame, bool]


@dataclass(frozen=True)
class SourceTable:
    """Rows of one file, under the column names of genrec_hf.

    Args:
        file (`str`): name of the file, for errors.
        rows (`pd.DataFrame`): the columns that genrec_hf uses; the index holds row numbers from 0.
        names (`dict[str, str]`): for each column of `rows`, its name in the file.
        file_columns (`list[str]`): names of all columns of the file.
        delimited (`bool`, defaults to `False`): the file is delimited text, where spaces around ids are removed.
    """

    file: str
    rows: pd.DataFrame
    names: dict[str, str]
    file_columns: list[str]
    delimited: bool = False


def source_table(
    file: str,
    table: pd.DataFrame,
    fields: Sequence[str],
    *,
    columns: Mapping[str, str],
    default_item_id: bool = False,
    delimited: bool = False,
) -> SourceTable:
    """Select the columns of a table that genrec_hf uses, under their names in genrec_hf.

    Args:
        file (`str`): name of the file, for errors.
        table (`pd.DataFrame`): table of the file.
        fields (`Sequence[str]`): column names of genrec_hf to select.
        columns (`Mapping[str, str]`): for names that differ, the name in genrec_hf and the name in `table`.
        default_item_id (`bool`, defaults to `False`): if the column that `columns` names for `item_id` is missing, use
            the column `item_id`.
        delimited (`bool`, defaults to `False`): see `SourceTable`.

    Returns:
        `SourceTable`: with those of `fields` that the table has.

    Raises:
        ValueError: a column named in `columns` is missing, or a column is in the table twice.

    Example:
        >>> table = pd.DataFrame({"reviewer": ["u"], "asin": ["B1"], "votes": [3]})
        >>> source_table("log.csv", table, EVENT_FIELDS, columns={"user_id": "reviewer", "item_id": "asin"}).names
        {'user_id': 'reviewer', 'item_id': 'asin'}
    """
    names = {}
    for name in fields:
        column = columns.get(name, name)
        if default_item_id and name == "item_id" and column not in table:
            column = name
        if list(table).count(column) > 1:
            raise ValueError(f"{file} has two columns that are called {column!r}: rename or remove one")
        if column in table:
            names[name] = column
        elif name in columns:
            raise ValueError(
                f"{file} has no column {column!r}, it has {list(table)}: correct columns ({name}={column})"
            )
    rows = pd.DataFrame({name: table[column] for name, column in names.items()}, index=table.index)
    return SourceTable(file, rows, names, [str(column) for column in table], delimited)


def two_source_tables(
    events: SourceFile,
    items: SourceFile,
    columns: Mapping[str, str],
    *,
    item_columns: Mapping[str, str],
    event_fields: Sequence[str],
) -> tuple[SourceTable, SourceTable]:
    """Select the columns of interactions and items from two files that may have different names for the item id.

    Args:
        events (`tuple[str, pd.DataFrame, bool]`): name of the file of interactions, its table, and whether it is
            delimited text.
        items (`tuple[str, pd.DataFrame, bool]`): the same of the file of items.
        columns (`Mapping[str, str]`): column names of genrec_hf and the names in the files. Entries of texts apply to
            the items. The entry of `item_id` applies to each file that has the column; a file without it must have
            `item_id`.
        item_columns (`Mapping[str, str]`): the same for the items only; takes precedence over `columns`.
        event_fields (`Sequence[str]`): column names of genrec_hf to select from the interactions.

    Returns:
        `tuple[SourceTable, SourceTable]`: interactions and items.

    Raises:
        ValueError: a column named by the user is missing, or a column is in a table twice.
    """
    shared = "item_id" in columns and "item_id" not in item_columns
    if shared and columns["item_id"] not in events[1] and columns["item_id"] not in items[1]:
        raise ValueError(
            f"neither {events[0]} nor {items[0]} has a column {columns['item_id']!r}, they have {list(events[1])} and "
            f"{list(items[1])}: correct columns (item_id={columns['item_id']})"
        )
    item_fields = ("item_id", *TEXT_FIELDS)
    event_names = {name: column for name, column in columns.items() if name in event_fields}
    item_names = {**{name: column for name, column in columns.items() if name in item_fields}, **item_columns}
    return (
        source_table(
            events[0], events[1], event_fields, columns=event_names, default_item_id=shared, delimited=events[2]
        ),
        source_table(items[0], items[1], item_fields, columns=item_names, default_item_id=shared, delimited=items[2]),
    )
