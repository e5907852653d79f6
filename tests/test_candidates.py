"""Choosing among candidates: drawn without the answer, scored by arithmetic, the same order that ranks everything."""

import numpy as np
import pytest
from conftest import make_model, make_tokenizer

from genrec_hf import Recommender, SidVocabulary
from genrec_hf.data import EvaluationCases
from genrec_hf.evaluation import (
    Popularity,
    choose_candidates,
    evaluate_candidates,
    evaluate_data,
    print_report,
    rank_cases,
    write_report,
)
from genrec_hf.evaluation.display import markdown_report
from genrec_hf.generation import SearchSettings


def test_candidates_hold_the_target_and_nothing_else_of_the_history():
    rng = np.random.default_rng(0)
    histories = [rng.integers(50, size=rng.integers(1, 30)) for _ in range(400)]
    cases = EvaluationCases(np.arange(400), histories, rng.integers(50, size=400))
    drawn = cases.candidates(50, 20, seed=3)
    places, others = [], []
    for history, target, mine in zip(histories, cases.targets, drawn, strict=True):
        assert len(set(mine.tolist())) == len(mine) == 20 and target in mine
        assert not set(mine.tolist()) & set(history.tolist()) - {target}
        places.append(mine.tolist().index(target))
        others += [item for item in mine.tolist() if item != target]
    assert np.bincount(places, minlength=20).min() > 5, "the target may stand anywhere"
    counts = np.bincount(others, minlength=50)
    assert counts.min() > 0.7 * counts.mean(), "all items are drawn alike"
    again, elsewhere = cases.candidates(50, 20, seed=3), cases.candidates(50, 20, seed=4)
    assert all((one == other).all() for one, other in zip(drawn, again, strict=True))
    assert any((one != other).any() for one, other in zip(drawn, elsewhere, strict=True))
    moved = EvaluationCases(cases.users, histories, (cases.targets + 1) % 50).candidates(50, 20, seed=3)
    shared = [len(set(one.tolist()) & set(other.tolist())) for one, other in zip(drawn, moved, strict=True)]
    assert np.mean(shared) > 17, "the draws do not follow from the answer"
    nearly_all = EvaluationCases(np.array([0]), [np.arange(45)], np.array([49]))
    assert len(nearly_all.candidates(50)[0]) == 5


@pytest.mark.parametrize("count", [5000, 51, 1, 0, -3, True, 20.0, "20", None])
def test_a_number_of_candidates_that_would_not_be_drawn_is_refused(count):
    cases = EvaluationCases(np.array([0]), [np.array([1])], np.array([2]))
    with pytest.raises(ValueError, match=f"got candidates={count!r} of a catalogue of 50 items: .*draw 2 to 50"):
        cases.candidates(50, count)
    assert len(cases.candidates(50, np.int64(49))[0]) == 49


def test_what_is_chosen_stands_first_among_the_candidates():
    popularity = Popularity([np.array([3, 3, 3, 2, 2, 1])], 5)
    histories, candidates = [np.array([3]), np.array([0])], [np.array([4, 1, 2]), np.array([3, 4])]
    assert choose_candidates(popularity, histories, candidates).tolist() == [2, 3]


def test_hits_and_validity_by_hand():
    candidates = [np.array([1, 2]), np.array([3, 4]), np.array([5, 6]), np.array([7, 8])]
    chosen = {"mine": np.array([1, 4, -1, 9]), "other": np.array([2, 3, 5, 8])}
    rows = evaluate_candidates(chosen, np.arange(4), [1, 3, 5, 8], candidates=candidates)
    assert (rows["mine"]["hit@1"], rows["mine"]["valid_rate"]) == (1 / 4, 2 / 4)
    assert (rows["other"]["hit@1"], rows["other"]["valid_rate"]) == (3 / 4, 4 / 4)
    low, high = rows["mine"]["intervals"]["hit@1"]
    assert 0 <= low <= 1 / 4 <= high <= 1
    with pytest.raises(ValueError, match="1 of them without the target"):
        evaluate_candidates(chosen, np.arange(4), [1, 3, 5, 9], candidates=candidates)
    with pytest.raises(ValueError, match="got 3 choices of 'mine' for 4 cases"):
        evaluate_candidates({"mine": chosen["mine"][:3]}, np.arange(4), [1, 3, 5, 8], candidates=candidates)


def test_a_model_and_the_baselines_choose_from_the_same_lists(toy_data, toy_sids, tmp_path, capsys):
    tokenizer, model = make_tokenizer(), make_model()
    SidVocabulary(toy_sids).extend(tokenizer, model, init="random")
    recommender = Recommender(model, tokenizer, toy_sids, search=SearchSettings(24))
    cases = toy_data.cases("test")
    candidates = cases.candidates(24, 6)
    ranked = rank_cases(recommender, cases.histories, 24, candidates=candidates)
    chosen, whole = ranked.chosen, recommender.rank(cases.histories, 24, filter_seen=False).items
    first = [next(item for item in row if item in mine) for row, mine in zip(whole, candidates, strict=True)]
    assert chosen.tolist() == first
    report = evaluate_data(toy_data, "test", ranked, candidates=candidates, progress=False)
    systems = report["candidates"]["systems"]
    assert list(systems) == ["random", "popularity", "repeat", "markov1", "item_knn", "ease", "model"]
    assert all(row["valid_rate"] == 1 for row in systems.values()) and report["candidates"]["count"] == 6
    assert systems["model"]["hit@1"] == (chosen == cases.targets).mean()
    assert systems["markov1"]["hit@1"] > 0.9 > 0.4 > systems["random"]["hit@1"]
    write_report(report, tmp_path)
    table = (tmp_path / "metrics.md").read_text()
    assert "The target among 6 candidates, sampled uniformly" in table and "| markov1 | " in table.split("among")[1]
    print_report(report)
    assert "hit@1" in capsys.readouterr().out and report["candidates"]["fewest"] == 6


def test_a_report_says_where_lists_of_candidates_are_shorter(toy_data):
    cases = toy_data.cases("test")
    candidates = cases.candidates(24, 22)
    assert {len(each) for each in candidates} == {24 - 4}, "histories of 4 items leave 20"
    candidates[3] = cases.targets[3:4]
    report = evaluate_data(toy_data, "test", candidates=candidates, progress=False)
    assert (report["candidates"]["count"], report["candidates"]["fewest"]) == (20, 1)
    assert "The target among 1 to 20 candidates, sampled uniformly" in markdown_report(report)
