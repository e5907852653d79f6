"""Reads the Amazon review data sets of McAuley's group (2014, 2018, 2023): JSON lines, plain or gzipped."""

from pathlib import Path
from typing import Any

import pandas as pd

from genrec_hf.data.columns import as_text
from genrec_hf.data.html_text import html_to_text
from genrec_hf.data.json_records import first_keys, json_records
from genrec_hf.data.source_table import SourceTable

# Column names and the keys of the files: first those of 2014 and 2018, then those of 2023.
REVIEW_KEYS = (
    {"user_id": "reviewerID", "item_id": "asin", "rating": "overall", "timestamp": "unixReviewTime"},
    {"user_id": "user_id", "item_id": "parent_asin", "rating": "rating", "timestamp": "timestamp"},
)
# The same for the texts of the reviews.
REVIEW_TEXT_KEYS = ({"review": "reviewText", "headline": "summary"}, {"review": "text", "headline": "title"})
# Keys of the item texts; the first one that an item has is used.
TEXT_KEYS = {"title": ("title",), "categories": ("categories", "category"), "brand": ("brand", "store")}
# All of these are joined, as many items have features and no description.
DESCRIPTION_KEYS = ("description", "features", "feature")


def find_amazon_files(path: Path, metadata: str | Path | None = None) -> tuple[Path, Path | None] | None:
    """Find Amazon reviews and their metadata by the keys of the first line of each JSON file.

    Args:
        path (`Path`): a review file, or a folder with a review file and perhaps its metadata file.
        metadata (`str` or `Path`, *optional*): the metadata file, if it is not in the folder.

    Returns:
        `tuple` or `None`: the review file, and the metadata file or `None`; `None` if these are not Amazon reviews.

    Raises:
        FileNotFoundError: `metadata` is not a file.
        ValueError: a folder has several files of reviews or of metadata, or `metadata` holds something else.
    """
    suffixes = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    keys = {file: first_keys(file) for file in files if file.name.endswith(suffixes)}
    reviews = [file for file, names in keys.items() if any({*known.values()} <= names for known in REVIEW_KEYS)]
    items = [file for file, names in keys.items() if file not in reviews and {"asin", "parent_asin"} & names]
    if not reviews:
        return None
    if metadata is not None:
        items = [Path(metadata).expanduser()]
        if not items[0].is_file():
            raise FileNotFoundError(f"got metadata={str(metadata)!r}, which is not a file: give the file of the items")
        if not {"asin", "parent_asin"} & first_keys(items[0]):
            raise ValueError(f"{items[0].name} has no 'asin' in its first line: give the metadata file of the items")
    if len(reviews) > 1 or len(items) > 1:
        raise ValueError(
            f"got several files in {path.name}, {[file.name for file in reviews + items]}: give one review file as "
            "source and its metadata file as metadata"
        )
    return reviews[0], items[0] if items else None


def read_amazon(
    reviews: Path, metadata: Path | None, *, texts: bool = False, encoding: str | None = None, notes: list[str]
) -> tuple[SourceTable, SourceTable | None, dict[str, int]]:
    """Read a review file and its metadata, of any of the three releases.

    Some items are repeated in the metadata; the first row of an item is kept. The item id of 2023 is `parent_asin`,
    which makes all sizes and colors of a product one item. HTML in titles, descriptions and reviews is converted to
    plain text.

    Args:
        reviews (`Path`): reviews, one JSON object per line.
        metadata (`Path` or `None`): items, one JSON object or Python literal (2014) per line.
        texts (`bool`, defaults to `False`): also read the text and headline of the reviews, as `review` and
            `headline`.
        encoding (`str`, *optional*): encoding of both files, as in `open_text`.
        notes (`list[str]`): as in `open_text`.

    Returns:
        `tuple`: events in file order; items in file order, or `None`; number of dropped rows by reason.

    Raises:
        ValueError: a line is neither JSON nor a Python literal; the error names it.
    """
    file_keys = first_keys(reviews)
    release = next(position for position, known in enumerate(REVIEW_KEYS) if {*known.values()} <= file_keys)
    keys = REVIEW_KEYS[release]
    text_keys = REVIEW_TEXT_KEYS[release] if texts else {}
    records = json_records(reviews, encoding=encoding, notes=notes)
    # dtype=object, as a missing value would convert a column of integers to floats.
    events = pd.DataFrame(
        (_event_row(record, keys, text_keys) for record in records), columns=[*keys, *text_keys], dtype=object
    )
    events_table = SourceTable(reviews.name, events, keys | text_keys, sorted(file_keys))
    if metadata is None:
        return events_table, None, {}
    items = pd.DataFrame(
        (
            {"item_id": record.get("parent_asin") or record.get("asin"), **_item_texts(record)}
            for record in json_records(metadata, encoding=encoding, notes=notes)
        ),
        columns=["item_id", *TEXT_KEYS, "description"],
        dtype=object,
    )
    repeated = items["item_id"].duplicated()
    names = {str(name): str(name) for name in items} | {"item_id": "parent_asin" if release else "asin"}
    items_table = SourceTable(metadata.name, items[~repeated], names, list(names.values()))
    return events_table, items_table, {"repeated metadata rows": int(repeated.sum())}


def _event_row(record: dict[str, Any], keys: dict[str, str], text_keys: dict[str, str]) -> list[object]:
    texts = [html_to_text(as_text(record.get(key))) for key in text_keys.values()]
    return [*(record.get(key) for key in keys.values()), *texts]


def _item_texts(record: dict[str, Any]) -> dict[str, str]:
    values = {name: next((record[key] for key in keys if record.get(key)), "") for name, keys in TEXT_KEYS.items()}
    texts = {name: ", ".join(_leaves(value)) for name, value in values.items()}
    return texts | {"description": " ".join(_leaves([record.get(key) for key in DESCRIPTION_KEYS]))}


def _leaves(value: object) -> list[str]:
    """Collect the texts of a value or of nested lists, without duplicates, as plain text."""
    if isinstance(value, list):
        return list(dict.fromkeys(leaf for part in value for leaf in _leaves(part)))
    text = html_to_text(as_text(value))
    return [text] if text else []
