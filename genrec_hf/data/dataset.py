"""The prepared data set: interactions and items as two tables, split, on disk and in memory."""

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
from genrec_hf.directories import as_directory, filling, held
from genrec_hf.ranking import Histories

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class EvaluationCases:
    """What to predict: one row a case, for everything that ranks items for users.

    Args:
        users (`np.ndarray`): `[cases]` `int64`, user rows.
        histories (`Histories`): `[cases]` of item rows, oldest first, everything before the target; not empty. Lists
            of arrays become `Histories`.
        targets (`np.ndarray`): `[cases]` `int64`, item rows.
    """

    users: np.ndarray
    histories: Histories
    targets: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "histories", Histories.of(self.histories))

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, rows: Sequence[int] | np.ndarray) -> "EvaluationCases":
        """Take some of the cases, in the order of `rows`.

        Args:
            rows (`Sequence[int]` or `np.ndarray`): case rows, from 0.

        Returns:
            `EvaluationCases`: one case for each of `rows`.
        """
        rows = np.asarray(rows, dtype=np.int64)
        return EvaluationCases(self.users[rows], self.histories.select(rows), self.targets[rows])

    def candidates(self, items: int, count: int = 20, seed: int = 0) -> list[np.ndarray]:
        """Draw, for each case, what to choose the target from; what is drawn depends on seed, user and place only.

        Args:
            items (`int`): size of the catalogue.
            count (`int`, defaults to 20): of a list, at least 2; fewer where a history leaves fewer of the catalogue.
            seed (`int`, defaults to 0): of the draws.

        Returns:
            `list[np.ndarray]`: item rows, the target at a random place, nothing of the history beside it.

        Raises:
            ValueError: when `count` is not 2 to `items`: another number would be drawn, and be another task.
        """
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 2 <= count <= items:
            raise ValueError(
                f"got candidates={count!r} of a catalogue of {items} items: hit@1 tells nothing of one candidate, and "
                f"of fewer than named it is another figure; draw 2 to {items}"
            )
        return [
            draw_candidates(
                history, int(target), items, count=count, rng=np.random.default_rng([seed, int(user), len(history)])
            )
            for user, history, target in zip(self.users, self.histories, self.targets, strict=True)
        ]


def draw_candidates(
    history: np.ndarray, target: int, items: int, *, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Item rows `[count]` to choose from, uniform but for the target and nothing else of the history."""
    barred = {target, *history.tolist()}
    others = min(count - 1, items - len(barred))
    drawn: list[int] = []
    while len(drawn) < others:
        item = int(rng.integers(items))
        if item not in barred:
            barred.add(item)
            drawn.append(item)
    drawn.insert(int(rng.integers(len(drawn) + 1)), target)
    return np.array(drawn)


@dataclass(frozen=True, eq=False)
class InteractionData:
    """A data set ready for training: made by `prepare`, kept by `save_data` and `load_data`.

    Args:
        interactions (`pd.DataFrame`): `user_id`, `item_id`, `timestamp`, perhaps `rating`, and `split`, one of
            `train`, `validation`, `test`; perhaps what the user wrote, `review` and `headline`; a user's
            rows stand together, oldest first.
        items (`pd.DataFrame`): `item_id` and text fields, one row an item. The row number is what `item` means
            everywhere in the library.
        info (`dict`): where the data came from, the settings, the counts, and a fingerprint.

    Raises:
        ValueError: a column is missing, an item id comes twice, an interaction names an item that is absent, or the
            rows are out of order.
    """

    interactions: pd.DataFrame
    items: pd.DataFrame
    info: dict[str, Any]

    def __post_init__(self) -> None:
        needed = {"interactions": ("user_id", "item_id", "timestamp", "split"), "items": ("item_id",)}
        for name, table in {"interactions": self.interactions, "items": self.items}.items():
            missing = [column for column in needed[name] if column not in table]
            if missing:
                raise ValueError(f"the {name} have no column {missing}, only {list(table.columns)}; prepare again")
        if self.items["item_id"].duplicated().any():
            twice = self.items["item_id"][self.items["item_id"].duplicated()].iloc[0]
            raise ValueError(f"item id {twice!r} comes twice: an item is a row, so ids must be unique; drop one row")
        if (self._item_rows < 0).any():
            absent = self.interactions["item_id"].iloc[int(np.argmax(self._item_rows < 0))]
            raise ValueError(f"item id {absent!r} has interactions and no row in items: add the row or drop them")
        for split in self.interactions["split"].unique():
            check_choice("split", split, SPLITS)
        user_steps, time_steps = np.diff(self._user_rows), np.diff(self.interactions["timestamp"].to_numpy())
        if (user_steps < 0).any() or ((user_steps == 0) & (time_steps < 0)).any():
            raise ValueError("interactions must stand user by user, oldest first: sort by user, then stably by time")

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
        """Outside ids of the items, in row order."""
        return self.items["item_id"].tolist()

    @cached_property
    def user_ids(self) -> list[str]:
        """Outside ids of the users, in row order: the order of their first interaction in the table."""
        return self.interactions["user_id"].unique().tolist()

    def training_sequences(self) -> Histories:
        """Collect what each user did in the training split.

        Returns:
            `Histories`: in user-row order, item rows, oldest first, with their times; some may be empty.
        """
        train = self.interactions["split"].to_numpy() == "train"
        lengths = np.bincount(self._user_rows[train], minlength=len(self.user_ids))
        stops = np.cumsum(lengths)
        return Histories(self._item_rows[train], stops - lengths, stops, self._times[train])

    def item_counts(self) -> np.ndarray:
        """Training events of each item, `[items]`."""
        return item_counts(self.training_sequences(), len(self.items))

    def cases(self, split: str) -> EvaluationCases:
        """Collect the cases of a split: one for each of its events that has at least one event before it.

        With `split="leave_one_out"` that is one a user. With `global_time` a user may have many or none, and a first
        event is no case: there is no history to predict from (`info["cases_without_history"]` counts those).

        Args:
            split (`str`): `"validation"` or `"test"`.

        Returns:
            `EvaluationCases`: in the order of the table; a history holds everything the user did before the target,
            whatever its split.

        Raises:
            ValueError: any other split.
        """
        users, items, positions = self._user_rows, self._item_rows, self._positions(split)
        starts = np.searchsorted(users, users, side="left")
        histories = Histories(items, starts[positions], positions, self._times)
        return EvaluationCases(users[positions], histories, items[positions])

    def _positions(self, split: str) -> np.ndarray:
        """Rows of the interactions that are the cases of a split."""
        check_choice("split", split, SPLITS[1:])
        users = self._user_rows
        rows = np.arange(len(users))
        return rows[(self.interactions["split"].to_numpy() == split) & (rows > np.searchsorted(users, users))]

    def target_ages(self, split: str) -> np.ndarray:
        """How long before each case its target was first seen in training, for anybody.

        Args:
            split (`str`): `"validation"` or `"test"`.

        Returns:
            `np.ndarray`: `[cases]`, in the unit of `timestamp`, in the order of `cases`; 0 where the first training
            event is later than the case, NaN where there is none.

        Raises:
            ValueError: any other split.
        """
        times, train = self.interactions["timestamp"].to_numpy(), self.interactions["split"].to_numpy() == "train"
        first = np.full(len(self.items), np.inf)
        np.minimum.at(first, self._item_rows[train], times[train])
        positions = self._positions(split)
        since = first[self._item_rows[positions]]
        return np.where(np.isinf(since), np.nan, np.maximum(0, times[positions] - since))


def catalogue_fingerprint(item_ids: Sequence[str]) -> str:
    """Name a list of item ids by its content and order, so that files made for another catalogue are noticed.

    Args:
        item_ids (`Sequence[str]`): outside ids, in row order.

    Returns:
        `str`: 16 hexadecimal digits.

    Example:
        >>> catalogue_fingerprint(["a", "b"]) == catalogue_fingerprint(["b", "a"])
        False
    """
    return hex_digest(["\n".join(item_ids)])


def data_fingerprint(interactions: pd.DataFrame, items: pd.DataFrame) -> str:
    """Name a data set by its content: ids, texts, times, order and split.

    Args:
        interactions (`pd.DataFrame`): as in `InteractionData`.
        items (`pd.DataFrame`): as in `InteractionData`.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    return hex_digest(_content(interactions, items))


def _content(interactions: pd.DataFrame, items: pd.DataFrame) -> Iterator[str | np.ndarray]:
    for column in items:
        yield f"\n{column}\n" + "\n".join(map(str, items[column]))
    for column in ("user_id", "item_id", "split"):
        rows, names = pd.factorize(interactions[column])
        yield f"\n{column}\n" + "\n".join(map(str, names))
        yield rows.astype("<i8")
    yield interactions["timestamp"].to_numpy().astype("<i8")
    for column in (each for each in ("review", "headline") if each in interactions):
        yield f"\n{column}\n" + "\n".join(map(str, interactions[column]))


def save_data(data: InteractionData, data_dir: str | Path, overwrite: bool = False) -> None:
    """Write a data set to a folder: `interactions.parquet`, `items.parquet` and `dataset.json`.

    The files are written into a folder inside and moved at the end, `dataset.json` last, so an interrupted run leaves
    nothing that loads.

    Args:
        data (`InteractionData`): what to write.
        data_dir (`str` or `Path`): the folder; made where it is absent.
        overwrite (`bool`, defaults to `False`): replace a different data set that stands there.

    Raises:
        ValueError: the folder holds a different data set, and `overwrite` is not set; or a model that genrec_hf did
            not write; or another run is writing there.
    """
    data_dir = as_directory(data_dir, "data_dir")
    if (data_dir / "dataset.json").is_file() and not overwrite:
        there, ours = json.loads((data_dir / "dataset.json").read_text()), json.loads(json.dumps(data.info))
        # What an earlier version did not write down is no difference: the fingerprint tells the content.
        differing = [key for key in there if there[key] != ours.get(key)]
        if differing:
            key = differing[0]
            raise ValueError(
                f"{data_dir} holds a data set with {key}={there.get(key)!r}, and this one has {ours.get(key)!r}: what "
                "was built on the other would no longer fit; choose another data_dir, or pass overwrite=True"
            )
    with held(data_dir, "data_dir"), filling(data_dir, last="dataset.json") as written:
        data.interactions.to_parquet(written / "interactions.parquet", index=False)
        data.items.to_parquet(written / "items.parquet", index=False)
        (written / "dataset.json").write_text(json.dumps(data.info, indent=2) + "\n")


def load_data(data_dir: str | Path) -> InteractionData:
    """Read a data set that `save_data` wrote.

    Args:
        data_dir (`str` or `Path`): the folder.

    Returns:
        `InteractionData`: checked, see there.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the tables are not those that `dataset.json` describes, or not valid.
    """
    data_dir = as_directory(data_dir, "data_dir")
    names = ("dataset.json", "interactions.parquet", "items.parquet")
    missing = [name for name in names if not (data_dir / name).is_file()]
    if missing:
        raise FileNotFoundError(f"got data_dir={str(data_dir)!r} without {missing}: run recipes/prepare_data.py first")
    info = json.loads((data_dir / names[0]).read_text())
    interactions, items = (pd.read_parquet(data_dir / name) for name in names[1:])
    data = InteractionData(interactions, items, info)
    found = data_fingerprint(interactions, items)
    if info.get("fingerprint", found) != found:
        raise ValueError(
            f"the tables in {data_dir} have fingerprint {found}, dataset.json says {info['fingerprint']}: they were "
            "changed or belong to two data sets; run recipes/prepare_data.py again with overwrite"
        )
    return data
