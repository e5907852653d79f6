"""Rewards, each by hand."""

import numpy as np
import pytest
import torch

from genrec_hf import SasRec
from genrec_hf.models import SasRecConfig
from genrec_hf.training.rewards import (
    diversity_reward,
    exact_reward,
    history_reward,
    list_ndcg_reward,
    make_collaborative_reward,
    make_cooccurrence_reward,
    make_deny_reward,
    make_no_hit_reward,
    make_novelty_reward,
    make_prefix_reward,
    make_semantic_reward,
    rank_reward,
    validity_reward,
)

# Two groups: the target is 3 in the first and 0 in the second; one completion is no item.
ITEMS = [3, 1, -1, 1, 0, 2, 2, 3]
COLUMNS = {
    "target": [3, 3, 3, 3, 0, 0, 0, 0],
    "following": [[3, 1]] * 4 + [[0]] * 4,
    "lists": [[3, 0, 1], [1, 1, 3], [-1, 2, 0], [1, 3, 0], [0, 1, 2], [2, 0, 1], [2, 3, 1], [3, 2, 0]],
    "history": [[1, 2]] * 4 + [[3]] * 4,
    "likelihood": [-1.0, -2.0, -0.5, -2.0, -4.0, -1.0, -1.0, -3.0],
    "group": [0, 0, 0, 0, 1, 1, 1, 1],
    "completion_ids": None,
    "trainer_state": None,
}


def test_what_needs_no_catalogue():
    assert validity_reward(ITEMS, **COLUMNS) == [1, 1, 0, 1, 1, 1, 1, 1]
    assert exact_reward(ITEMS, **COLUMNS) == [1, 0, 0, 0, 1, 0, 0, 0]
    assert history_reward(ITEMS, **COLUMNS) == [0, -1, 0, -1, 0, 0, 0, -1]
    assert diversity_reward(ITEMS, **COLUMNS) == pytest.approx([1, 2 / 3, 1, 2 / 3, 1, 2 / 3, 2 / 3, 1])


def test_likelier_mistakes_cost_more():
    gain = 1 / np.log2(np.arange(2, 5))
    first, second = gain / gain.sum(), gain / gain.sum()
    # First group, likeliest first: no item, the target, item 1 twice; second: item 2 twice, item 3, the target.
    expected = [0, -first[2], -first[0], -first[2], 0, -second[0], -second[0], -second[1]]
    assert rank_reward(ITEMS, **COLUMNS) == pytest.approx(expected)
    without = {**COLUMNS, "target": [2] * 4 + [0] * 4}
    assert rank_reward(ITEMS, **without) == pytest.approx([0] * 4 + expected[4:]), "no hit, nothing to compare with"


def test_what_knows_the_catalogue():
    codes = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    assert make_prefix_reward(codes)(ITEMS, **COLUMNS) == [1, 0.5, 0, 0.5, 1, 0.5, 0.5, 0]
    assert make_no_hit_reward(codes)(ITEMS, **COLUMNS) == [0] * 8
    without = {**COLUMNS, "target": [2] * 4 + [0] * 4}
    assert make_no_hit_reward(codes)(ITEMS, **without) == [0, 0, 0, 0] + [0] * 4
    without["target"] = [2] * 4 + [1] * 4
    assert make_no_hit_reward(codes)(ITEMS, **without) == [0, 0, 0, 0, 0, 0, 0, 0.5]
    assert make_deny_reward([2])(ITEMS, **COLUMNS) == [0, 0, 0, 0, 0, -1, -1, 0]
    novelty = make_novelty_reward(np.array([1, 4, 0, 5]))(ITEMS, **COLUMNS)
    assert novelty == pytest.approx([0, 0.5, 0, 0.5, 0.9, 1, 1, 0])
    embeddings = np.array([[2.0, 0], [0, 1], [1, 1], [0, 3]])
    semantic = make_semantic_reward(embeddings)(ITEMS, **COLUMNS)
    assert semantic == pytest.approx([1, 1, -1, 1, 1, np.sqrt(0.5), np.sqrt(0.5), 0])


def test_the_collaborative_reward_is_the_likelihood_of_a_sequence_model():
    torch.manual_seed(0)
    model = SasRec(SasRecConfig(items=4, hidden_size=8, max_history=3)).eval()
    with torch.no_grad():
        model.item_embedding.weight.mul_(2)
    found = make_collaborative_reward(model)(ITEMS, **COLUMNS)
    for row, item in enumerate(ITEMS):
        scores = model.user_vectors([np.array(COLUMNS["history"][row])])[0] @ model.item_embedding.weight[:4].T
        likely = scores.softmax(dim=0)[item].item()
        assert found[row] == pytest.approx(0 if item < 0 else max(0, 1 + np.log(likely) / np.log(4)), abs=1e-5)
    assert min(value for value in found if value) > 0 and max(found) < 1 and found[2] == 0


def test_the_cooccurrence_reward_is_a_table_of_counts():
    sequences = [np.array([1, 3, 2]), np.array([3, 0])]
    near = {(1, 3): 1, (3, 2): 1, (3, 0): 1}  # one event apart
    counts = np.zeros((4, 4))
    for (first, second), count in near.items():
        counts[first, second] = counts[second, first] = count
    chosen = np.array([2, 2, 2, 3]) / 9  # events plus one

    def worth(likely, item):
        return max(0, 1 + (np.log(likely) + np.log(likely / chosen[item])) / np.log(4))

    found = make_cooccurrence_reward(sequences, 4, window=1, recent=1, prior=2)(ITEMS, **COLUMNS)
    for row, item in enumerate(ITEMS):
        last = COLUMNS["history"][row][-1]
        likely = (counts[last, item] + 2 * chosen[item]) / (counts[last].sum() + 2)
        assert found[row] == pytest.approx(0 if item < 0 else worth(likely, item))
    assert min(value for value in found if value) > 0
    both = make_cooccurrence_reward(sequences, 4, window=1, recent=2, prior=2)([3], history=[[0, 1, 2]], group=[7])
    likely = np.mean([(counts[last, 3] + 2 * chosen[3]) / (counts[last].sum() + 2) for last in (1, 2)])
    assert both == pytest.approx([worth(likely, 3)])
    cold = make_cooccurrence_reward(sequences, 4)([3], history=[[]], group=[0])
    assert cold == pytest.approx([worth(chosen[3], 3)])


def test_a_list_is_worth_its_ndcg():
    found = list_ndcg_reward(**COLUMNS)
    third, second = 1 / np.log2(4), 1 / np.log2(3)
    both = 1 + second
    assert found == pytest.approx([(1 + third) / both, (1 + third) / both, 0, 1, 1, second, 0, third])
