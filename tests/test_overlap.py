"""Hits and lists that rankers have in common, and paired differences of a fused one: by hand."""

import numpy as np
import pytest

from genrec_hf.evaluation import compare_overlap, evaluate_data, paired_bootstrap, write_report
from genrec_hf.evaluation.overlap import overlap_blocks

USERS, TARGETS = np.arange(4), np.array([0, 1, 2, 3])
# Hits at 2: `a` of the cases 0, 1 and 2, `b` of 1 and 3, `c` of none; `a` has an empty rank.
LISTS = {
    "a": [[0, 4], [1, 5], [4, 2], [6, -1]],
    "b": [[4, 5], [5, 1], [4, 6], [6, 3]],
    "c": [[7, 8], [7, 8], [7, 8], [7, 8]],
}


def test_shares_and_overlaps_are_those_by_hand():
    overlap = compare_overlap(LISTS, USERS, TARGETS, fused=LISTS["a"], cutoff=2)
    assert overlap["cutoff"] == 2 and overlap["systems"] == ["a", "b", "c"]
    assert overlap["hit_by_any"] == 4 / 4 and overlap["hit_by_all"] == 0
    low, high = overlap["intervals"]["hit_by_any"]
    assert low == high == 1
    pairs = {tuple(pair["systems"]): pair for pair in overlap["pairs"]}
    assert list(pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs["a", "b"]["hits"] == 1 / 4  # case 1, of 0, 1, 2 and 3
    assert pairs["a", "b"]["lists"] == (1 / 2 + 2 / 2 + 1 / 2 + 1 / 2) / 4
    assert pairs["b", "c"] == {"systems": ["b", "c"], "hits": 0, "lists": 0}


def test_nobody_hits_and_the_cutoff_is_the_shortest_list():
    overlap = compare_overlap({"c": LISTS["c"], "d": [[8]] * 4}, USERS, TARGETS, fused=LISTS["c"])
    assert overlap["cutoff"] == 1 and overlap["hit_by_any"] == 0
    assert overlap["pairs"] == [{"systems": ["c", "d"], "hits": 0, "lists": 0}]


def test_differences_are_those_of_the_fused_ranker_paired_by_user():
    users = np.array([0, 0, 1, 2])
    overlap = compare_overlap(LISTS, users, TARGETS, fused=LISTS["a"], cutoff=2, seed=3)
    assert list(overlap["differences"]) == ["a", "b", "c"]
    assert overlap["differences"]["a"]["recall@2"] == {"difference": 0, "low": 0, "high": 0, "p": 1}
    expected = paired_bootstrap([1, 1, 1, 0], [0, 1, 0, 1], users, seed=3)
    assert overlap["differences"]["b"]["recall@2"] == expected and expected["difference"] == 3 / 4 - 2 / 4
    gain = overlap["differences"]["c"]["ndcg@2"]["difference"]
    assert gain == pytest.approx((1 / np.log2(2) + 1 / np.log2(2) + 1 / np.log2(3)) / 4)


def test_lists_of_other_cases_are_refused():
    with pytest.raises(ValueError, match=r"got 2 rankers with \[3, 4\] cases"):
        compare_overlap({"a": LISTS["a"], "b": LISTS["b"][:3]}, USERS, TARGETS, fused=LISTS["a"])
    with pytest.raises(ValueError, match="got 0 rankers"):
        compare_overlap({}, USERS, TARGETS, fused=LISTS["a"])


def test_a_report_shows_the_overlap(toy_data, tmp_path):
    report = evaluate_data(toy_data, "test", progress=False)
    report["overlap"] = compare_overlap(LISTS, USERS, TARGETS, fused=LISTS["a"], cutoff=2)
    write_report(report, tmp_path)
    text = (tmp_path / "metrics.md").read_text()
    assert "## Overlap of the rankers, and paired differences\n\nShare of cases whose target is in the top 2" in text
    assert "| a | b | 0.250 | 0.625 |" in text and "of at least one of a, b, c: 1.0000 [1.0000, 1.0000]" in text
    blocks = overlap_blocks(report["overlap"])
    assert len(blocks) == 3 and blocks[2].splitlines()[0].startswith(
        "| fused, minus | recall@2 | ndcg@2 | p, recall@2"
    )
    assert len(overlap_blocks(compare_overlap({"a": LISTS["a"]}, USERS, TARGETS, fused=LISTS["a"]))) == 2
