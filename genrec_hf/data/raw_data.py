"""Defines raw interactions and items of a source; validates and converts their ids, times and texts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from genrec_hf.data.columns import as_text, id_texts, is_present, ratings
from genrec_hf.data.html_text import LOOKS_LIKE_HTML, html_to_text
from genrec_hf.data.source_table import REVIEW_FIELDS, TEXT_FIELDS, SourceTable
from genrec_hf.data.times import read_times

COMMAND_LINE = "`--columns user_id=reviewer item_id=asin timestamp=time`"


@dataclass(frozen=True)
class RawData:
    """Interactions and items of a source, before `prepare`.

    Args:
        name (`str`): short name of the data set, never a path.
        interactions (`pd.DataFrame`): `user_id`, `item_id` (`str`), `timestamp` (`int64`, in the unit of the source,
            or a finer one that holds fractions of seconds; milliseconds for dates) and, if the source has them,
            `rating` (`float`), `review` and `headline`; rows in file order.
        items (`pd.DataFrame`): `item_id` and those of the text fields `title`, `year`, `categories`, `brand` and
            `description` that the source has; `""` for a missing text; one row per item.
        dropped (`dict[str, int]`, defaults to `{}`): number of rows that were dropped while reading, by reason.
        source (`str`, defaults to `""`): name of the file or folder that was read, without its path.
        time_unit (`str`, *optional*): unit of `timestamp`, see `read_times`.
        notes (`tuple[str, ...]`, defaults to `()`): sentences about automatic decisions of the reader.
    """

    name: str
    interactions: pd.DataFrame
    items: pd.DataFrame
    dropped: dict[str, int] = field(default_factory=dict)
    source: str = ""
    time_unit: str | None = None
    notes: tuple[str, ...] = ()


def raw_data(
    name: str,
    source: str,
    events: SourceTable,
    *,
    items: SourceTable | None,
    dropped: Mapping[str, int] | None = None,
    html: bool = False,
    notes: list[str],
) -> RawData:
    """Validate and convert the tables of a reader.

    Args:
        name (`str`): name of the data set.
        source (`str`): name of the file or folder.
        events (`SourceTable`): one row per interaction.
        items (`SourceTable`, *optional*): one row per item; the same table as `events` if that holds the texts.
        dropped (`Mapping[str, int]`, *optional*): number of rows that the reader dropped, by reason.
        html (`bool`, defaults to `False`): convert HTML to plain text.
        notes (`list[str]`): sentences about automatic decisions so far; more are appended.

    Returns:
        `RawData`: without the rows that lack a user, an item or a time, which are counted in `dropped`.

    Raises:
        ValueError: a required column is missing, an id, time or rating cannot be read, an item id has several rows of
            texts, or no item with interactions is among the items.
    """
    missing = [column for column in ("user_id", "item_id", "timestamp") if column not in events.rows]
    if missing:
        raise ValueError(
            f"{events.file} has no column {missing}, it has {events.file_columns}: map their names with "
            f"columns={{{missing[0]!r}: 'your name', ...}}, or {COMMAND_LINE}"
        )
    rows, names = events.rows, events.names
    if len({names[column] for column in ("user_id", "item_id", "timestamp")}) < 3:
        raise ValueError(f"got one column of {events.file} for two of user, item and time ({names}): correct columns")
    complete = is_present(rows["user_id"]) & is_present(rows["item_id"]) & is_present(rows["timestamp"])
    if not complete.any():
        raise ValueError(f"{events.file} has {len(rows)} rows, none with a user, an item and a time: check the source")
    counts = {**(dropped or {}), "no user, item or time": int((~complete).sum())}
    rows = rows[complete]
    times, unit = read_times(rows["timestamp"], events.file, names["timestamp"])
    interactions = pd.DataFrame(
        {"user_id": _read_ids(events, rows, "user_id", notes), "item_id": _read_ids(events, rows, "item_id", notes)}
    ).assign(timestamp=times)
    if "rating" in rows:
        interactions["rating"] = ratings(rows["rating"], events.file, names["rating"])
    for column in REVIEW_FIELDS:
        if column in rows:
            interactions[column] = _read_texts(rows[column], html)
    notes += _notes_on_times(interactions, unit, events.file)
    interactions = interactions.reset_index(drop=True)
    catalogue = pd.DataFrame({"item_id": pd.Series(dtype="str")})
    if items is not None:
        catalogue = _read_items(items, html, notes, repeated=items is events)
        _check_overlap(interactions["item_id"], catalogue["item_id"], events.file, items.file, notes)
    counts = {reason: n for reason, n in counts.items() if n}
    return RawData(name, interactions, catalogue, counts, source, unit, tuple(dict.fromkeys(notes)))


def _read_ids(table: SourceTable, rows: pd.DataFrame, column: str, notes: list[str]) -> pd.Series:
    ids = id_texts(rows[column], table.file, table.names[column])
    if not table.delimited:
        return ids
    stripped = ids.str.strip()
    if changed := int((stripped != ids).sum()):
        name = table.names[column]
        notes.append(f"spaces around {changed} ids in the column {name!r} of {table.file} were removed")
    return stripped


def _read_texts(values: pd.Series, html: bool) -> list[str]:
    texts = [as_text(value) for value in values]
    return [html_to_text(text) for text in texts] if html else texts


def _notes_on_times(interactions: pd.DataFrame, unit: str, file: str) -> list[str]:
    if unit == "positions":
        return [f"the times of {file} are small whole numbers: they order the events, and are not dates"]
    unknown = interactions["timestamp"] == 0
    if not unknown.any():
        return []
    partly = unknown & (interactions.groupby("user_id")["timestamp"].transform("max") > 0)
    if partly.any():
        return [f"{partly.sum()} events of {file} have the time 0, others of their users do not: they come first"]
    users = interactions["user_id"][unknown].nunique()
    return [f"{users} users of {file} have no times (all are 0): their events are in the order of the file"]


def _read_items(table: SourceTable, html: bool, notes: list[str], repeated: bool) -> pd.DataFrame:
    if "item_id" not in table.rows:
        raise ValueError(
            f"{table.file} has no column ['item_id'], it has {table.file_columns}: map its name with "
            "metadata_columns={'item_id': 'your name'}, or `--metadata_columns item_id=asin title=name`"
        )
    rows = table.rows[is_present(table.rows["item_id"])]
    items = pd.DataFrame({"item_id": _read_ids(table, rows, "item_id", notes)})
    if repeated:
        items = items.drop_duplicates("item_id")
        rows = rows.loc[items.index]
    for name in TEXT_FIELDS:
        if name in rows:
            items[name] = _read_texts(rows[name], html)
    duplicates = items["item_id"][items["item_id"].duplicated()]
    if len(duplicates):
        raise ValueError(
            f"the items of {table.file} have {len(duplicates)} item ids twice, such as {duplicates.iloc[0]!r}: their "
            "text is ambiguous; keep one row per item"
        )
    items = items.reset_index(drop=True).astype("str")
    if "year" in items:  # pandas writes a column of years with missing values as floats
        items["year"] = items["year"].str.replace(r"^(\d+)\.0$", r"\1", regex=True)
    html_texts = [text for name in items.columns[1:] for text in items[name] if LOOKS_LIKE_HTML.search(text)]
    if html_texts and not html:
        notes.append(
            f"{len(html_texts)} texts of {table.file} look like HTML, such as {html_texts[0][:60]!r}: `html=True` "
            "(`--html true`) converts them to plain text"
        )
    return items


def _check_overlap(
    event_ids: pd.Series, item_ids: pd.Series, event_file: str, item_file: str, notes: list[str]
) -> None:
    """Raise if no item with interactions has a row in the items; append a note if less than half have one."""
    distinct = pd.Series(event_ids.unique())
    present = pd.Index(item_ids).get_indexer(distinct) >= 0
    fraction = float(present.mean())
    if fraction == 0:
        raise ValueError(
            f"no item id of {event_file}, such as {distinct[:3].tolist()}, is in {item_file}, which has "
            f"{item_ids[:3].tolist()}: write the ids in both files the same way, or name the column that matches, "
            "`--metadata_columns item_id=asin`"
        )
    if fraction < 0.5:
        absent = distinct[~present]
        notes.append(
            f"{fraction:.1%} of the {len(distinct):,} items of {event_file} have a row in {item_file}; the others, "
            f"such as {absent[:3].tolist()}, have no text"
        )
