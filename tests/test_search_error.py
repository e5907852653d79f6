"""Lists of beams against exact lists: shares and paired differences are the arithmetic, and reports show them."""

import numpy as np
import pytest

from genrec_hf.evaluation import (
    add_search_error,
    compare_with_exact,
    evaluate_data,
    print_report,
    rank_cases,
    write_report,
)
from genrec_hf.ranking import Ranking


class Fixed:
    """Ranks rows by a fixed order, the first `lost` of which it does not find."""

    def __init__(self, items, lost):
        self.order = np.roll(np.arange(items), -lost)

    def rank(self, histories, k, *, filter_seen=True, allow=None, deny=None, progress=False):
        rows = [[item for item in self.order if not filter_seen or item not in history][:k] for history in histories]
        rows = np.array([[*row, *[-1] * (k - len(row))] for row in rows])
        return Ranking(rows, np.where(rows < 0, -np.inf, -np.arange(k)).astype(np.float32))


def test_the_difference_is_that_of_the_metrics_and_identical_counts_the_order():
    beams, exact = [[3, 1, 2], [2, 0, 1], [0, 1, 2]], [[3, 1, 0], [0, 2, 1], [1, 0, 2]]
    error = compare_with_exact(beams, exact, [0, 1, 2], targets=[3, 2, 5], k=2)
    assert error["k"] == 2 and error["identical"] == 1 / 3
    assert error["above_exact"]["recall@2"]["difference"] == 0
    assert error["above_exact"]["ndcg@2"]["difference"] == pytest.approx((1 - 1 / np.log2(3)) / 3)
    assert error["above_exact"]["ndcg@2"]["low"] <= error["above_exact"]["ndcg@2"]["high"]


def test_a_report_shows_what_the_beams_miss(toy_data, tmp_path, capsys):
    cases, items = toy_data.cases("test"), len(toy_data.item_ids)
    exact, ranked = Fixed(items, 0), rank_cases(Fixed(items, 2), toy_data.cases("test").histories, items)
    report = evaluate_data(toy_data, "test", ranked, other_rankers={"model_exact": exact}, progress=False)
    add_search_error(report, ranked, exact, cases=cases)
    for section in (report, report["unfiltered"]):
        difference = section["model"]["recall@10"] - section["baselines"]["model_exact"]["recall@10"]
        error = section["search_error"]
        assert error["above_exact"]["recall@10"]["difference"] == pytest.approx(difference)
        assert error["identical"] < 1
    write_report(report, tmp_path)
    print_report(report)
    for text in ((tmp_path / "metrics.md").read_text(), capsys.readouterr().out):
        assert text.count("Beam search against exact scores: the top 10 is identical in 0.0% of the cases") >= 1
        assert text.count("paired differences of model to model_exact: recall@10 ") == 2
