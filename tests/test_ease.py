"""EASE: the closed form by hand and by its definition, limits, and saving."""

import numpy as np
import pytest

from genrec_hf.models import ease
from genrec_hf.models.ease import Ease


def test_weights_of_two_items_equal_arithmetic():
    # Two users have item 0, one of them item 1 as well; lambda 1: G = [[3, 1], [1, 2]], P = [[2, -1], [-1, 3]] / 5.
    model = Ease.from_sequences([np.array([0, 0]), np.array([1, 0])], items=2, regularization=1.0)
    np.testing.assert_allclose(model.weights.detach().numpy(), [[0, 1 / 3], [1 / 2, 0]], rtol=1e-6)
    np.testing.assert_allclose(
        model.score([[0], [0, 1], [1, 1], []]), [[0, 1 / 3], [1 / 2, 1 / 3], [1 / 2, 0], [0, 0]]
    )


def test_weights_minimize_the_squared_error_with_a_zero_diagonal():
    rng = np.random.default_rng(0)
    sequences = [rng.choice(6, size=rng.integers(1, 5)) for _ in range(30)]
    weights = Ease.from_sequences(sequences, items=6, regularization=2.0).weights.detach().double().numpy()
    seen = np.zeros((30, 6))
    for user, rows in enumerate(sequences):
        seen[user, rows] = 1
    for item in range(6):  # each column is a ridge regression of an item on the others
        others = np.delete(np.arange(6), item)
        gram = seen[:, others].T @ seen[:, others] + 2 * np.eye(5)
        np.testing.assert_allclose(
            weights[others, item], np.linalg.solve(gram, seen[:, others].T @ seen[:, item]), rtol=1e-4, atol=1e-6
        )
    assert (np.diag(weights) == 0).all()


def test_a_saved_one_scores_the_same(tmp_path):
    model = Ease.from_sequences([np.array([0, 2]), np.array([1, 0])], items=3, regularization=1.0)
    model.save_pretrained(tmp_path)
    loaded = Ease.from_pretrained(tmp_path)
    assert (loaded.score([[0], [1, 2]]) == model.score([[0], [1, 2]])).all() and loaded.config.regularization == 1.0


def test_a_catalogue_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(ease, "MAX_ITEMS", 2)
    with pytest.raises(ValueError, match=r"got 3 items: EASE inverts .* up to 2; leave it out"):
        Ease.from_sequences([np.array([0])], items=3)


@pytest.mark.parametrize("regularization", [0.0, -1.0, float("inf"), float("nan")])
def test_no_regularization_is_refused(regularization):
    with pytest.raises(ValueError, match="got regularization="):
        Ease.from_sequences([np.array([0])], items=3, regularization=regularization)
