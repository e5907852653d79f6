"""Raw interactions and items of a source, with validated ids, times and texts."""

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
    """Interactions and items as the source has them, for `prepare`.

    Args:
        name (`str`): short name of the data set, never a path.
        interactions (`pd.DataFrame`): `user_id`, `item_id` (`str`), `timestamp` (`int64`, in the unit of the source,
            or a finer one that holds fractions of seconds; milliseconds for dates) and, where the source has them,
            `rating` (`float`), `review` and `headline`; rows in file order.
        items (`pd.DataFrame`): `item_id` and the text fields `title`, `year`, `categories`, `brand`, `description`
            that the source has; `""` where a text is missing; one row an item.
        dropped (`dict[str, int]`): why rows were left out while reading, and how many.
        source (`str`): name of the file or folder that was read, without its path.
        time_unit (`str`, *optional*): what `timestamp` counts, see `read_times`.
        notes (`tuple[str, ...]`): sentences on what the reader decided without being told.
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
        name (`str`): of the data set.
        source (`str`): name of the file or folder.
        events (`SourceTable`): one row an interaction.
        items (`SourceTable`, *optional*): one row an item; the same table as `events` where the texts stand there.
        dropped (`Mapping[str, int]`, *optional*): rows that the reader left out, and why.
        html (`bool`, defaults to `False`): make plain text of HTML.
        notes (`list[str]`): sentences on what was decided so far.

    Returns:
        `RawData`: with rows that lack a user, an item or a time left out and counted.

    Raises:
        ValueError: see `read_source`.
    """
    missing = [column for column in ("user_id", "item_id", "timestamp") if column not in events.rows]
    if missing:
        raise ValueError(
            f"{events.file} has no column {missing}, it has {events.own_columns}: say which of yours they are, "
            f"columns={{{missing[0]!r}: 'your name', ...}}, or {COMMAND_LINE}"
        )
    rows, names = events.rows, events.names
    if len({names[column] for column in ("user_id", "item_id", "timestamp")}) < 3:
        raise ValueError(f"got one column of {events.file} for two of user, item and time ({names}): correct columns")
    whole = is_present(rows["user_id"]) & is_present(rows["item_id"]) & is_present(rows["timestamp"])
    if not whole.any():
        raise ValueError(f"{events.file} has {len(rows)} rows, none with a user, an item and a time: check the source")
    counts = {**(dropped or {}), "no user, item or time": int((~whole).sum())}
    rows = rows[whole]
    times, unit = read_times(rows["timestamp"], events.file, names["timestamp"])
    interactions = pd.DataFrame(
        {"user_id": _ids(events, rows, "user_id", notes), "item_id": _ids(events, rows, "item_id", notes)}
    ).assign(timestamp=times)
    if "rating" in rows:
        interactions["rating"] = ratings(rows["rating"], events.file, names["rating"])
    for column in REVIEW_FIELDS:
        if column in rows:
            interactions[column] = _texts(rows[column], html)
    notes += _notes_on_times(interactions, unit, events.file)
    interactions = interactions.reset_index(drop=True)
    catalogue = pd.DataFrame({"item_id": pd.Series(dtype="str")})
    if items is not None:
        catalogue = _items(items, html, notes, repeated=items is events)
        _check_overlap(interactions["item_id"], catalogue["item_id"], events.file, items.file, notes)
    counts = {reason: n for reason, n in counts.items() if n}
    return RawData(name, interactions, catalogue, counts, source, unit, tuple(dict.fromkeys(notes)))


def _ids(table: SourceTable, rows: pd.DataFrame, column: str, notes: list[str]) -> pd.Series:
    ids = id_texts(rows[column], table.file, table.names[column])
    if not table.delimited:
        return ids
    stripped = ids.str.strip()
    if changed := int((stripped != ids).sum()):
        name = table.names[column]
        notes.append(f"spaces around {changed} ids in the column {name!r} of {table.file} were left out")
    return stripped


def _texts(values: pd.Series, html: bool) -> list[str]:
    texts = [as_text(value) for value in values]
    return [html_to_text(text) for text in texts] if html else texts


def _notes_on_times(interactions: pd.DataFrame, unit: str, file: str) -> list[str]:
    if unit == "positions":
        return [f"the times of {file} are small whole numbers: they order the events, and are no dates"]
    unknown = interactions["timestamp"] == 0
    if not unknown.any():
        return []
    partly = unknown & (interactions.groupby("user_id")["timestamp"].transform("max") > 0)
    if partly.any():
        return [f"{partly.sum()} events of {file} have the time 0, others of their users not: they stand first"]
    users = interactions["user_id"][unknown].nunique()
    return [f"{users} users of {file} have no times (all are 0), and the order of the file holds"]


def _items(table: SourceTable, html: bool, notes: list[str], repeated: bool) -> pd.DataFrame:
    if "item_id" not in table.rows:
        raise ValueError(
            f"{table.file} has no column ['item_id'], it has {table.own_columns}: say which of yours it is, "
            "metadata_columns={'item_id': 'your name'}, or `--metadata_columns item_id=asin title=name`"
        )
    rows = table.rows[is_present(table.rows["item_id"])]
    items = pd.DataFrame({"item_id": _ids(table, rows, "item_id", notes)})
    if repeated:
        items = items.drop_duplicates("item_id")
        rows = rows.loc[items.index]
    for name in TEXT_FIELDS:
        if name in rows:
            items[name] = _texts(rows[name], html)
    twice = items["item_id"][items["item_id"].duplicated()]
    if len(twice):
        raise ValueError(
            f"the items of {table.file} have {len(twice)} item ids twice, such as {twice.iloc[0]!r}: which text is "
            "meant is unclear; keep one row an item"
        )
    items = items.reset_index(drop=True).astype("str")
    if "year" in items:  # as pandas writes a column of years with gaps
        items["year"] = items["year"].str.replace(r"^(\d+)\.0$", r"\1", regex=True)
    found = [text for name in items.columns[1:] for text in items[name] if LOOKS_LIKE_HTML.search(text)]
    if found and not html:
        notes.append(
            f"{len(found)} texts of {table.file} look like HTML, such as {found[0][:60]!r}: `html=True` "
            "(`--html true`) makes plain text of them"
        )
    return items


def _check_overlap(used: pd.Series, known: pd.Series, event_file: str, item_file: str, notes: list[str]) -> None:
    """Refuse items that join with no interaction; note where most items with interactions have no row."""
    distinct = pd.Series(used.unique())
    present = pd.Index(known).get_indexer(distinct) >= 0
    share = float(present.mean())
    if share == 0:
        raise ValueError(
            f"no item id of {event_file}, such as {distinct[:3].tolist()}, is in {item_file}, which has "
            f"{known[:3].tolist()}: write both alike, or name the column that matches, "
            "`--metadata_columns item_id=asin`"
        )
    if share < 0.5:
        absent = distinct[~present]
        notes.append(
            f"{share:.1%} of the {len(distinct):,} items of {event_file} have a row in {item_file}; the others, such "
            f"as {absent[:3].tolist()}, have no text"
        )
