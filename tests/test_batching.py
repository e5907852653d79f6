"""Batches of similar length, whose results come back in the order of the users."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genrec_hf.generation import batching
from genrec_hf.generation.batching import rank_in_batches, score_in_batches
from genrec_hf.ranking import Ranking

LENGTHS = [5, 1, 3, 1, 2]


def ranker(batches):
    """Rank each user's own row first, and record the batches."""

    def rank_batch(users):
        batches.append(users)
        rows = np.array(users)
        return Ranking(np.stack([rows, rows + 10], axis=1), np.stack([-rows, -rows - 1], axis=1).astype(np.float32))

    return rank_batch


def test_batches_are_of_similar_length_and_lists_in_the_order_of_users():
    batches = []
    ranking = rank_in_batches(ranker(batches), LENGTHS, k=2, batch_size=2)
    assert batches == [[1, 3], [4, 2], [0]]
    assert ranking.items.tolist() == [[user, user + 10] for user in range(5)]
    assert ranking.scores.tolist() == [[-user, -user - 1] for user in range(5)]
    empty = rank_in_batches(ranker(batches), [], k=2, batch_size=2)
    assert empty.items.shape == (0, 2) and len(batches) == 3


def test_scores_come_back_in_the_order_of_users():
    batches = []

    def score_batch(users):
        batches.append(users)
        return np.array(users)[:, None] + np.arange(3)

    scores = score_in_batches(score_batch, LENGTHS, items=3, batch_size=2)
    assert batches == [[1, 3], [4, 2], [0]] and scores.dtype == np.float32
    assert scores.tolist() == [[user, user + 1, user + 2] for user in range(5)]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batches_of_one(monkeypatch, processes):
    alone = rank_in_batches(ranker([]), LENGTHS, k=2, batch_size=2)
    totals = {torch.int64: torch.from_numpy(alone.items + 1), torch.float32: torch.from_numpy(alone.scores)}
    parts, batches = [], []
    monkeypatch.setattr(batching, "reduce", lambda tensor, _: parts.append(tensor) or totals[tensor.dtype])
    for process in range(processes):
        state = SimpleNamespace(
            process_index=process, num_processes=processes, is_main_process=process == 0, device="cpu"
        )
        ranking = rank_in_batches(ranker(batches), LENGTHS, k=2, batch_size=2, state=state)
        np.testing.assert_array_equal(ranking.items, alone.items)
    assert sorted(batches) == [[0], [1, 3], [4, 2]]
    for dtype, total in totals.items():
        assert torch.equal(sum(part for part in parts if part.dtype == dtype), total)
