"""From raw interactions to a split data set: rating and k-core filters, order in time, split, summary."""

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
    """Filter, order and split raw interactions, for every later stage.

    In this order: `min_rating`; a user's events by time; `repeats`; the k-core; `min_user_events`; the split. Where
    times are whole days (Amazon) the order among equal times changes every metric: `info["ties"]` says how often.

    Args:
        raw (`RawData`): from `read_source`.
        k_core (`int`, defaults to 0): keep users and items with at least so many events, repeated until all have; 0
            and 1 keep everything.
        tie_break (`str`, defaults to `"file"`): order among equal times of a user: `"file"` keeps the order of the
            source, `"random:<seed>"` draws one.
        split (`str`, defaults to `"leave_one_out"`): a user's last event is the test, the one before it validation,
            the rest train; or `"global_time"`: all users are cut at the same two times.
        repeats (`str`, defaults to `"keep"`): `"merge"` keeps a user's first event with an item only.
        min_rating (`float`, *optional*): drop events that are rated lower.
        global_time_ratio (`tuple`, defaults to `(0.8, 0.1, 0.1)`): shares of the events before, between and after the
            two cuts of `"global_time"`. Events of one time are never parted.
        min_user_events (`int`, defaults to 3): drop users with fewer events; leave-one-out needs 3.

    Returns:
        `InteractionData`: users in the order of their first row in the source; items in the order of the item file,
        then those without a row there. An item without text stays, with `""` in every field. `info` says how many
        rows were `dropped` and why, the first and last day of the events, and what the reader noted.

    Raises:
        ValueError: a setting is not known, or too little is left to split.

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
    events = _in_time_order(events, tie_break)
    if repeats == "merge":
        events = _keep(events, ~events.duplicated(["user", "item_id"]), "repeat of a user's item", dropped)
    events = _keep(events, _k_core(events, k_core), f"outside the {k_core}-core", dropped)
    lengths = events.groupby("user")["user"].transform("size")
    events = _keep(events, lengths >= min_user_events, f"user with fewer than {min_user_events} events", dropped)
    if (n_items := events["item_id"].nunique()) < 2:
        raise ValueError(
            f"got {len(events)} interactions of {n_items} items, dropped were {dropped or 'none'}: "
            "ranking needs at least 2 items and a user with 3 events; lower k_core, min_rating or min_user_events"
        )
    events["split"] = _leave_one_out(events) if split == "leave_one_out" else _global_time(events, global_time_ratio)
    items = _items(raw, events)
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
    """Validate the settings of `prepare` before anything is read.

    Args:
        k_core (`int`): as in `prepare`, and so all others.
        tie_break (`str`): likewise.
        split (`str`): likewise.
        repeats (`str`): likewise.
        min_rating (`float`, *optional*): likewise.
        min_user_events (`int`): likewise.
        global_time_ratio (`tuple`, defaults to `(0.8, 0.1, 0.1)`): likewise.

    Raises:
        ValueError: a setting is not known, or of the wrong type.
    """
    check_choice("split", split, get_args(SplitProtocol))
    check_choice("repeats", repeats, get_args(Repeats))
    tie_break_seed(tie_break)
    for name, value in {"k_core": k_core, "min_user_events": min_user_events}.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"got {name}={value!r}; use a whole number of events such as 5, or 0 for no filter")
    if split == "leave_one_out" and min_user_events < 3:
        raise ValueError(
            f"got min_user_events={min_user_events}; leave-one-out parts a user into train, validation and test, use 3"
        )
    if min_rating is not None and not _is_number(min_rating):
        raise ValueError(f"got min_rating={min_rating!r}; use a number such as 4, or leave it out")
    ratio = global_time_ratio
    if len(ratio) != 3 or not all(map(_is_number, ratio)) or min(ratio) <= 0 or abs(sum(ratio) - 1) > 1e-6:
        raise ValueError(f"got global_time_ratio={ratio}; use three positive shares that add up to 1")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def _keep(events: pd.DataFrame, keep: "pd.Series | np.ndarray", reason: str, dropped: dict[str, int]) -> pd.DataFrame:
    if not keep.all():
        dropped[reason] = int((~keep).sum())
        events = events[keep].reset_index(drop=True)
    return events


def tie_break_seed(tie_break: str) -> int | None:
    """Read the seed of a tie order.

    Args:
        tie_break (`str`): `"file"` or `"random:<seed>"`.

    Returns:
        `int` or `None`: the seed; `None` for the order of the file.

    Raises:
        ValueError: it is neither.

    Example:
        >>> tie_break_seed("random:7"), tie_break_seed("file")
        (7, None)
    """
    kind, _, seed = str(tie_break).partition(":")
    if tie_break != "file" and not (kind == "random" and seed.isdecimal()):
        raise ValueError(f"got tie_break={tie_break!r}; use 'file', or 'random:<seed>' such as 'random:0'")
    return int(seed) if seed else None


def _in_time_order(events: pd.DataFrame, tie_break: str) -> pd.DataFrame:
    seed = tie_break_seed(tie_break)
    rows = np.arange(len(events))
    ties = rows if seed is None else np.random.default_rng(seed).permutation(rows)
    order = np.lexsort((ties, events["timestamp"].to_numpy(), events["user"].to_numpy()))
    return events.iloc[order].reset_index(drop=True)


def _k_core(events: pd.DataFrame, k: int) -> np.ndarray:
    """Mark the events of users and items that have at least `k` events among the marked ones."""
    users, items = events["user"].to_numpy(), pd.factorize(events["item_id"])[0]
    keep = np.ones(len(events), dtype=bool)
    while True:
        enough = keep.copy()
        for rows in (users, items):
            enough &= np.bincount(rows[keep], minlength=rows.max(initial=0) + 1)[rows] >= k
        if (enough == keep).all():
            return keep
        keep = enough


def _leave_one_out(events: pd.DataFrame) -> np.ndarray:
    from_end = events.groupby("user").cumcount(ascending=False).to_numpy()
    return np.array(["test", "validation", "train"])[np.minimum(from_end, 2)]


def _global_time(events: pd.DataFrame, ratio: tuple[float, float, float]) -> np.ndarray:
    times = events["timestamp"].to_numpy()
    positions = np.round(np.cumsum(ratio[:2]) * len(times)).astype(int)
    cuts = np.sort(times)[np.minimum(positions, len(times) - 1)]
    # An event at the time of a cut stands after it.
    splits = np.array(SPLITS)[np.searchsorted(cuts, times, side="right")]
    for name in SPLITS:
        if name not in splits:
            raise ValueError(
                f"got no {name} events with cuts at the times {cuts.tolist()}: too many events share a time; "
                "change global_time_ratio, or use split='leave_one_out'"
            )
    return splits


def _items(raw: RawData, events: pd.DataFrame) -> pd.DataFrame:
    used = pd.Series(raw.interactions["item_id"].unique())
    used = used[used.isin(events["item_id"].unique())]
    known = raw.items[raw.items["item_id"].isin(used)]
    rest = used[~used.isin(known["item_id"])]
    items = pd.concat([known, pd.DataFrame({"item_id": rest})], ignore_index=True)
    return items.reindex(columns=[c for c in ("item_id", *TEXT_FIELDS) if c in items]).fillna("").astype("str")


def _counts(events: pd.DataFrame, items: pd.DataFrame) -> dict[str, Any]:
    """Count for the summary, which `dataset.json` holds and the recipe prints."""
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
