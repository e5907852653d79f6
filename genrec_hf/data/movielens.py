"""MovieLens as GroupLens publishes it: 1M and 10M (`.dat`), 20M and later (`.csv`), 100K (`u.data`)."""

from pathlib import Path

import numpy as np
import pandas as pd

# One of these in a folder makes it MovieLens; beside it stands the file of the movies.
MOVIELENS_FILES = {"ratings.csv": "movies.csv", "ratings.dat": "movies.dat", "u.data": "u.item"}
EVENT_COLUMNS = ["user_id", "item_id", "rating", "timestamp"]

# The flags that end a line of u.item, in the order of u.genre. The first is "unknown": no genre.
FIRST_GENRES = ["Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"]
LAST_GENRES = ["Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"]
GENRES = FIRST_GENRES + LAST_GENRES


def read_movielens(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read ratings and movies from a folder of any MovieLens release.

    Args:
        folder (`Path`): holds one of `MOVIELENS_FILES` and the file of the movies.

    Returns:
        Events (`user_id`, `item_id`, `rating`, `timestamp` in seconds) and items (`item_id`, `title` with the year,
        `categories`), as text, in file order.

    Raises:
        FileNotFoundError: the file of the movies is missing.
    """
    ratings, movies = next((folder / a, folder / b) for a, b in MOVIELENS_FILES.items() if (folder / a).is_file())
    if not movies.is_file():
        raise FileNotFoundError(f"got a MovieLens folder {folder.name!r} without {movies.name}: add that file to it")
    if ratings.name == "ratings.csv":
        events = pd.read_csv(ratings, dtype=str).rename(columns={"userId": "user_id", "movieId": "item_id"})
        items = pd.read_csv(movies, dtype=str, keep_default_na=False)
        items = items.rename(columns={"movieId": "item_id", "genres": "categories"})
    elif ratings.name == "ratings.dat":
        # "::" would need the slow parser; with ":" an empty column stands between two real ones.
        events = pd.read_csv(ratings, sep=":", header=None, usecols=[0, 2, 4, 6], dtype=str)
        events = events.set_axis(EVENT_COLUMNS, axis=1)
        items = _split_lines(movies, "::", ["item_id", "title", "categories"])
    else:
        events = pd.read_csv(ratings, sep="\t", header=None, dtype=str).set_axis(EVENT_COLUMNS, axis=1)
        items = _split_lines(movies, "|", ["item_id", "title", "date", "video", "url", "unknown", *GENRES])
        items["categories"] = ["|".join(np.array(GENRES)[flags]) for flags in items[GENRES].to_numpy() == "1"]
    items["categories"] = items["categories"].replace("(no genres listed)", "").str.replace("|", ", ", regex=False)
    return events, items[["item_id", "title", "categories"]]


def _split_lines(file: Path, separator: str, names: list[str]) -> pd.DataFrame:
    # Not `splitlines`: it would also break at characters that occur inside latin-1 titles.
    lines = file.read_text(encoding="latin-1").replace("\r\n", "\n").split("\n")
    return pd.DataFrame([line.split(separator) for line in lines if line], columns=names)
