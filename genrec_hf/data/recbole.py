"""RecBole's atomic files: tab-separated text whose first line names columns and their types."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from genrec_hf.data.source_table import TEXT_FIELDS, SourceTable, source_table, two_source_tables
from genrec_hf.data.tables import read_delimited

# RecBole's atomic files name one thing in several ways, by data set.
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
        path (`Path`): a folder with one `.inter` and perhaps one `.item`, or an `.inter` file, whose items stand
            beside it under the same name.

    Returns:
        `tuple`: the two files, `None` for items that are not there; `None` where there are no atomic files.

    Raises:
        ValueError: a folder has several files of a kind.
    """
    if path.suffix == ".inter" and path.is_file():
        items = path.with_suffix(".item")
        return path, items if items.is_file() else None
    if not path.is_dir() or not (event_files := sorted(path.glob("*.inter"))):
        return None
    item_files = sorted(path.glob("*.item"))
    if len(event_files) > 1 or len(item_files) > 1:
        names = [file.name for file in event_files + item_files]
        raise ValueError(f"got {names} in {path.name}: which belong together is unclear; keep one .inter, one .item")
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
    """Read atomic files.

    Args:
        events (`Path`): the `.inter` file.
        items (`Path`, *optional*): the `.item` file.
        columns (`Mapping[str, str]`): our names to those of the files, without their types. An entry for a text is of
            the `.item` file, and that for `item_id` of each file that has the column.
        item_columns (`Mapping[str, str]`): the same for the `.item` file alone.
        event_fields (`Sequence[str]`): our names of what is read from the `.inter` file.
        encoding (`str`, *optional*): as in `open_text`.
        notes (`list[str]`): as in `open_text`.

    Returns:
        `tuple`: interactions and items, in file order; `None` where there is no `.item` file.

    Raises:
        ValueError: a file is damaged, or a column named by the user is missing.
    """
    event_file = events.name, _read_atomic(events, encoding, notes), True
    if items is None:
        if unused := [*item_columns, *(ours for ours in columns if ours in TEXT_FIELDS)]:
            raise ValueError(f"got columns for {unused}, and beside {events.name} is no .item file: add it")
        return source_table(event_file[0], event_file[1], event_fields, columns=columns, delimited=True), None
    item_table = _read_atomic(items, encoding, notes)
    known = {
        ours: theirs
        for theirs, ours in RECBOLE_NAMES.items()
        if theirs in item_table and ours not in item_table and ours not in columns
    }
    tables = two_source_tables(
        event_file,
        (items.name, item_table, True),
        columns,
        item_columns={**known, **item_columns},
        event_fields=event_fields,
    )
    # `token_seq` is separated by spaces by definition, but many published files keep ", " inside the field.
    rows = tables[1].rows
    if "categories" in rows and not rows["categories"].str.contains(",").any():
        rows["categories"] = rows["categories"].str.split().str.join(", ")
    return tables


def _read_atomic(file: Path, encoding: str | None, notes: list[str]) -> pd.DataFrame:
    table = read_delimited(file, "\t", quoted=False, encoding=encoding, notes=notes)
    return table.rename(columns=lambda name: name.split(":")[0])
