"""Filters of seen items: what they leave is counted, and targets that they put out of reach are told."""

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from genrec_hf import Recommender
from genrec_hf.data import InteractionData, RawData, prepare
from genrec_hf.evaluation import (
    RankedCases,
    compare_lists,
    count_available_items,
    evaluate_baselines,
    evaluate_data,
    evaluate_recommendations,
    filtered_targets,
    print_report,
    write_report,
)
from genrec_hf.evaluation.comparison import comparison_markdown
from genrec_hf.ranking import Ranking
from genrec_hf.training.validation import RankingCallback


def shop(again: int, items: int = 7) -> InteractionData:
    """Ten users of five events each; the last event of the first `again` is an item that they had."""
    events = []
    for user in range(10):
        sequence = [user % items, (user + 1) % items, (user + 2) % items, (user + 3) % items]
        sequence.append(sequence[0] if user < again else (user + 4) % items)
        events += [{"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": t} for t, item in enumerate(sequence)]
    table = pd.DataFrame({"item_id": [f"i{item}" for item in range(items)], "title": "thing"})
    return prepare(RawData(name="shop", interactions=pd.DataFrame(events), items=table))


def test_what_a_filter_leaves_is_counted_once_an_item():
    assert count_available_items([[3, 3, 1], [], np.arange(7)], items=7).tolist() == [5, 7, 0]
    assert count_available_items([], items=7).tolist() == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert filtered_targets([[3, 1], [2]], [0, 1]) == 0 and filtered_targets([], []) == 0
        assert filtered_targets([[3, 1], [2]], [0, 2], warn=False) == 1 / 2
    with pytest.warns(UserWarning, match=r"50\.0% of the targets are in their own histories.*filter_seen=False"):
        filtered_targets([np.array([3, 1]), np.array([2])], np.array([0, 2]))
    with pytest.warns(UserWarning, match=r"100\.0% .*and every metric is 0"):
        filtered_targets([[3, 1], [2]], [3, 2])


def ranking_of(items):
    return Ranking(items, np.where(items >= 0, np.float32(0), -np.inf))


def test_a_list_longer_than_what_is_left_is_not_invalid():
    # A catalogue of 7 and lists of 7: a history of 4 items leaves 3 of them.
    data = shop(again=0)
    cases = data.cases("test")
    lists = np.full((10, 7), -1)
    for row, history in zip(lists, cases.histories, strict=True):
        row[:3] = np.setdiff1d(np.arange(7), history)
    everything = np.tile(np.arange(7), (10, 1))
    ranked = RankedCases({True: ranking_of(lists), False: ranking_of(everything)}, {True: 0.0, False: 0.0})
    report = evaluate_data(data, "test", ranked, progress=False)
    for section in (report, report["unfiltered"]):
        assert [row["invalid_rate"] for row in (section["model"], *section["baselines"].values())] == [0] * 7
    lists[0, 0] = -1  # and what is missing still is
    ranked = RankedCases({True: ranking_of(lists)}, {True: 0.0})
    report = evaluate_data(data, "test", ranked, progress=False)
    assert report["model"]["invalid_rate"] == 1 / (10 * 3)
    common = {"items": 7, "ks": [1, 5]}
    assert evaluate_recommendations(lists, cases.users, cases.targets, **common)["invalid_rate"] == 41 / 70


@pytest.mark.parametrize(("again", "share"), [(0, None), (4, "40.0%"), (10, "100.0%")])
def test_targets_that_a_filter_hides_are_told(again, share, tmp_path, capsys):
    data = shop(again)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = evaluate_data(data, "test", progress=False)
    told = [str(each.message) for each in caught if "of the targets" in str(each.message)]
    assert len(told) == (share is not None) and all(message.startswith(str(share)) for message in told)
    assert report["protocol"].get("filtered_targets", 0) == again / 10
    assert "filtered_targets" not in report["unfiltered"]["protocol"]
    write_report(report, tmp_path)
    print_report(report)
    for text in ((tmp_path / "metrics.md").read_text(), capsys.readouterr().out):
        assert text.count("which no system can hit in this setting") == (share is not None)
        assert f"{share} of the targets are seen items" in text or share is None
    best = max(row["recall@5"] for row in report["baselines"].values())
    assert best <= 1 - again / 10


def test_baselines_and_comparisons_tell_too():
    data = shop(again=10)
    cases = data.cases("test")
    sequences = (data.training_sequences(), cases.histories)
    given = {"users": cases.users, "targets": cases.targets, "items": 7, "ks": (1, 3), "progress": False}
    with pytest.warns(UserWarning, match="every metric is 0"):
        rows = evaluate_baselines(*sequences, **given)
    assert all(row["recall@3"] == 0 == row["invalid_rate"] for row in rows.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate_baselines(*sequences, **given, filter_seen=False)
    lists = {name: [np.tile(np.arange(5), (10, 1))] for name in "ab"}
    report = compare_lists(
        lists, cases.users, cases.targets, events=np.ones(7), reference="a", protocol={"filtered_targets": 1.0}
    )
    assert "100.0% of the targets are seen items, which no system can hit" in comparison_markdown(report)


def test_rankings_while_training_tell_too():
    cases = shop(again=10).cases("test")
    trainer: Any = SimpleNamespace(
        is_fsdp_enabled=False, accelerator=SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=None))
    )
    with pytest.warns(UserWarning, match="every metric is 0"):
        RankingCallback(trainer, Recommender, cases, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RankingCallback(trainer, Recommender, shop(again=0).cases("test"), steps=1)
