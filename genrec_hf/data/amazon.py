"""Amazon reviews as McAuley's group publishes them (2014, 2018, 2023): JSON lines, plain or gzipped."""

from pathlib import Path
from typing import Any

import pandas as pd

from genrec_hf.data.columns import as_text
from genrec_hf.data.html_text import html_to_text
from genrec_hf.data.json_records import first_keys, json_records
from genrec_hf.data.source_table import SourceTable

# Our names for the keys of each generation of files; 2014 and 2018 share the keys of reviews.
REVIEW_KEYS = (
    {"user_id": "reviewerID", "item_id": "asin", "rating": "overall", "timestamp": "unixReviewTime"},
    {"user_id": "user_id", "item_id": "parent_asin", "rating": "rating", "timestamp": "timestamp"},
)
# What users wrote, for each of these.
REVIEW_TEXT_KEYS = ({"review": "reviewText", "headline": "summary"}, {"review": "text", "headline": "title"})
# The first key of these that an item has; of the description all of them, as many items have features only.
TEXT_KEYS = {"title": ("title",), "categories": ("categories", "category"), "brand": ("brand", "store")}
DESCRIPTION_KEYS = ("description", "features", "feature")


def find_amazon_files(path: Path, metadata: str | Path | None = None) -> tuple[Path, Path | None] | None:
    """Tell whether a file or a folder holds Amazon reviews, by the keys of the first line of each JSON file.

    Args:
        path (`Path`): a review file, or a folder with one and, if any, its metadata file.
        metadata (`str` or `Path`, *optional*): the metadata file, where it does not stand in the folder.

    Returns:
        The review file and the metadata file (`None`: there is none), or `None` where these are no Amazon reviews.

    Raises:
        FileNotFoundError: `metadata` does not exist.
        ValueError: a folder has several files of reviews or of metadata, or `metadata` holds something else.
    """
    names = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    keys = {file: first_keys(file) for file in files if file.name.endswith(names)}
    reviews = [file for file, found in keys.items() if any({*names.values()} <= found for names in REVIEW_KEYS)]
    items = [file for file, found in keys.items() if file not in reviews and {"asin", "parent_asin"} & found]
    if not reviews:
        return None
    if metadata is not None:
        items = [Path(metadata).expanduser()]
        if not items[0].is_file():
            raise FileNotFoundError(f"got metadata={str(metadata)!r}, which is no file: give the file of the items")
        if not {"asin", "parent_asin"} & first_keys(items[0]):
            raise ValueError(f"{items[0].name} has no 'asin' in its first line: give the metadata file of the items")
    if len(reviews) > 1 or len(items) > 1:
        found = [file.name for file in reviews + items]
        raise ValueError(f"got {found} in {path.name}: give one review file as source and its metadata as metadata")
    return reviews[0], items[0] if items else None


def read_amazon(
    reviews: Path, metadata: Path | None, *, texts: bool = False, encoding: str | None = None, notes: list[str]
) -> tuple[SourceTable, SourceTable | None, dict[str, int]]:
    """Read one review file and its metadata, whatever their generation.

    The metadata repeats some items; the first row of an item is kept. An item of 2023 is its `parent_asin`, so that
    the sizes and colours of a product are one item. Titles, descriptions and reviews are HTML, and become plain text.

    Args:
        reviews (`Path`): reviews, one JSON object a line.
        metadata (`Path` or `None`): items, one JSON object or Python literal (2014) a line.
        texts (`bool`, defaults to `False`): what users wrote too, as `review` and `headline`.
        encoding (`str`, *optional*): of both files, as in `open_text`.
        notes (`list[str]`): as in `open_text`.

    Returns:
        Events in file order; items in file order, or `None`; what was dropped and how often.

    Raises:
        ValueError: a line is neither JSON nor a Python literal; the error names it.
    """
    first = first_keys(reviews)
    generation = next(place for place, names in enumerate(REVIEW_KEYS) if {*names.values()} <= first)
    keys = REVIEW_KEYS[generation]
    text_keys = REVIEW_TEXT_KEYS[generation] if texts else {}
    records = json_records(reviews, encoding=encoding, notes=notes)
    # As objects, or a missing value would turn a column of integers into floats.
    events = pd.DataFrame(
        (_event(record, keys, text_keys) for record in records), columns=[*keys, *text_keys], dtype=object
    )
    events_table = SourceTable(reviews.name, events, keys | text_keys, sorted(first))
    if metadata is None:
        return events_table, None, {}
    items = pd.DataFrame(
        (
            {"item_id": record.get("parent_asin") or record.get("asin"), **_texts(record)}
            for record in json_records(metadata, encoding=encoding, notes=notes)
        ),
        columns=["item_id", *TEXT_KEYS, "description"],
        dtype=object,
    )
    repeated = items["item_id"].duplicated()
    names = {str(name): str(name) for name in items} | {"item_id": "parent_asin" if generation else "asin"}
    items_table = SourceTable(metadata.name, items[~repeated], names, list(names.values()))
    return events_table, items_table, {"repeated metadata rows": int(repeated.sum())}


def _event(record: dict[str, Any], keys: dict[str, str], text_keys: dict[str, str]) -> list[object]:
    said = [html_to_text(as_text(record.get(key))) for key in text_keys.values()]
    return [*(record.get(key) for key in keys.values()), *said]


def _texts(record: dict[str, Any]) -> dict[str, str]:
    values = {name: next((record[key] for key in keys if record.get(key)), "") for name, keys in TEXT_KEYS.items()}
    texts = {name: ", ".join(_leaves(value)) for name, value in values.items()}
    return texts | {"description": " ".join(_leaves([record.get(key) for key in DESCRIPTION_KEYS]))}


def _leaves(value: object) -> list[str]:
    """Collect the texts of a value or of nested lists, without duplicates, as plain text."""
    if isinstance(value, list):
        return list(dict.fromkeys(leaf for part in value for leaf in _leaves(part)))
    text = html_to_text(as_text(value))
    return [text] if text else []
