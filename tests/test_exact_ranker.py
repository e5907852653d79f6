"""Exact lists are a stable sort of the exact scores, and the model runs once for a history."""

import numpy as np
import pytest
from test_recommender import HISTORIES, ITEMS, attentive

from genrec_hf.generation import ExactRanker
from genrec_hf.models import SasRec, SasRecConfig
from genrec_hf.ranking import checked_ranking


def test_exact_lists_are_sorted_scores_and_the_model_runs_once_for_a_history(monkeypatch):
    rec, scored = attentive(), []
    scores = rec.score(HISTORIES)
    score = rec.score

    def counted(histories, **settings):
        scored.extend(histories)
        return score(histories, **settings)

    monkeypatch.setattr(rec, "score", counted)
    exact = ExactRanker(rec)
    assert exact.num_items == ITEMS
    for filter_seen in (True, False):
        ranking = checked_ranking(exact, [*HISTORIES, HISTORIES[0]], 6, filter_seen=filter_seen)
        for history, row, expected in zip(HISTORIES, ranking.items, scores.copy(), strict=False):
            expected[history if filter_seen else []] = -np.inf
            assert row.tolist() == np.argsort(-expected, kind="stable")[:6].tolist()
        assert (ranking.items[5] == ranking.items[0]).all()
    assert len(scored) == len(HISTORIES)


def test_a_ranker_without_a_beam_search_is_refused():
    sasrec = SasRec(SasRecConfig(items=4, hidden_size=8, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(ValueError, match="got SasRec for exact scores"):
        ExactRanker(sasrec)
