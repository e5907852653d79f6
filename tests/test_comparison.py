"""Systems side by side: means over seeds, paired differences, coverage and popularity, three files."""

import json

import numpy as np
import pytest

from genrec_hf.evaluation import compare_lists, list_popularity, paired_bootstrap, per_case_metrics, write_comparison
from genrec_hf.evaluation.comparison import comparison_markdown

RNG = np.random.default_rng(3)
USERS, TARGETS, EVENTS = np.arange(50), RNG.integers(30, size=50), np.arange(30)[::-1]
LISTS = [np.stack([RNG.permutation(30)[:12] for _ in USERS]) for _ in range(3)]


def better(lists):
    """The same lists with the target of every other user in front."""
    found = np.concatenate([TARGETS[:, None], lists], axis=1)[:, :12]
    return np.where((USERS % 2 == 0)[:, None], found, lists)


def test_differences_are_paired_means_over_seeds(tmp_path):
    mine = [better(LISTS[0]), better(LISTS[1])]
    report = compare_lists(
        {"start": LISTS, "new": mine}, USERS, TARGETS, events=EVENTS, reference="start", protocol={"dataset": "toy"}
    )
    new, start = report["systems"]["new"], report["systems"]["start"]
    for metric in ("recall@10", "ndcg@10"):
        values = [
            np.mean([per_case_metrics(each, TARGETS, ks=(10,))[metric] for each in seeds], axis=0)
            for seeds in (mine, LISTS)
        ]
        assert new[metric] == pytest.approx(values[0].mean()) and start[metric] == pytest.approx(values[1].mean())
        assert new["above_reference"][metric] == pytest.approx(paired_bootstrap(*values, USERS))
        assert start["above_reference"][metric]["difference"] == 0
        low, high = new["intervals"][metric]
        assert low <= new[metric] <= high and len(new["seeds"]) == 2 and len(start["seeds"]) == 3
    assert start["popularity@10"] == pytest.approx(np.mean([EVENTS[each[:, :10]].mean() for each in LISTS]))
    assert start["coverage@10"] == 1 and report["protocol"]["reference"] == "start"

    write_comparison(report, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "comparison.json").read_text()) == json.loads(json.dumps(report))
    assert (tmp_path / "new" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "new" / "comparison.md").read_text()
    assert table == comparison_markdown(report) and "## Differences to start, paired by user" in table
    assert f"{new['above_reference']['ndcg@10']['difference']:+.4f}" in table.splitlines()[-1]


def test_short_lists_count_whole_and_empty_ranks_are_not_popular():
    short = np.array([[0, -1], [1, 0]])
    report = compare_lists({"a": [short], "b": [short]}, [0, 1], [0, 0], events=[8, 2], reference="a")
    assert report["systems"]["b"]["recall@2"] == 1 and report["systems"]["b"]["popularity@2"] == 6
    assert list_popularity([[-1, -1]], [8, 2], 2) == 0


def test_what_answers_freely_has_its_validity():
    free = {"b": [np.array([1.0, 0.5] * 25), np.array([0.5] * 50)]}
    report = compare_lists(
        {"a": LISTS[:1], "b": LISTS[:2]}, USERS, TARGETS, events=EVENTS, reference="a", unconstrained=free
    )
    assert (
        report["systems"]["b"]["unconstrained_validity"] == 0.625
        and "unconstrained_validity" not in report["systems"]["a"]
    )
    table = [line.split(" | ") for line in comparison_markdown(report).splitlines() if line.startswith(("| a", "| b"))]
    assert [row[-1] for row in table[:2]] == [" |", "0.6250 |"]


def test_what_does_not_compare_is_refused():
    with pytest.raises(ValueError, match="the reference 'c' for the systems a, b"):
        compare_lists({"a": LISTS[:1], "b": LISTS[:1]}, USERS, TARGETS, events=EVENTS, reference="c")
    with pytest.raises(ValueError, match="lists of 'b' for 50 targets"):
        compare_lists({"a": LISTS[:1], "b": [LISTS[0][:9]]}, USERS, TARGETS, events=EVENTS, reference="a")
    with pytest.raises(ValueError, match="at least one seed for every system"):
        compare_lists({"a": LISTS[:1], "b": []}, USERS, TARGETS, events=EVENTS, reference="a")
