"""Prepares raw interactions: filters by rating and k-core, orders by time, splits, and counts."""

from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from genrec_hf.checks import check_choice
from genrec_hf.data.dataset import SPLITS, InteractionData, data_fingerprint
from genrec_hf.data.raw_data import RawData
from genrec_hf.data.source_table import TEXT_FIELDS
from genrec_hf.data.times import time_span

SplitProtocol = Literal["leave_one_out", "global_time"]
Repeats = Literal["keep", "merge"]


def prepare(
    raw: RawData,
    *,
    k_core: int = 0,
    tie_break: str = "file",
    split: str = "leave_one_out",
    repeats: str = "keep",
    min_rating: float | None = None,
    global_time_ratio: tuple[float, float, float] = (0.8, 0.1, 0.1),
    min_user_events: int = 3,
) -> InteractionData:
    """Filter, order and split raw interactions into a data set.

    The steps are, in this order: `min_rating`, sort by time, `repeats`, `k_core`, `min_user_events`, `split`. If times
    are whole days (Amazon), the order among equal times changes all metrics; `info["ties"]` counts equal times.

    Args:
        raw (`RawData`): data from `read_source`.
        k_core (`int`, defaults to 0): keep only users and items with at least this many events, repeated until all
            remaining ones have them; 0 and 1 keep everything.
        tie_break (`str`, defaults to `"file"`): order of events of a user with equal times: `"file"` for the order of
            the source, `"random:<seed>"` for a random order.
        split (`str`, defaults to `"leave_one_out"`): `"leave_one_out"`: the last event of a user is test, the one
            before it validation, all others train. `"global_time"`: events are split at the same two times for all
            users.
        repeats (`str`, defaults to `"keep"`): `"merge"` keeps only the first event of a user with an item, `"keep"`
            keeps all.
        min_rating (`float`, *optional*): drop events with a lower rating, or without one.
        global_time_ratio (`tuple`, defaults to `(0.8, 0.1, 0.1)`): fractions of the events in train, validation and
            test for `"global_time"`. Events with equal times are in the same split.
        min_user_events (`int`, defaults to 3): drop users with fewer events; at least 3 for `"leave_one_out"`.

    Returns:
        `InteractionData`: users in the order of their first row in the source; items in the order of the item file,
        then those that are not in it. An item without text is kept, with `""` in all fields. `info` has the number of
        `dropped` rows by reason, the first and last day of the events, and the notes of the reader.

    Raises:
        ValueError: a setting is invalid, `min_rating` is set and there are no ratings, or too few interactions are
            left to split.

    Example:
        >>> events = pd.DataFrame({"user_id": ["u"] * 4, "item_id": list("abca"), "timestamp": [1, 2, 3, 3]})
        >>> data = prepare(RawData("toy", events, pd.DataFrame({"item_id": ["c", "a"], "title": ["C", "A"]})))
        >>> data.item_ids, data.interactions["split"].tolist()
        (['c', 'a', 'b'], ['train', 'train', 'validation', 'test'])
    """
    check_settings(
        k_core=k_core,
        tie_break=tie_break,
        split=split,
        repeats=repeats,
        min_rating=min_rating,
        global_time_ratio=global_time_ratio,
        min_user_events=min_user_events,
    )
    if min_rating is not None and "rating" not in raw.interactions:
        raise ValueError(f"got min_rating={min_rating}, and {raw.name} has no ratings; leave min_rating out")
    if raw.interactions.empty:
        raise ValueError(f"got no interactions from {raw.name}; check the source")
    events = raw.interactions.assign(user=pd.factorize(raw.interactions["user_id"])[0])
    dropped = dict(raw.dropped)
    if min_rating is not None:
        events = _keep(events, events["rating"] >= min_rating, f"rating below {min_rating:g}", dropped)
    events = _sort_by_time(events, tie_break)
    if repeats == "merge":
        events = _keep(events, ~events.duplicated(["user", "item_id"]), "repeat of a user's item", dropped)
    events = _keep(events, _k_core(events, k_core), f"outside the {k_core}-core", dropped)
    lengths = events.groupby("user")["user"].transform("size")
    events = _keep(events, lengths >= min_user_events, f"user with fewer than {min_user_events} events", dropped)
    if (n_items := events["item_id"].nunique()) < 2:
        raise ValueError(
            f"got {len(events)} interactions of {n_items} items after dropping {dropped or 'none'}: a data set needs "
            "at least 2 items and a user with 3 events; lower k_core, min_rating or min_user_events"
        )
    if split == "leave_one_out":
        events["split"] = _split_leave_one_out(events)
    else:
        events["split"] = _split_global_time(events, global_time_ratio)
    items = _select_items(raw, events)
    settings = {"split": split, "tie_break": tie_break, "k_core": k_core, "repeats": repeats, "min_rating": min_rating}
    settings |= {"min_user_events": min_user_events}
    if split == "global_time":
        settings["global_time_ratio"] = list(global_time_ratio)
    counts = {**_counts(events, items), "dropped": dropped}
    counts["dropped_users"] = raw.interactions["user_id"].nunique() - counts["users"]
    interactions = events.drop(columns="user")
    span = time_span(events["timestamp"].to_numpy(), raw.time_unit)
    times = {"unit": raw.time_unit, "first": span and span[0], "last": span and span[1]}
    info = {"name": raw.name, "source": raw.source, **settings, **counts, "times": times, "notes": list(raw.notes)}
    return InteractionData(interactions, items, {**info, "fingerprint": data_fingerprint(interactions, items)})


def check_settings(
    *,
    k_core: int,
    tie_break: str,
    split: str,
    repeats: str,
    min_rating: float | None,
    min_user_events: int,
    global_time_ratio: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> None:
    """Check the settings of `prepare`, before anything is read.

    Args:
        k_core (`int`): as in `prepare`.
        tie_break (`str`): as in `prepare`.
        split (`str`): as in `prepare`.
        repeats (`str`): as in `prepare`.
        min_rating (`float`, *optional*): as in `prepare`.
        min_user_events (`int`): as in `prepare`.
        global_time_ratio (`tuple`, defaults to `(0.8, 0.1, 0.1)`): as in `prepare`.

    Raises:
        ValueError: a setting has an invalid value or type.
    """
    check_choice("split", split, get_args(SplitProtocol))
    check_choice("repeats", repeats, get_args(Repeats))
    tie_break_seed(tie_break)
    for name, value in {"k_core": k_core, "min_user_events": min_user_events}.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"got {name}={value!r}; use a whole number of events such as 5, or 0 for no filter")
    if split == "leave_one_out" and min_user_events < 3:
        raise ValueError(
            f"got min_user_events={min_user_events}: split='leave_one_out' needs an event of each user for train, "
            "validation and test; use 3 or more"
        )
    if min_rating is not None and not _is_number(min_rating):
        raise ValueError(f"got min_rating={min_rating!r}; use a number such as 4, or leave it out")
    ratio = global_time_ratio
    if len(ratio) != 3 or not all(map(_is_number, ratio)) or min(ratio) <= 0 or abs(sum(ratio) - 1) > 1e-6:
        raise ValueError(f"got global_time_ratio={ratio}; use three positive fractions that add up to 1")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def _keep(events: pd.DataFrame, keep: "pd.Series | np.ndarray", reason: str, dropped: dict[str, int]) -> pd.DataFrame:
    if not keep.all():
        dropped[reason] = int((~keep).sum())
        events = events[keep].reset_index(drop=True)
    return events


def tie_break_seed(tie_break: str) -> int | None:
    """Return the seed of a `tie_break` setting.

    Args:
        tie_break (`str`): `"file"` or `"random:<seed>"`.

    Returns:
        `int` or `None`: the seed; `None` for `"file"`.

    Raises:
        ValueError: `tie_break` is neither.

    Example:
        >>> tie_break_seed("random:7"), tie_break_seed("file")
        (7, None)
    """
    kind, _, seed = str(tie_break).partition(":")
    if tie_break != "file" and not (kind == "random" and seed.isdecimal()):
        raise ValueError(f"got tie_break={tie_break!r}; use 'file', or 'random:<seed>' such as 'random:0'")
    return int(seed) if seed else None


def _sort_by_time(events: pd.DataFrame, tie_break: str) -> pd.DataFrame:
    seed = tie_break_seed(tie_break)
    rows = np.arange(len(events))
    tie_order = rows if seed is None else np.random.default_rng(seed).permutation(rows)
    order = np.lexsort((tie_order, events["timestamp"].to_numpy(), events["user"].to_numpy()))
    return events.iloc[order].reset_index(drop=True)


def _k_core(events: pd.DataFrame, k: int) -> np.ndarray:
    """Return a mask of the events whose user and item have at least `k` events within the mask."""
    users, items = events["user"].to_numpy(), pd.factorize(events["item_id"])[0]
    keep = np.ones(len(events), dtype=bool)
    while True:
        new_keep = keep.copy()
        for rows in (users, items):
            new_keep &= np.bincount(rows[keep], minlength=rows.max(initial=0) + 1)[rows] >= k
        if (new_keep == keep).all():
            return keep
        keep = new_keep


def _split_leave_one_out(events: pd.DataFrame) -> np.ndarray:
    from_end = events.groupby("user").cumcount(ascending=False).to_numpy()
    return np.array(["test", "validation", "train"])[np.minimum(from_end, 2)]


def _split_global_time(events: pd.DataFrame, ratio: tuple[float, float, float]) -> np.ndarray:
    times = events["timestamp"].to_numpy()
    positions = np.round(np.cumsum(ratio[:2]) * len(times)).astype(int)
    cuts = np.sort(times)[np.minimum(positions, len(times) - 1)]
    # An event at the time of a cut comes after the cut.
    splits = np.array(SPLITS)[np.searchsorted(cuts, times, side="right")]
    for name in SPLITS:
        if name not in splits:
            raise ValueError(
                f"got no {name} events with cuts at the times {cuts.tolist()}: too many events have the same time; "
                "change global_time_ratio, or use split='leave_one_out'"
            )
    return splits


def _select_items(raw: RawData, events: pd.DataFrame) -> pd.DataFrame:
    item_ids = pd.Series(raw.interactions["item_id"].unique())
    item_ids = item_ids[item_ids.isin(events["item_id"].unique())]
    items = raw.items[raw.items["item_id"].isin(item_ids)]
    without_row = item_ids[~item_ids.isin(items["item_id"])]
    items = pd.concat([items, pd.DataFrame({"item_id": without_row})], ignore_index=True)
    columns = [name for name in ("item_id", *TEXT_FIELDS) if name in items]
    return items.reindex(columns=columns).fillna("").astype("str")


def _counts(events: pd.DataFrame, items: pd.DataFrame) -> dict[str, Any]:
    """Count users, items and events for `InteractionData.info`, which `dataset.json` holds and the recipe prints."""
    user, time = events["user"].to_numpy(), events["timestamp"].to_numpy()
    same_user = user[1:] == user[:-1]
    tied = same_user & (time[1:] == time[:-1])
    first, last = np.append(True, ~same_user), np.append(~same_user, True)
    split, texts = events["split"], items.drop(columns="item_id")
    return {
        "users": int(last.sum()),
        "items": len(items),
        "interactions": len(events),
        "splits": {name: int((split == name).sum()) for name in SPLITS},
        "cases_without_history": int((first & (split != "train")).sum()),
        "items_without_text": int((texts == "").all(axis=1).sum()),
        "ties": {
            "users_with_last_two_at_one_time": round(float(np.append(False, tied)[last].mean()), 4),
            "events_at_one_time_with_another": int((np.append(False, tied) | np.append(tied, False)).sum()),
        },
    }
