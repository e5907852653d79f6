"""Filters, order and splits, against what one counts by hand."""

import runpy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genrec_hf.data import InteractionData, RawData, load_data, prepare, read_source


def raw(rows: list[tuple], items: list[str] | None = None) -> RawData:
    names = ["user_id", "item_id", "timestamp", "rating"]
    events = pd.DataFrame(rows, columns=names[: len(rows[0])] if rows else names)
    ids = pd.Series(items or [], dtype="str")
    return RawData("toy", events, pd.DataFrame({"item_id": ids, "title": ids.str.upper()}), source="toy.csv")


def user_events(data: InteractionData, user: str) -> list[str]:
    return data.interactions.query("user_id == @user")["item_id"].tolist()


# v stands first in the source; u has two events at time 2, "c" before "a".
ROWS = [("v", "a", 5), ("u", "b", 9), ("u", "c", 2), ("v", "b", 1), ("u", "a", 2), ("v", "d", 5), ("u", "b", 1)]


def test_order_users_items_and_split():
    data = prepare(raw(ROWS, items=["d", "unused", "a"]))
    assert data.user_ids == ["v", "u"]
    assert data.item_ids == ["d", "a", "b", "c"]
    assert data.items["title"].tolist() == ["D", "A", "", ""]
    assert user_events(data, "v") == ["b", "a", "d"]
    assert user_events(data, "u") == ["b", "c", "a", "b"]
    assert data.interactions["split"].tolist() == ["train", "validation", "test"] + ["train"] * 2 + [
        "validation",
        "test",
    ]


def test_summary():
    info = prepare(raw([*ROWS, ("w", "a", 1)], items=["d", "a"])).info
    assert {key: info[key] for key in ("name", "source", "users", "items", "interactions")} == {
        "name": "toy",
        "source": "toy.csv",
        "users": 2,
        "items": 4,
        "interactions": 7,
    }
    assert info["splits"] == {"train": 3, "validation": 2, "test": 2}
    assert info["items_without_text"] == 2
    # v's last two share time 5; u's tied pair is in the middle.
    assert info["ties"] == {"users_with_last_two_at_one_time": 1 / 2, "events_at_one_time_with_another": 2 + 2}
    assert info["dropped"] == {"user with fewer than 3 events": 1}
    assert info["dropped_users"] == 1


def test_random_ties_move_ties_only_and_follow_the_seed():
    rows = [("u", f"i{k:02}", k // 20) for k in range(60)]
    file, first, again, other = (prepare(raw(rows), tie_break=t) for t in ("file", "random:1", "random:1", "random:2"))
    assert user_events(file, "u") == [item for _, item, _ in rows]
    assert user_events(first, "u") == user_events(again, "u") != user_events(other, "u")
    assert user_events(first, "u") != user_events(file, "u")
    assert first.interactions["timestamp"].tolist() == file.interactions["timestamp"].tolist()
    assert first.info["fingerprint"] == again.info["fingerprint"] != other.info["fingerprint"]


def test_k_core_is_repeated_until_nothing_changes():
    square = [(user, item, time) for user in "uvw" for time, item in enumerate("abc")]
    # d falls with x, which leaves y with two events: y falls in the second round.
    rows = [*square, ("x", "d", 1), ("y", "d", 1), ("y", "a", 2), ("y", "b", 3), ("x", "a", 2)]
    data = prepare(raw(rows), k_core=3)
    assert data.user_ids == ["u", "v", "w"] and data.item_ids == ["a", "b", "c"]
    assert data.info["dropped"] == {"outside the 3-core": 5}


def test_k_core_agrees_with_a_plain_loop():
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", t) for t, (u, i) in enumerate(rng.zipf(1.6, (600, 2)) % 40)]
    left = rows
    while True:
        users, items = pd.Series([r[0] for r in left]).value_counts(), pd.Series([r[1] for r in left]).value_counts()
        kept = [row for row in left if users[row[0]] >= 4 and items[row[1]] >= 4]
        if len(kept) == len(left):
            break
        left = kept
    data = prepare(raw(rows), k_core=4)
    assert sorted(data.interactions[["user_id", "item_id", "timestamp"]].itertuples(index=False, name=None)) == sorted(
        left
    )


def test_merge_keeps_the_earliest_repeat():
    rows = [("u", "a", 9), ("u", "a", 1), ("u", "b", 2), ("u", "c", 3)]
    assert user_events(prepare(raw(rows)), "u") == ["a", "b", "c", "a"]
    merged = prepare(raw(rows), repeats="merge")
    assert user_events(merged, "u") == ["a", "b", "c"]
    assert merged.info["dropped"] == {"repeat of a user's item": 1}


def test_min_rating():
    rows = [("u", item, time, rating) for time, (item, rating) in enumerate(zip("abcd", (5, 2, 4, 4), strict=True))]
    data = prepare(raw(rows), min_rating=4)
    assert user_events(data, "u") == ["a", "c", "d"]
    assert data.interactions["rating"].tolist() == [5, 4, 4]
    assert data.info["dropped"] == {"rating below 4": 1}


def test_global_time_cuts_all_users_at_the_same_times():
    rows = [("uv"[time % 2], "abc"[time % 3], time) for time in range(20)]
    data = prepare(raw(rows), split="global_time")
    times = data.interactions.groupby("split")["timestamp"].agg(["min", "max"])
    assert times.loc["train"].tolist() == [0, 15]
    assert times.loc["validation"].tolist() == [16, 17]
    assert times.loc["test"].tolist() == [18, 19]


def test_global_time_never_parts_events_of_one_time():
    # The cuts fall on the 7th and 9th of 10 sorted times, 2 and 3: every event at a cut stands after it.
    times = [1, 1, 1, 1, 1, 1, 2, 2, 2, 3]
    rows = [("u", "ab"[k % 2], time) for k, time in enumerate(times)]
    data = prepare(raw(rows), split="global_time", global_time_ratio=(0.7, 0.2, 0.1))
    assert data.info["splits"] == {"train": 6, "validation": 3, "test": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "random"}, "got split='random'; use one of"),
        ({"repeats": "drop"}, "got repeats='drop'; use one of"),
        ({"tie_break": "random"}, "got tie_break='random'; use 'file'"),
        ({"tie_break": "random:x"}, "got tie_break='random:x'"),
        ({"k_core": -1}, "got k_core=-1"),
        ({"k_core": 2.5}, "got k_core=2.5; use a whole number"),
        ({"k_core": True}, "got k_core=True"),
        ({"k_core": "5"}, "got k_core='5'"),
        ({"min_user_events": 3.0}, "got min_user_events=3.0"),
        ({"min_rating": "4"}, "got min_rating='4'; use a number"),
        ({"min_rating": float("nan")}, "got min_rating=nan"),
        ({"tie_break": 7}, "got tie_break=7"),
        ({"min_rating": 3}, "got min_rating=3, and toy has no ratings"),
        ({"min_user_events": 2}, "got min_user_events=2"),
        ({"global_time_ratio": (0.8, 0.1, 0.2)}, "got global_time_ratio"),
        ({"k_core": 5}, "got 0 interactions of 0 items after dropping {'outside the 5-core': 7}"),
        ({"min_user_events": 9}, "got 0 interactions"),
    ],
)
def test_bad_settings_say_what_to_do(settings, message):
    with pytest.raises(ValueError, match=message):
        prepare(raw(ROWS), **settings)


def test_data_too_small_to_rank():
    with pytest.raises(ValueError, match="got no interactions from toy"):
        prepare(raw([]))
    with pytest.raises(ValueError, match="3 interactions of 1 items"):
        prepare(raw([("u", "a", 1), ("u", "a", 2), ("u", "a", 3)]))
    with pytest.raises(ValueError, match="got no train events"):
        prepare(raw([("u", item, 1) for item in "abcd"]), split="global_time")


def test_the_source_is_not_changed():
    source = raw(ROWS, items=["d", "a"])
    before = source.interactions.copy(), source.items.copy()
    prepare(source, k_core=2, tie_break="random:0")
    pd.testing.assert_frame_equal(source.interactions, before[0])
    pd.testing.assert_frame_equal(source.items, before[1])


def run_recipe(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["prepare_data.py", *map(str, arguments), "--debug"])
    runpy.run_path(str(Path(__file__).parents[1] / "recipes" / "prepare_data.py"), run_name="__main__")
    return capsys.readouterr().out


def test_recipe(tmp_path, monkeypatch, capsys):
    table = raw(ROWS).interactions.rename(columns={"user_id": "who"})
    table.to_csv(tmp_path / "toy.csv", index=False)
    (tmp_path / "config.yaml").write_text(f"source: {tmp_path}/toy.csv\ncolumns: [user_id=who]\nk_core: 0\n")
    run = ["--config", tmp_path / "config.yaml", "--data_dir", tmp_path / "data"]
    printed = run_recipe(monkeypatch, capsys, *run)
    assert "interactions     7\n" in printed and "min 3, median 3.5, max 4" in printed
    assert load_data(tmp_path / "data").info["name"] == "toy"
    assert str(tmp_path) not in (tmp_path / "data" / "dataset.json").read_text()
    assert run_recipe(monkeypatch, capsys, *run).startswith("already prepared")
    assert "times            positions, no dates\n" in printed
    with pytest.raises(ValueError, match="invalid choice: 'half'"):
        run_recipe(monkeypatch, capsys, *run, "--split", "half")
    for setting in ("k_core: 2.5", "min_user_events: 3.5", "min_rating: .nan"):
        (tmp_path / "wrong.yaml").write_text(f"source: {tmp_path}/toy.csv\n{setting}\n")
        with pytest.raises(ValueError, match=f"got {setting.split(':')[0]}[:=]"):
            run_recipe(monkeypatch, capsys, "--config", tmp_path / "wrong.yaml", "--data_dir", tmp_path / "other")
    with pytest.raises(ValueError, match="one name twice; map the names of the items with metadata_columns"):
        run_recipe(monkeypatch, capsys, *run, "--columns", "item_id=a", "item_id=b")
    with pytest.raises(ValueError, match="got metadata_columns 'sku'; write the name in genrec_hf, '='"):
        run_recipe(monkeypatch, capsys, *run, "--metadata_columns", "sku")
    with pytest.raises(ValueError, match="pass overwrite"):
        run_recipe(monkeypatch, capsys, *run, "--repeats", "merge")
    printed = run_recipe(monkeypatch, capsys, *run, "--repeats", "merge", "--overwrite", "--quiet")
    assert printed.endswith("2 users, 4 items, 6 events\n")


def test_recipe_reads_two_tables_and_states_what_it_decided(tmp_path, monkeypatch, capsys):
    lines = [f"u{user};sku{item};{1577836800 + 86_400 * item}" for user in range(3) for item in range(4)]
    (tmp_path / "log.csv").write_text("\n".join(["who;product;at", *lines]))
    (tmp_path / "items.csv").write_bytes("sku,name\nsku0,Café &amp; tea\nsku1,One\n".encode("latin-1"))
    columns = ["--columns", "user_id=who", "item_id=product", "timestamp=at"]
    items = ["--metadata", tmp_path / "items.csv", "--metadata_columns", "item_id=sku", "title=name", "--html", "true"]
    printed = run_recipe(
        monkeypatch, capsys, "--source", tmp_path / "log.csv", *columns, *items, "--data_dir", tmp_path / "data"
    )
    assert "times            2020-01-01 to 2020-01-04, in seconds\n" in printed
    data = load_data(tmp_path / "data")
    assert data.items["title"].tolist() == ["Café & tea", "One", "", ""]
    assert data.info["times"] == {"unit": "seconds", "first": "2020-01-01", "last": "2020-01-04"}
    assert data.info["notes"] == [
        "the columns of log.csv are separated by semicolon",
        "items.csv is not UTF-8 and was read as cp1252; set `encoding` for another one",
    ]


@pytest.mark.skipif(find_spec("recbole") is None, reason="the recbole wheel carries MovieLens-100K")
def test_ml_100k():
    data = prepare(read_source("ml-100k"))
    info = data.info
    assert (info["users"], info["items"], info["interactions"]) == (943, 1682, 100_000)
    assert len(data.cases("test")) == len(data.cases("validation")) == 943
    assert sum(map(len, data.training_sequences())) == 100_000 - 2 * 943
