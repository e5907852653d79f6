"""Amazon reviews as McAuley's group publishes them (2014, 2018, 2023): JSON lines, plain or gzipped."""

import ast
import gzip
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

# Our names for the keys of each generation of files; 2014 and 2018 share the keys of reviews.
REVIEW_KEYS = (
    {"user_id": "reviewerID", "item_id": "asin", "rating": "overall", "timestamp": "unixReviewTime"},
    {"user_id": "user_id", "item_id": "parent_asin", "rating": "rating", "timestamp": "timestamp"},
)
# What users wrote, for each of these.
REVIEW_TEXT_KEYS = ({"review": "reviewText", "headline": "summary"}, {"review": "text", "headline": "title"})
TEXT_KEYS = {
    "title": ("title",),
    "categories": ("categories", "category"),
    "brand": ("brand", "store"),
    "description": ("description",),
}


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
    keys = {file: _first_keys(file) for file in files if file.name.endswith(names)}
    reviews = [file for file, found in keys.items() if any({*names.values()} <= found for names in REVIEW_KEYS)]
    items = [file for file, found in keys.items() if file not in reviews and {"asin", "parent_asin"} & found]
    if not reviews:
        return None
    if metadata is not None:
        items = [Path(metadata).expanduser()]
        if not items[0].is_file():
            raise FileNotFoundError(f"got metadata={str(metadata)!r}, which is no file: give the file of the items")
        if not {"asin", "parent_asin"} & _first_keys(items[0]):
            raise ValueError(f"{items[0].name} has no 'asin' in its first line: give the metadata file of the items")
    if len(reviews) > 1 or len(items) > 1:
        found = [file.name for file in reviews + items]
        raise ValueError(f"got {found} in {path.name}: give one review file as source and its metadata as metadata")
    return reviews[0], items[0] if items else None


def read_amazon(
    reviews: Path, metadata: Path | None, texts: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame | None, dict[str, int]]:
    """Read one review file and its metadata, whatever their generation.

    The metadata repeats some items; the first row of an item is kept. An item of 2023 is its `parent_asin`, so that
    the sizes and colours of a product are one item.

    Args:
        reviews (`Path`): reviews, one JSON object a line.
        metadata (`Path` or `None`): items, one JSON object or Python literal (2014) a line.
        texts (`bool`, defaults to `False`): what users wrote too, as `review` and `headline`.

    Returns:
        Events in file order; items in file order, or `None`; what was dropped and how often.

    Raises:
        ValueError: a line is neither JSON nor a Python literal; the error names it.
    """
    first = _first_keys(reviews)
    generation = next(place for place, names in enumerate(REVIEW_KEYS) if {*names.values()} <= first)
    keys = REVIEW_KEYS[generation] | (REVIEW_TEXT_KEYS[generation] if texts else {})
    events = pd.DataFrame(
        ([record.get(key) for key in keys.values()] for record in json_records(reviews)), columns=list(keys)
    )
    if metadata is None:
        return events, None, {}
    items = pd.DataFrame(
        {"item_id": record.get("parent_asin") or record.get("asin"), **_texts(record)}
        for record in json_records(metadata)
    )
    repeated = items["item_id"].duplicated()
    return events, items[~repeated], {"repeated metadata rows": int(repeated.sum())}


def _texts(record: dict[str, Any]) -> dict[str, str]:
    values = {name: next((record[key] for key in keys if record.get(key)), "") for name, keys in TEXT_KEYS.items()}
    joined = {name: (" " if name == "description" else ", ").join(_leaves(value)) for name, value in values.items()}
    return {name: text.encode("utf-8", "ignore").decode() for name, text in joined.items()}


def _leaves(value: object) -> list[str]:
    """Texts of a value or of lists in lists, each once, without the HTML that the shop has left in them."""
    if isinstance(value, list):
        return list(dict.fromkeys(leaf for part in value for leaf in _leaves(part)))
    text = re.sub(r"<[^<>]{1,200}>", " ", html.unescape(str(value))).strip()
    return [text] if text else []


def _first_keys(file: Path) -> set[str]:
    try:
        return set(next(json_records(file), {}))
    except ValueError:
        return set()


def json_records(file: Path) -> Iterator[dict[str, Any]]:
    """Read the records of a JSON file one by one: JSON lines, Python literals a line, or one array; plain or `.gz`.

    Args:
        file (`Path`): the file.

    Yields:
        `dict`: one record.

    Raises:
        ValueError: a line is none of these; the error names it.
    """
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1 and line.lstrip().startswith("["):
                yield from json.loads(line + lines.read())
                return
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                record = _python_literal(line)
            if not isinstance(record, dict):
                raise ValueError(f"line {number} of {file.name} is no JSON object: {line[:60]!r}; repair that line")
            yield record


def _python_literal(line: str) -> object:
    # The metadata of 2014 is printed Python. `literal_eval` reads it and runs nothing.
    try:
        return ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
