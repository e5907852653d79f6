"""Reports: every user counted, one protocol, and files that say what they hold."""

import json

import numpy as np
import pytest

from genrec_hf.evaluation import (
    build_report,
    evaluate_baselines,
    evaluate_data,
    evaluate_recommendations,
    print_report,
    write_report,
)
from genrec_hf.evaluation.slices import AGES

ITEMS = 30
KS = (1, 5, 10)


@pytest.fixture(scope="module")
def report():
    rng = np.random.default_rng(0)
    sequences = [rng.integers(ITEMS, size=8) for _ in range(40)]
    users, targets, histories = np.arange(40), [s[-1] for s in sequences], [s[:-1] for s in sequences]
    training = [s[:-2] for s in sequences]
    rows = {
        seen: evaluate_baselines(
            training, histories, users=users, targets=targets, items=ITEMS, ks=KS, filter_seen=seen, progress=False
        )
        for seen in (True, False)
    }
    lists = np.argsort(rng.random((40, ITEMS)), axis=1)[:, :10]
    model = evaluate_recommendations(lists, users, targets, items=ITEMS, ks=KS)
    return build_report(
        dataset="toy",
        split="leave-one-out",
        tie_break="file order",
        items=np.int64(ITEMS),
        baselines=rows[True],
        model=model,
        unfiltered_baselines=rows[False],
        unfiltered_model=model,
        info={"base_model": "tiny", "seconds": np.float32(1.5)},
    )


def test_means_counts_and_rates_are_the_arithmetic():
    lists, users = [[4, 1, 1], [2, 3, -1], [0, 1, 2], [3, 9, 0]], ["ann", "ann", "bob", "cat"]
    row = evaluate_recommendations(lists, users, [1, 2, 4, 3], items=5, ks=[1, 3])
    assert row["recall@1"] == 2 / 4
    assert row["recall@3"] == 3 / 4
    assert row["ndcg@3"] == pytest.approx((1 / np.log2(3) + 1 + 0 + 1) / 4)
    assert row["mrr@3"] == (1 / 2 + 1 + 0 + 1) / 4
    assert (row["invalid_rate"], row["duplicate_rate"], row["coverage@3"]) == (2 / 12, 1 / 12, 5 / 5)
    assert (row["cases"], row["users"]) == (4, 3)
    assert set(row["intervals"]) == {f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in (1, 3)}
    for name, (low, high) in row["intervals"].items():
        assert 0 <= low <= row[name] <= high <= 1


def test_slices_are_means_over_their_cases():
    lists, mine = [[4, 1], [2, 3], [0, 1], [3, 0]], np.array([True, False, True, False])
    none = np.zeros(4, dtype=bool)
    row = evaluate_recommendations(
        lists, range(4), [1, 2, 4, 0], items=5, ks=[1, 2], slices={"a": mine, "b": ~mine, "c": none}
    )
    assert row["slices"] == {
        "a": {"cases": 2, "recall@2": 1 / 2, "ndcg@2": pytest.approx(1 / np.log2(3) / 2)},
        "b": {"cases": 2, "recall@2": 2 / 2, "ndcg@2": pytest.approx((1 + 1 / np.log2(3)) / 2)},
    }


def test_a_data_sets_report_shows_how_rare_and_new_targets_fare(toy_data, tmp_path):
    report = evaluate_data(toy_data, "test", progress=False)
    for section in (report, report["unfiltered"]):
        for row in section["baselines"].values():
            slices = row["slices"]
            rare, aged = ([slices[name] for name in slices if (name in AGES) == wanted] for wanted in (False, True))
            unseen = slices.get("unseen", {"cases": 0})["cases"]
            assert (sum(each["cases"] for each in rare), sum(each["cases"] for each in aged)) == (60, 60 - unseen)
            whole = sum(each["cases"] * each["recall@10"] for each in rare) / 60
            assert whole == pytest.approx(row["recall@10"])
    write_report(report, tmp_path)
    table = (tmp_path / "metrics.md").read_text()
    assert table.count("By training events of the target") == 2 and "| recall@10, ndcg@10 | " in table
    assert table.count("By time since the target's first training event") == 2 and "newest third (" in table


def test_a_hit_on_the_sid_is_no_hit_on_the_item():
    # Items 0 and 2 collide; the second list reaches the group of its target one rank before the target itself.
    lists, targets, groups = [[0, 1], [0, 2], [1, 3]], [2, 2, 0], [70, 5, 70, 9]
    row = evaluate_recommendations(lists, [0, 1, 2], targets, items=4, ks=[1, 2], sid_groups=groups)
    assert (row["recall@1"], row["sid_recall@1"]) == (0 / 3, 2 / 3)
    assert (row["recall@2"], row["sid_recall@2"]) == (1 / 3, 2 / 3)


def test_sid_level_equals_item_level_without_collisions():
    lists, targets = [[0, 1], [-1, 7]], [1, 2]
    for groups in (None, [3, 2, 1, 0]):
        row = evaluate_recommendations(lists, [0, 1], targets, items=4, ks=[2], sid_groups=groups)
        assert row["sid_recall@2"] == row["recall@2"] == 1 / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": [0]}, "2 lists, 2 targets and 1 users"),
        ({"targets": [1]}, "2 lists, 1 targets and 2 users"),
        ({"targets": [1, 4]}, "got target 4 for 4 items"),
        ({"ks": [1, 3]}, "got k=3 for lists of 2 ranks"),
        ({"sid_groups": [0, 1]}, "got sid_groups of shape"),
    ],
)
def test_evaluation_refuses(arguments, message):
    good = {"recommended": [[0, 1], [2, 3]], "users": [0, 1], "targets": [1, 2], "items": 4, "ks": [1, 2]}
    with pytest.raises(ValueError, match=message):
        evaluate_recommendations(**(good | arguments))


def test_baselines_are_the_four_and_keep_to_the_setting(report):
    assert list(report["baselines"]) == ["random", "popularity", "repeat", "markov1"]
    assert report["baselines"]["repeat"] == report["baselines"]["popularity"]
    assert report["unfiltered"]["baselines"]["repeat"] != report["unfiltered"]["baselines"]["popularity"]
    for section in (report, report["unfiltered"]):
        for row in [section["model"], *section["baselines"].values()]:
            assert (row["cases"], row["users"], row["invalid_rate"]) == (40, 40, 0)


def test_the_protocol_says_what_makes_figures_comparable(report):
    protocol = report["protocol"]
    assert protocol | {"bootstrap": None} == {
        "dataset": "toy",
        "split": "leave-one-out",
        "tie_break": "file order",
        "filter_seen": True,
        "users": 40,
        "cases": 40,
        "items": 30,
        "bootstrap": None,
        "base_model": "tiny",
        "seconds": 1.5,
    }
    assert protocol["bootstrap"] == {"unit": "users", "resamples": 1000, "confidence": 0.95, "seed": 0}
    assert report["unfiltered"]["protocol"] == protocol | {"filter_seen": False}


def test_systems_of_different_cases_are_not_put_side_by_side(report):
    fewer = dict(report["model"], users=39, cases=39)
    names = {"dataset": "toy", "split": "leave-one-out", "tie_break": "file order", "items": ITEMS}
    with pytest.raises(ValueError, match=r"\[\(39, 39\), \(40, 40\)\]"):
        build_report(**names, baselines=report["baselines"], model=fewer)
    with pytest.raises(ValueError, match="at least one"):
        build_report(**names, baselines={})


def test_a_report_may_lack_the_model_or_the_other_setting(report, tmp_path):
    names = {"dataset": "toy", "split": "leave-one-out", "tie_break": "file order", "items": ITEMS}
    for given in ({"baselines": report["baselines"]}, {"baselines": {}, "model": report["model"]}):
        partial = build_report(**names, **given)
        assert "unfiltered" not in partial and ("model" in partial) == ("model" in given)
        write_report(partial, tmp_path)
        print_report(partial)
    assert "allowed" not in (tmp_path / "metrics.md").read_text()


def test_the_three_files(report, tmp_path):
    write_report(report, tmp_path / "new" / "run")
    files = {path.name: path for path in (tmp_path / "new" / "run").iterdir()}
    assert set(files) == {"metrics.json", "metrics.md", "metrics.png"}
    assert json.loads(files["metrics.json"].read_text()) == report
    assert files["metrics.png"].read_bytes().startswith(b"\x89PNG")
    table = files["metrics.md"].read_text()
    for words in ("leave-one-out", "tie_break file order", "filter_seen true and false", "40 users", "30 items"):
        assert words in table
    model = report["model"]
    low, high = model["intervals"]["ndcg@10"]
    figures = [f"{value:.4f}".removeprefix("0") for value in (model["ndcg@10"], low, high)]
    assert "{} [{}, {}]".format(*figures) in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * (2 + 5) and len({row.count("|") for row in rows}) == 1


def test_the_terminal_shows_every_system_in_both_settings(report, capsys):
    print_report(report)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    for name in ("model", "random", "popularity", "repeat", "markov1"):
        assert sum(line.startswith(name) for line in text.splitlines()) == 2
    assert "seen items filtered" in text and "seen items allowed" in text


def test_a_directory_belongs_to_one_data_set(report, tmp_path):
    write_report(report, tmp_path)
    write_report(report, tmp_path)
    other = report | {"protocol": report["protocol"] | {"dataset": "beauty"}}
    before = (tmp_path / "metrics.json").read_bytes()
    with pytest.raises(ValueError, match="output directory of another data set"):
        write_report(other, tmp_path)
    assert (tmp_path / "metrics.json").read_bytes() == before


def test_the_fingerprint_knows_a_data_set_under_another_name(report, tmp_path):
    def named(dataset: str, fingerprint: str) -> dict:
        return report | {"protocol": report["protocol"] | {"dataset": dataset, "fingerprint": fingerprint}}

    write_report(named("toy", "abc"), tmp_path)
    write_report(named("./data/toy", "abc"), tmp_path)
    with pytest.raises(ValueError, match="fingerprint differs"):
        write_report(named("toy", "def"), tmp_path)
