"""The rows of one file under our names, beside its own names, which errors speak of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

EVENT_FIELDS = ("user_id", "item_id", "timestamp", "rating")
# What users wrote of an item.
REVIEW_FIELDS = ("review", "headline")
TEXT_FIELDS = ("title", "year", "categories", "brand", "description")

# Name of a file, its table, and whether it is delimited text.
SourceFile = tuple[str, pd.DataFrame, bool]


@dataclass(frozen=True)
class SourceTable:
    """Rows of one file, under our names.

    Args:
        file (`str`): name of the file, for errors.
        rows (`pd.DataFrame`): columns that mean something here; the index holds row numbers from 0.
        names (`dict[str, str]`): our names to those in the file, of the columns of `rows`.
        own_columns (`list[str]`): all columns of the file, under its own names.
        delimited (`bool`, defaults to `False`): delimited text, in which spaces around an id are no part of it.
    """

    file: str
    rows: pd.DataFrame
    names: dict[str, str]
    own_columns: list[str]
    delimited: bool = False


def source_table(
    file: str,
    table: pd.DataFrame,
    fields: Sequence[str],
    *,
    columns: Mapping[str, str],
    own_item_id: bool = False,
    delimited: bool = False,
) -> SourceTable:
    """Take the columns of a table that mean something here, under our names.

    Args:
        file (`str`): name of the file, for errors.
        table (`pd.DataFrame`): as the source has it.
        fields (`Sequence[str]`): our names of what means something.
        columns (`Mapping[str, str]`): our names to the names in `table`; names that agree need no entry.
        own_item_id (`bool`, defaults to `False`): a table without the column that `columns` names for `item_id` may
            have one that is called `item_id`.
        delimited (`bool`, defaults to `False`): see `SourceTable`.

    Returns:
        `SourceTable`: with those of `fields` that the table has.

    Raises:
        ValueError: a column named in `columns` is missing.

    Example:
        >>> table = pd.DataFrame({"reviewer": ["u"], "asin": ["B1"], "votes": [3]})
        >>> source_table("log.csv", table, EVENT_FIELDS, columns={"user_id": "reviewer", "item_id": "asin"}).names
        {'user_id': 'reviewer', 'item_id': 'asin'}
    """
    names = {}
    for ours in fields:
        theirs = columns.get(ours, ours)
        if own_item_id and ours == "item_id" and theirs not in table:
            theirs = ours
        if list(table).count(theirs) > 1:
            raise ValueError(f"{file} has two columns that are called {theirs!r}: rename or remove one")
        if theirs in table:
            names[ours] = theirs
        elif ours in columns:
            raise ValueError(
                f"{file} has no column {theirs!r}, it has {list(table)}: correct columns ({ours}={theirs})"
            )
    rows = pd.DataFrame({ours: table[theirs] for ours, theirs in names.items()}, index=table.index)
    return SourceTable(file, rows, names, [str(name) for name in table], delimited)


def two_source_tables(
    events: SourceFile,
    items: SourceFile,
    columns: Mapping[str, str],
    *,
    item_columns: Mapping[str, str],
    event_fields: Sequence[str],
) -> tuple[SourceTable, SourceTable]:
    """Take interactions and items from two files that may name the item differently.

    Args:
        events (`tuple[str, pd.DataFrame, bool]`): name of the file, its table, and whether it is delimited text.
        items (`tuple[str, pd.DataFrame, bool]`): likewise.
        columns (`Mapping[str, str]`): our names to theirs. The entry of a text is of the items, and that of `item_id`
            of each file that has the column; the other then calls it `item_id`.
        item_columns (`Mapping[str, str]`): the same for the items alone; its entries come first.
        event_fields (`Sequence[str]`): our names of what is read from the interactions.

    Returns:
        `tuple`: interactions and items.

    Raises:
        ValueError: a column named by the user is missing.
    """
    shared = "item_id" in columns and "item_id" not in item_columns
    if shared and columns["item_id"] not in events[1] and columns["item_id"] not in items[1]:
        raise ValueError(
            f"neither {events[0]} nor {items[0]} has a column {columns['item_id']!r}, they have {list(events[1])} and "
            f"{list(items[1])}: correct columns (item_id={columns['item_id']})"
        )
    item_fields = ("item_id", *TEXT_FIELDS)
    event_names = {ours: theirs for ours, theirs in columns.items() if ours in event_fields}
    item_names = {**{ours: theirs for ours, theirs in columns.items() if ours in item_fields}, **item_columns}
    return (
        source_table(events[0], events[1], event_fields, columns=event_names, own_item_id=shared, delimited=events[2]),
        source_table(items[0], items[1], item_fields, columns=item_names, own_item_id=shared, delimited=items[2]),
    )
