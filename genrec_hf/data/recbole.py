"""Reads the atomic files of RecBole: tab-separated text whose first line has the columns and their types."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from genrec_hf.data.source_table import TEXT_FIELDS, SourceTable, source_table, two_source_tables
from genrec_hf.data.tables import read_delimited

# Names of text columns in the atomic files of different data sets, and the names of genrec_hf.
RECBOLE_NAMES = {
    "movie_title": "title",
    "release_year": "year",
    "class": "categories",
    "genre": "categories",
    "genres": "categories",
}


def find_recbole_files(path: Path) -> tuple[Path, Path | None] | None:
    """Find the atomic files of interactions and items.

    Args:
        path (`Path`): a folder with one `.inter` file and perhaps one `.item` file, or an `.inter` file, whose items
            are in the `.item` file of the same name.

    Returns:
        `tuple` or `None`: the `.inter` file, and the `.item` file or `None`; `None` if there are no atomic files.

    Raises:
        ValueError: a folder has several `.inter` files or several `.item` files.
    """
    if path.suffix == ".inter" and path.is_file():
        items = path.with_suffix(".item")
        return path, items if items.is_file() else None
    if not path.is_dir() or not (event_files := sorted(path.glob("*.inter"))):
        return None
    item_files = sorted(path.glob("*.item"))
    if len(event_files) > 1 or len(item_files) > 1:
        names = [file.name for file in event_files + item_files]
        raise ValueError(
            f"got several files in {path.name}, {names}: it is unclear which belong together; keep one .inter file "
            "and one .item file"
        )
    return event_files[0], item_files[0] if item_files else None


def read_recbole(
    events: Path,
    items: Path | None,
    columns: Mapping[str, str],
    *,
    item_columns: Mapping[str, str],
    event_fields: Sequence[str],
    encoding: str | None = None,
    notes: list[str],
) -> tuple[SourceTable, SourceTable | None]:
    """Read the atomic files of a data set.

    Args:
        events (`Path`): the `.inter` file.
        items (`Path`, *optional*): the `.item` file.
        columns (`Mapping[str, str]`): column names of genrec_hf and the names in the files, without types. Entries of
            texts apply to the `.item` file, the entry of `item_id` to each file that has the column.
        item_columns (`Mapping[str, str]`): the same for the `.item` file only.
        event_fields (`Sequence[str]`): column names of genrec_hf to read from the `.inter` file.
        encoding (`str`, *optional*): as in `open_text`.
        notes (`list[str]`): as in `open_text`.

    Returns:
        `tuple`: interactions, and items or `None` if there is no `.item` file; rows in file order.

    Raises:
        ValueError: a file is damaged, a column named by the user is missing, or item columns are named and there is no
            `.item` file.
    """
    event_file = events.name, _read_atomic(events, encoding, notes), True
    if items is None:
        if unused := [*item_columns, *(name for name in columns if name in TEXT_FIELDS)]:
            raise ValueError(
                f"got columns for {unused}, and {events.name} has no .item file next to it: add that file"
            )
        return source_table(event_file[0], event_file[1], event_fields, columns=columns, delimited=True), None
    item_table = _read_atomic(items, encoding, notes)
    known_columns = {
        name: column
        for column, name in RECBOLE_NAMES.items()
        if column in item_table and name not in item_table and name not in columns
    }
    tables = two_source_tables(
        event_file,
        (items.name, item_table, True),
        columns,
        item_columns={**known_columns, **item_columns},
        event_fields=event_fields,
    )
    # By definition spaces separate the tokens of a `token_seq`, but many published files have ", " in the field.
    rows = tables[1].rows
    if "categories" in rows and not rows["categories"].str.contains(",").any():
        rows["categories"] = rows["categories"].str.split().str.join(", ")
    return tables


def _read_atomic(file: Path, encoding: str | None, notes: list[str]) -> pd.DataFrame:
    table = read_delimited(file, "\t", quoted=False, encoding=encoding, notes=notes)
    return table.rename(columns=lambda name: name.split(":")[0])
