"""Reads the MovieLens data sets of GroupLens: 1M and 10M (`.dat`), 20M and later (`.csv`), 100K (`u.data`)."""

from pathlib import Path

import numpy as np
import pandas as pd

from genrec_hf.data.source_table import SourceTable, source_table
from genrec_hf.data.tables import read_delimited

# Files of ratings, by which a folder is recognized as MovieLens, and the file of the movies next to each.
MOVIELENS_FILES = {"ratings.csv": "movies.csv", "ratings.dat": "movies.dat", "u.data": "u.item"}
EVENT_COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
# Delimiter by suffix.
DELIMITERS = {".csv": ",", ".dat": "::", ".data": "\t", ".item": "|"}

# The last columns of u.item are flags of genres, in the order of u.genre. The first one, "unknown", is not a genre.
FIRST_GENRES = ["Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"]
LAST_GENRES = ["Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"]
GENRES = FIRST_GENRES + LAST_GENRES
# Column names and the names in `.csv` files.
EVENT_NAMES = {"user_id": "userId", "item_id": "movieId", "rating": "rating", "timestamp": "timestamp"}
ITEM_NAMES = {"item_id": "movieId", "title": "title", "categories": "genres"}
ITEM_FIELDS = list(ITEM_NAMES)
ITEM_COLUMNS = {
    "movies.dat": ["item_id", "title", "categories"],
    "u.item": ["item_id", "title", "date", "video", "url", "unknown", *GENRES],
}


def read_movielens(folder: Path, *, encoding: str | None = None, notes: list[str]) -> tuple[SourceTable, SourceTable]:
    """Read ratings and movies from a folder of any MovieLens release.

    Args:
        folder (`Path`): folder with one of `MOVIELENS_FILES` and the file of the movies.
        encoding (`str`, *optional*): encoding of both files; by default UTF-8, or Latin-1 for a file that is not
            UTF-8, as in 100K and 1M.
        notes (`list[str]`): list to which a sentence is appended for each automatic decision.

    Returns:
        `tuple[SourceTable, SourceTable]`: events (`user_id`, `item_id`, `rating`, `timestamp` in seconds) and items
        (`item_id`, `title` with the year, `categories`), as text, in file order.

    Raises:
        FileNotFoundError: the file of the movies is missing.
        ValueError: a file is damaged, or has other columns.
    """
    ratings, movies = next((folder / a, folder / b) for a, b in MOVIELENS_FILES.items() if (folder / a).is_file())
    if not movies.is_file():
        raise FileNotFoundError(f"got a MovieLens folder {folder.name!r} without {movies.name}: add that file to it")
    events = _read(ratings, EVENT_COLUMNS, encoding, notes)
    items = _read(movies, ITEM_COLUMNS.get(movies.name, []), encoding, notes)
    csv = ratings.suffix == ".csv"
    event_names, item_names = (EVENT_NAMES, ITEM_NAMES) if csv else ({}, {})
    if movies.name == "u.item":
        items["categories"] = ["|".join(np.array(GENRES)[flags]) for flags in items[GENRES].to_numpy() == "1"]
    try:
        events_table = source_table(ratings.name, events, EVENT_COLUMNS, columns=event_names, delimited=True)
        items_table = source_table(movies.name, items, ITEM_FIELDS, columns=item_names, delimited=True)
    except ValueError as error:
        raise ValueError(
            f"{folder.name!r} has the names of MovieLens files and other columns ({error}): give {ratings.name} "
            f"itself as source, {movies.name} as metadata, and `--columns user_id=... item_id=... timestamp=...`"
        ) from error
    genres = items_table.rows["categories"]
    items_table.rows["categories"] = genres.replace("(no genres listed)", "").str.replace("|", ", ", regex=False)
    return events_table, items_table


def _read(file: Path, names: list[str], encoding: str | None, notes: list[str]) -> pd.DataFrame:
    quoted = file.suffix == ".csv"
    return read_delimited(
        file,
        DELIMITERS[file.suffix],
        quoted=quoted,
        names=None if quoted else names,
        encoding=encoding,
        fallback_encoding="latin-1",
        notes=notes,
    )
