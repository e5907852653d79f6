"""Defines the prepared data set, two tables of split interactions and items; saves and loads it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from genrec_hf.checks import check_choice
from genrec_hf.data.cooccurrence import item_counts
from genrec_hf.digests import hex_digest
from genrec_hf.directories import as_directory, lock_directory, write_files
from genrec_hf.ranking import Histories

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class EvaluationCases:
    """Histories of users and the item to predict for each, for the evaluation of rankers.

    Args:
        users (`np.ndarray`): `[cases]`, int64, user rows.
        histories (`Histories`): `[cases]` of item rows, oldest first: all events before the target, at least one. A
            list of arrays is converted to `Histories`.
        targets (`np.ndarray`): `[cases]`, int64, item rows.
    """

    users: np.ndarray
    histories: Histories
    targets: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "histories", Histories.of(self.histories))

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, rows: Sequence[int] | np.ndarray) -> "EvaluationCases":
        """Return some of the cases, in the order of `rows`.

        Args:
            rows (`Sequence[int]` or `np.ndarray`): `[n]`, positions of cases, from 0.

        Returns:
            `EvaluationCases`: `[n]` cases.
        """
        rows = np.asarray(rows, dtype=np.int64)
        return EvaluationCases(self.users[rows], self.histories.select(rows), self.targets[rows])

    def candidates(self, items: int, count: int = 20, seed: int = 0) -> list[np.ndarray]:
        """Sample candidates for each case: the target, and items that are not in the history.

        The candidates of a case depend only on `seed`, its user and the length of its history.

        Args:
            items (`int`): number of items in the catalogue.
            count (`int`, defaults to 20): number of candidates per case, including the target; fewer for a case if
                fewer items are not in its history.
            seed (`int`, defaults to 0): random seed.

        Returns:
            `list[np.ndarray]`: `[cases]` of int64 item rows, the target at a random position.

        Raises:
            ValueError: `count` is not an integer from 2 to `items`.
        """
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 2 <= count <= items:
            raise ValueError(
                f"got candidates={count!r} of a catalogue of {items} items: the target needs at least one other "
                f"candidate, and all are distinct items; draw 2 to {items}"
            )
        return [
            sample_candidates(
                history, int(target), items, count=count, rng=np.random.default_rng([seed, int(user), len(history)])
            )
            for user, history, target in zip(self.users, self.histories, self.targets, strict=True)
        ]


def sample_candidates(
    history: np.ndarray, target: int, items: int, *, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Sample the candidates of one case: the target, and items sampled uniformly that are not in the history.

    Args:
        history (`np.ndarray`): `[n]`, item rows.
        target (`int`): item row.
        items (`int`): number of items in the catalogue.
        count (`int`): number of candidates, including the target.
        rng (`np.random.Generator`): random generator.

    Returns:
        `np.ndarray`: `[count]`, int64, distinct item rows, the target at a random position; shorter if fewer items are
        not in the history.
    """
    excluded = {target, *history.tolist()}
    negatives = min(count - 1, items - len(excluded))
    candidates: list[int] = []
    while len(candidates) < negatives:
        item = int(rng.integers(items))
        if item not in excluded:
            excluded.add(item)
            candidates.append(item)
    candidates.insert(int(rng.integers(len(candidates) + 1)), target)
    return np.array(candidates)


@dataclass(frozen=True, eq=False)
class InteractionData:
    """A data set ready for training, made by `prepare`, saved by `save_data` and loaded by `load_data`.

    Args:
        interactions (`pd.DataFrame`): columns `user_id`, `item_id`, `timestamp` and `split` (`"train"`,
            `"validation"` or `"test"`); optional columns `rating`, and `review` and `headline`, the text of the user.
            The rows of a user are adjacent, oldest first.
        items (`pd.DataFrame`): `item_id` and text fields, one row per item. The row number identifies the item
            everywhere in the library.
        info (`dict`): source, settings, counts, and the fingerprint of the data.

    Raises:
        ValueError: a column is missing, an item id is not unique, an interaction has an item id that is not in
            `items`, a value of `split` is invalid, or the rows are not ordered by user and time.
    """

    interactions: pd.DataFrame
    items: pd.DataFrame
    info: dict[str, Any]

    def __post_init__(self) -> None:
        required = {"interactions": ("user_id", "item_id", "timestamp", "split"), "items": ("item_id",)}
        for name, table in {"interactions": self.interactions, "items": self.items}.items():
            missing = [column for column in required[name] if column not in table]
            if missing:
                raise ValueError(
                    f"the {name} have no column {missing}, only {list(table.columns)}: run recipes/prepare_data.py "
                    "again"
                )
        if self.items["item_id"].duplicated().any():
            duplicate = self.items["item_id"][self.items["item_id"].duplicated()].iloc[0]
            raise ValueError(f"item id {duplicate!r} is in two rows of items: ids must be unique; drop one row")
        if (self._item_rows < 0).any():
            absent = self.interactions["item_id"].iloc[int(np.argmax(self._item_rows < 0))]
            raise ValueError(f"item id {absent!r} has interactions and no row in items: add the row or drop them")
        for split in self.interactions["split"].unique():
            check_choice("split", split, SPLITS)
        user_steps, time_steps = np.diff(self._user_rows), np.diff(self.interactions["timestamp"].to_numpy())
        if (user_steps < 0).any() or ((user_steps == 0) & (time_steps < 0)).any():
            raise ValueError("interactions must be ordered user by user, oldest first: sort stably by user and time")

    @cached_property
    def _item_rows(self) -> np.ndarray:
        return pd.Index(self.items["item_id"]).get_indexer(self.interactions["item_id"]).astype(np.int64)

    @cached_property
    def _times(self) -> np.ndarray:
        return self.interactions["timestamp"].to_numpy()

    @cached_property
    def _user_rows(self) -> np.ndarray:
        return pd.factorize(self.interactions["user_id"])[0].astype(np.int64)

    @cached_property
    def item_ids(self) -> list[str]:
        """Ids of the items in the source, `[items]`, in row order."""
        return self.items["item_id"].tolist()

    @cached_property
    def user_ids(self) -> list[str]:
        """Ids of the users in the source, `[users]`, in row order: the order of their first interaction."""
        return self.interactions["user_id"].unique().tolist()

    def training_sequences(self) -> Histories:
        """Return the training events of each user.

        Returns:
            `Histories`: `[users]` of item rows, oldest first, with times; empty for a user without training events.
        """
        train = self.interactions["split"].to_numpy() == "train"
        lengths = np.bincount(self._user_rows[train], minlength=len(self.user_ids))
        stops = np.cumsum(lengths)
        return Histories(self._item_rows[train], stops - lengths, stops, self._times[train])

    def item_counts(self) -> np.ndarray:
        """Count the training events of each item, `[items]`."""
        return item_counts(self.training_sequences(), len(self.items))

    def cases(self, split: str) -> EvaluationCases:
        """Return the cases of a split: one for each of its events that is not the first event of its user.

        Data prepared with `split="leave_one_out"` has one case per user. With `split="global_time"` a user may have
        many or none; a first event has no history to predict from and is counted in `info["cases_without_history"]`.

        Args:
            split (`str`): `"validation"` or `"test"`.

        Returns:
            `EvaluationCases`: in the order of the table. A history holds all events of the user before the target, of
            any split.

        Raises:
            ValueError: `split` has another value.
        """
        users, items, positions = self._user_rows, self._item_rows, self._positions(split)
        starts = np.searchsorted(users, users, side="left")
        histories = Histories(items, starts[positions], positions, self._times)
        return EvaluationCases(users[positions], histories, items[positions])

    def _positions(self, split: str) -> np.ndarray:
        """Return the rows of the interactions that are the cases of a split."""
        check_choice("split", split, SPLITS[1:])
        users = self._user_rows
        rows = np.arange(len(users))
        return rows[(self.interactions["split"].to_numpy() == split) & (rows > np.searchsorted(users, users))]

    def target_ages(self, split: str) -> np.ndarray:
        """Return the time between the first training event of each target, of any user, and its case.

        Args:
            split (`str`): `"validation"` or `"test"`.

        Returns:
            `np.ndarray`: `[cases]`, float64, in the unit of `timestamp`, in the order of `cases`; 0 if the first
            training event is later than the case, NaN if there is none.

        Raises:
            ValueError: `split` has another value.
        """
        times, train = self.interactions["timestamp"].to_numpy(), self.interactions["split"].to_numpy() == "train"
        first = np.full(len(self.items), np.inf)
        np.minimum.at(first, self._item_rows[train], times[train])
        positions = self._positions(split)
        first_times = first[self._item_rows[positions]]
        return np.where(np.isinf(first_times), np.nan, np.maximum(0, times[positions] - first_times))


def catalogue_fingerprint(item_ids: Sequence[str]) -> str:
    """Compute the fingerprint of a list of item ids, to detect files that were made for another catalogue.

    Args:
        item_ids (`Sequence[str]`): `[items]`, ids in row order.

    Returns:
        `str`: 16 hexadecimal digits.

    Example:
        >>> catalogue_fingerprint(["a", "b"]) == catalogue_fingerprint(["b", "a"])
        False
    """
    return hex_digest(["\n".join(item_ids)])


def data_fingerprint(interactions: pd.DataFrame, items: pd.DataFrame) -> str:
    """Compute the fingerprint of a data set from its ids, texts, times, order and split.

    Args:
        interactions (`pd.DataFrame`): as in `InteractionData`.
        items (`pd.DataFrame`): as in `InteractionData`.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    return hex_digest(_digest_parts(interactions, items))


def _digest_parts(interactions: pd.DataFrame, items: pd.DataFrame) -> Iterator[str | np.ndarray]:
    for column in items:
        yield f"\n{column}\n" + "\n".join(map(str, items[column]))
    for column in ("user_id", "item_id", "split"):
        rows, names = pd.factorize(interactions[column])
        yield f"\n{column}\n" + "\n".join(map(str, names))
        yield rows.astype("<i8")
    yield interactions["timestamp"].to_numpy().astype("<i8")
    for column in (name for name in ("review", "headline") if name in interactions):
        yield f"\n{column}\n" + "\n".join(map(str, interactions[column]))


def save_data(data: InteractionData, data_dir: str | Path, overwrite: bool = False) -> None:
    """Write a data set to a folder: `interactions.parquet`, `items.parquet` and `dataset.json`.

    The files are written to a temporary folder and moved at the end, `dataset.json` last, so that a folder after an
    interrupted run does not load.

    Args:
        data (`InteractionData`): data set to write.
        data_dir (`str` or `Path`): the folder; created if absent.
        overwrite (`bool`, defaults to `False`): replace a different data set in the folder.

    Raises:
        ValueError: the path is invalid, the folder holds a different data set and `overwrite` is not set, it holds a
            model that genrec_hf did not write, or another run is writing there.
    """
    data_dir = as_directory(data_dir, "data_dir")
    if (data_dir / "dataset.json").is_file() and not overwrite:
        saved, new = json.loads((data_dir / "dataset.json").read_text()), json.loads(json.dumps(data.info))
        # Only keys of the saved file: an earlier version may have written fewer.
        differing = [key for key in saved if saved[key] != new.get(key)]
        if differing:
            key = differing[0]
            raise ValueError(
                f"{data_dir} holds a data set with {key}={saved.get(key)!r}, and this one has {new.get(key)!r}: files "
                "made for the saved one would not match; choose another data_dir, or pass overwrite=True "
                "(`--overwrite true`)"
            )
    with lock_directory(data_dir, "data_dir"), write_files(data_dir, last="dataset.json") as written:
        data.interactions.to_parquet(written / "interactions.parquet", index=False)
        data.items.to_parquet(written / "items.parquet", index=False)
        (written / "dataset.json").write_text(json.dumps(data.info, indent=2) + "\n")


def load_data(data_dir: str | Path) -> InteractionData:
    """Read a data set that `save_data` wrote.

    Args:
        data_dir (`str` or `Path`): the folder.

    Returns:
        `InteractionData`: the data set.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the tables do not have the fingerprint of `dataset.json`, or are invalid, see `InteractionData`.
    """
    data_dir = as_directory(data_dir, "data_dir")
    names = ("dataset.json", "interactions.parquet", "items.parquet")
    missing = [name for name in names if not (data_dir / name).is_file()]
    if missing:
        raise FileNotFoundError(f"got data_dir={str(data_dir)!r} without {missing}: run recipes/prepare_data.py first")
    info = json.loads((data_dir / names[0]).read_text())
    interactions, items = (pd.read_parquet(data_dir / name) for name in names[1:])
    data = InteractionData(interactions, items, info)
    fingerprint = data_fingerprint(interactions, items)
    if info.get("fingerprint", fingerprint) != fingerprint:
        raise ValueError(
            f"the tables in {data_dir} have fingerprint {fingerprint}, dataset.json says {info['fingerprint']}: they "
            "were changed or belong to another data set; run recipes/prepare_data.py again with --overwrite true"
        )
    return data
