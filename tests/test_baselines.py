"""Baselines against hand-made counts, a dictionary of Counters, and the documented figures on MovieLens-100K."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from genrec_hf.evaluation.baselines import MarkovOne, Popularity, RandomBaseline, RepeatHistory
from genrec_hf.evaluation.metrics import per_case_metrics

ITEMS = 6
#          3 and 1 have three events each, 3 came first; 0 has two; 2 one; 4 and 5 none.
TRAINING = [np.array([3, 1, 0]), np.array([1, 3, 1]), np.array([3, 0, 2])]
NOTHING = np.array([], dtype=np.int64)


def everything(seed: int = 0) -> list:
    return [RandomBaseline(ITEMS, seed), *(make(TRAINING, ITEMS) for make in (Popularity, RepeatHistory, MarkovOne))]


def random_sequences(users: int, items: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(items, size=rng.integers(0, 9)) for _ in range(users)]


def test_popularity_orders_by_count_then_first_appearance_then_row():
    lists = Popularity(TRAINING, ITEMS).rank([NOTHING, np.array([1, 4])], k=6).items
    assert lists.tolist() == [[3, 1, 0, 2, 4, 5], [3, 0, 2, 5, -1, -1]]


def test_popularity_may_repeat_when_seen_items_are_allowed():
    assert Popularity(TRAINING, ITEMS).rank([np.array([3])], k=2, filter_seen=False).items.tolist() == [[3, 1]]


def test_repeat_says_the_history_backwards_without_repeating_itself():
    lists = RepeatHistory(TRAINING, ITEMS).rank([np.array([2, 5, 2, 4]), NOTHING], k=4, filter_seen=False).items
    assert lists.tolist() == [[4, 2, 5, 3], [3, 1, 0, 2]]


def test_repeat_is_popularity_once_seen_items_are_filtered():
    histories = random_sequences(20, ITEMS)
    expected = Popularity(TRAINING, ITEMS).rank(histories, 4).items
    np.testing.assert_array_equal(RepeatHistory(TRAINING, ITEMS).rank(histories, 4).items, expected)


def test_markov_counts_pairs_and_fills_with_popularity():
    # Pairs: 3->1, 1->0 | 1->3, 3->1 | 3->0, 0->2. After 3: 1 twice, 0 once. After 1: 0 came first, then 3.
    lists = MarkovOne(TRAINING, ITEMS).rank([np.array([3]), np.array([1]), np.array([4]), NOTHING], k=4).items
    assert lists.tolist() == [[1, 0, 2, 4], [0, 3, 2, 4], [3, 1, 0, 2], [3, 1, 0, 2]]


def test_markov_looks_at_the_last_item_only_and_may_filter_it():
    history = [np.array([0, 4, 1, 3])]
    markov = MarkovOne(TRAINING, ITEMS)
    assert markov.rank(history, k=3, filter_seen=False).items.tolist() == [[1, 0, 3]]
    assert markov.rank(history, k=3, filter_seen=True).items.tolist() == [[2, 5, -1]]


def test_pairs_do_not_cross_users():
    markov = MarkovOne([np.array([0, 1]), np.array([2, 3])], 4)
    assert markov.rank([np.array([1])], k=1, filter_seen=False).items.tolist() == [[0]]


@pytest.mark.parametrize("filter_seen", [True, False])
def test_markov_equals_a_dictionary_of_counters(filter_seen):
    items, training, histories = 15, random_sequences(60, 15, seed=1), random_sequences(40, 15, seed=2)
    after = {item: Counter() for item in range(items)}
    for sequence in training:
        for last, following in zip(sequence[:-1].tolist(), sequence[1:].tolist(), strict=True):
            after[last][following] += 1
    popular = Counter(np.concatenate(training).tolist())
    fill = [item for item, _ in popular.most_common()] + [item for item in range(items) if item not in popular]
    lists = MarkovOne(training, items).rank(histories, 10, filter_seen=filter_seen).items
    for row, history in zip(lists.tolist(), histories, strict=True):
        # `most_common` keeps the order of insertion between equal counts.
        own = [item for item, _ in after[history[-1]].most_common()] if len(history) else []
        order = dict.fromkeys(own + fill)
        expected = [item for item in order if not (filter_seen and item in history)][:10]
        assert row == expected + [-1] * (10 - len(expected))


@pytest.mark.parametrize("filter_seen", [True, False])
def test_lists_are_full_distinct_legal_and_repeatable(filter_seen):
    histories = random_sequences(30, ITEMS)
    for baseline, again in zip(everything(), everything(), strict=True):
        lists = baseline.rank(histories, 4, filter_seen=filter_seen).items
        assert lists.shape == (30, 4) and lists.dtype == np.int64
        for row, history in zip(lists, histories, strict=True):
            left = ITEMS - len(set(history)) if filter_seen else ITEMS
            filled = row[row >= 0]
            assert len(filled) == len(set(filled)) == min(4, left) and (filled < ITEMS).all()
            assert (row[len(filled) :] == -1).all()
            assert not filter_seen or not set(filled) & set(history)
        np.testing.assert_array_equal(lists, again.rank(histories, 4, filter_seen=filter_seen).items)
        np.testing.assert_array_equal(lists, baseline.rank(histories, 4, filter_seen=filter_seen).items)


def test_random_is_uniform_and_follows_its_seed():
    lists = RandomBaseline(10).rank([NOTHING] * 4000, k=2).items
    shares = np.bincount(lists.ravel(), minlength=10) / lists.size
    np.testing.assert_allclose(shares, 1 / 10, atol=5 * np.sqrt(0.1 * 0.9 / lists.size))
    assert (RandomBaseline(10, seed=1).rank([NOTHING] * 50, 2).items != lists[:50]).any()


def test_small_integers_do_not_overflow_the_pair_keys():
    markov = MarkovOne([np.array([299, 298], dtype=np.int16)], 300)
    assert markov.rank([np.array([299], dtype=np.int16)], k=1).items.tolist() == [[298]]


@pytest.mark.parametrize("row", [-1, ITEMS])
def test_rows_outside_the_catalogue_are_refused(row):
    with pytest.raises(ValueError, match=f"for {ITEMS} items"):
        MarkovOne([np.array([0, row])], ITEMS)
    for baseline in everything():
        with pytest.raises(ValueError, match="without padding"):
            baseline.rank([np.array([0, row])], k=2)


@pytest.mark.skipif(find_spec("recbole") is None, reason="MovieLens-100K comes with the wheel `recbole`")
@pytest.mark.parametrize(
    ("filter_seen", "expected"),
    [(True, {Popularity: 0.0859, MarkovOne: 0.1410}), (False, {Popularity: 0.0498, MarkovOne: 0.1145})],
)
def test_movielens_100k_gives_the_documented_figures(filter_seen, expected):
    root = Path(find_spec("recbole").submodule_search_locations[0])
    table = np.loadtxt(root / "dataset_example" / "ml-100k" / "ml-100k.inter", skiprows=1, dtype=np.int64)
    users, items = (in_file_order(table[:, column]) for column in (0, 1))
    order = np.lexsort((table[:, 3], users))
    sequences = np.split(items[order], np.cumsum(np.bincount(users))[:-1])
    assert len(sequences) == 943 and items.max() + 1 == 1682
    targets, histories = [s[-1] for s in sequences], [s[:-1] for s in sequences]
    for make, recall in expected.items():
        lists = make([s[:-2] for s in sequences], 1682).rank(histories, 10, filter_seen=filter_seen).items
        assert per_case_metrics(lists, targets, ks=[10])["recall@10"].mean() == pytest.approx(recall, abs=5e-5)


def in_file_order(ids: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
