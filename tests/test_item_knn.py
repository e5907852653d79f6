"""Item-kNN: counts and smoothing by hand, and saving."""

import numpy as np
import pytest

from genrec_hf.models.item_knn import ItemKnn

SEQUENCES = [np.array([0, 1, 2]), np.array([1, 0])]


def test_scores_equal_arithmetic():
    knn = ItemKnn.from_sequences(SEQUENCES, items=4, window=1, recent=2, prior=2.0)
    # Pairs at most one event apart: (0, 1) twice, (1, 2) once. Events plus one: 3, 3, 2, 1 of 9.
    popularity = np.array([3, 3, 2, 1]) / 9
    after_0 = (np.array([0, 2, 0, 0]) + 2 * popularity) / (2 + 2)
    after_1 = (np.array([2, 0, 1, 0]) + 2 * popularity) / (3 + 2)
    after_3 = popularity  # no neighbor: the prior alone
    found = knn.score([[0], [3, 0, 1], [3], []])
    expected = np.log(np.stack([after_0, (after_0 + after_1) / 2, after_3, popularity]))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)
    assert knn.rank([[3, 0, 1], []], k=2).items.tolist() == [[2, -1], [0, 1]]


def test_an_item_twice_among_the_last_counts_twice():
    knn = ItemKnn.from_sequences(SEQUENCES, items=4, recent=3)
    once, twice = np.exp(knn.score([[0], [1], [0, 0, 1]])), None
    once, twice = once[:2], once[2]
    np.testing.assert_allclose(twice, (2 * once[0] + once[1]) / 3, rtol=1e-5)


def test_a_saved_one_scores_the_same(tmp_path):
    knn = ItemKnn.from_sequences(SEQUENCES, items=4, window=2, prior=1.0, dataset="f" * 16)
    knn.save_pretrained(tmp_path)
    loaded = ItemKnn.from_pretrained(tmp_path)
    assert loaded.config.dataset == "f" * 16 and (loaded.config.window, loaded.config.prior) == (2, 1.0)
    assert (loaded.score([[0], [2, 1], []]) == knn.score([[0], [2, 1], []])).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"prior": 0.0}, "got prior=0.0"), ({"window": 0}, "window"), ({"recent": 0}, "recent")],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ItemKnn.from_sequences(SEQUENCES, items=4, **settings)


def test_sequences_of_another_catalogue_are_refused():
    with pytest.raises(ValueError, match="item rows 0 to 2 for 2 items"):
        ItemKnn.from_sequences(SEQUENCES, items=2)
