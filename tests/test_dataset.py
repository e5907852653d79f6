"""The two tables on disk and in memory: rows are items and users, and nothing that is broken loads."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest

from genrec_hf.data import EvaluationCases, InteractionData, catalogue_fingerprint, load_data, prepare, save_data
from genrec_hf.data.dataset import data_fingerprint
from genrec_hf.data.readers import RawData


def toy(split: str = "leave_one_out", seed: int = 0) -> InteractionData:
    rng = np.random.default_rng(seed)
    events = pd.DataFrame(
        {"user_id": [f"u{k % 7}" for k in range(70)], "item_id": [f"i{k}" for k in rng.integers(0, 12, 70)]}
    ).assign(timestamp=rng.integers(0, 50, 70), rating=4.0)
    items = pd.DataFrame({"item_id": [f"i{k}" for k in range(12)], "title": [f"Title {k} — ☃" for k in range(12)]})
    return prepare(RawData("toy", events, items), split=split)


@pytest.mark.parametrize("split", ["leave_one_out", "global_time"])
def test_cases_agree_with_a_plain_loop(split):
    data = toy(split)
    item_of = {item_id: row for row, item_id in enumerate(data.item_ids)}
    for name in ("validation", "test"):
        expected, past = [], {}
        for event in data.interactions.itertuples():
            history = past.setdefault(event.user_id, [])
            if event.split == name and history:
                expected.append((data.user_ids.index(event.user_id), list(history), item_of[event.item_id]))
            history.append(item_of[event.item_id])
        cases = data.cases(name)
        found = zip(cases.users.tolist(), map(list, cases.histories), cases.targets.tolist(), strict=True)
        assert list(found) == expected and len(cases) == len(expected) > 0
        assert cases.users.dtype == cases.targets.dtype == cases.histories[0].dtype == np.int64


@pytest.mark.parametrize("split", ["leave_one_out", "global_time"])
def test_the_age_of_a_target_is_counted_from_its_first_training_event(split):
    data = toy(split)
    first = data.interactions.query("split == 'train'").groupby("item_id")["timestamp"].min()
    for name in ("validation", "test"):
        cases, ages = data.cases(name), data.target_ages(name)
        assert len(ages) == len(cases)
        for user, history, target, age in zip(cases.users, cases.histories, cases.targets, ages, strict=True):
            mine = data.interactions[data.interactions["user_id"] == data.user_ids[user]]
            event, item_id = mine.iloc[len(history)], data.item_ids[target]
            assert event["item_id"] == item_id and event["split"] == name
            known = item_id in first.index
            assert (age == max(0, event["timestamp"] - first[item_id])) if known else np.isnan(age)
    with pytest.raises(ValueError, match="got split='train'"):
        data.target_ages("train")


def test_training_sequences_are_the_train_events_of_each_user():
    data = toy("global_time")
    train = data.interactions.query("split == 'train'")
    sequences = data.training_sequences()
    assert len(sequences) == len(data.user_ids) == 7
    for user, sequence in zip(data.user_ids, sequences, strict=True):
        assert [data.item_ids[item] for item in sequence] == train["item_id"][train["user_id"] == user].tolist()


def test_leave_one_out_has_a_case_a_user_and_no_target_in_train():
    data = toy()
    validation, test = data.cases("validation"), data.cases("test")
    assert len(validation) == len(test) == 7
    for train, before, last, target in zip(
        data.training_sequences(), validation.histories, test.histories, validation.targets, strict=True
    ):
        assert train.tolist() == before.tolist() == last[:-1].tolist() and last[-1] == target


def test_a_user_without_train_events_has_an_empty_sequence_and_no_case_without_history():
    rows = [("old", "a", 1), ("old", "b", 2), ("old", "a", 3), ("old", "b", 4), ("new", "a", 9), ("new", "b", 10)]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    table["split"] = ["train"] * 3 + ["validation"] + ["test"] * 2
    data = InteractionData(table, pd.DataFrame({"item_id": ["a", "b"]}), {})
    assert [len(sequence) for sequence in data.training_sequences()] == [3, 0]
    assert data.item_counts().tolist() == [2, 1]
    assert data.cases("test").users.tolist() == [1] and data.cases("test").histories[0].tolist() == [0]


def test_select_takes_cases_in_the_order_asked():
    cases = EvaluationCases(np.arange(3), [np.array([k]) for k in range(3)], np.array([5, 6, 7]))
    chosen = cases.select([2, 0])
    assert chosen.targets.tolist() == [7, 5] and [h.tolist() for h in chosen.histories] == [[2], [0]]
    assert len(cases.select([])) == 0


def test_unknown_split_says_which_there_are():
    with pytest.raises(ValueError, match="got split='train'; use one of"):
        toy().cases("train")


def test_round_trip_and_the_datasets_library(tmp_path):
    data = toy()
    save_data(data, tmp_path / "nested" / "data")
    loaded = load_data(tmp_path / "nested" / "data")
    pd.testing.assert_frame_equal(loaded.interactions, data.interactions)
    pd.testing.assert_frame_equal(loaded.items, data.items)
    assert loaded.info == data.info
    assert sorted(file.name for file in (tmp_path / "nested").iterdir()) == ["data"]
    for name, table in {"interactions": data.interactions, "items": data.items}.items():
        file = str(tmp_path / "nested" / "data" / f"{name}.parquet")
        rows = datasets.load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path / "cache"))
        assert rows.column_names == table.columns.tolist() and rows.to_list() == table.to_dict("records")


def test_a_different_data_set_is_not_overwritten_unless_asked(tmp_path):
    save_data(toy(), tmp_path)
    (tmp_path / "item_embeddings.safetensors").touch()
    save_data(toy(), tmp_path)
    other = toy(seed=1)
    with pytest.raises(
        ValueError,
        match=r"holds a data set with .* another data_dir, or pass .*--overwrite true",
    ):
        save_data(other, tmp_path)
    assert load_data(tmp_path).info == toy().info
    save_data(other, tmp_path, overwrite=True)
    assert load_data(tmp_path).info == other.info
    assert (tmp_path / "item_embeddings.safetensors").exists()


def test_what_an_earlier_version_did_not_write_down_is_no_difference(tmp_path):
    data = toy()
    earlier = {key: value for key, value in data.info.items() if key not in ("times", "notes")}
    save_data(InteractionData(data.interactions, data.items, earlier), tmp_path)
    save_data(data, tmp_path)
    assert load_data(tmp_path).info == data.info


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    data = toy()
    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    with pytest.raises(OSError, match="disk full"):
        save_data(data, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_belong_together_does_not_load(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"without \['dataset\.json', .* run recipes/prepare_data.py"):
        load_data(tmp_path)
    save_data(toy(), tmp_path)
    info = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**info, "fingerprint": "0" * 16}))
    with pytest.raises(ValueError, match=r"dataset\.json says 0000000000000000"):
        load_data(tmp_path)
    toy().items.iloc[:-1].to_parquet(tmp_path / "items.parquet")
    with pytest.raises(ValueError, match="item id 'i11' has interactions and no row in items"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda events, items: (events.drop(columns="split"), items), r"interactions have no column \['split'\]"),
        (lambda events, items: (events, items.drop(columns="item_id")), r"items have no column \['item_id'\]"),
        (lambda events, items: (events, pd.concat([items, items[:1]])), "item id 'i0' is in two rows of items"),
        (lambda events, items: (events.assign(split="dev"), items), "got split='dev'; use one of train"),
        (lambda events, items: (events.sample(frac=1, random_state=0), items), "user by user, oldest first"),
        (lambda events, items: (events.assign(timestamp=-events["timestamp"]), items), "user by user, oldest first"),
    ],
)
def test_broken_tables_say_what_is_wrong(change, message):
    data = toy()
    with pytest.raises(ValueError, match=message):
        InteractionData(*change(data.interactions, data.items), {})


def test_fingerprints_follow_content_and_order():
    assert toy().info["fingerprint"] == toy().info["fingerprint"] != toy(seed=1).info["fingerprint"]
    assert toy().info["fingerprint"] != toy("global_time").info["fingerprint"]
    assert catalogue_fingerprint(["a", "b"]) != catalogue_fingerprint(["ab"])


def test_what_users_wrote_is_part_of_the_content():
    data = toy()
    prints = [data_fingerprint(data.interactions.assign(review=text), data.items) for text in ("a", "b")]
    assert len({*prints, data.info["fingerprint"]}) == 3
