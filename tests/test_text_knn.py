"""Text-kNN: cosines by hand, and saving."""

import numpy as np
import pytest

from genrec_hf.models.text_knn import TextKnn

EMBEDDINGS = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [0.0, 0.0]])


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_scores_equal_arithmetic(pooling):
    knn = TextKnn.from_embeddings(EMBEDDINGS, recent=2, pooling=pooling)
    half = 0.5**0.5
    cosines = np.array([[1, 0, half, 0], [0, 1, half, 0]])
    pooled = cosines.max(axis=0) if pooling == "max" else cosines.mean(axis=0)
    found = knn.score([[0], [2, 0, 1], [], [3]])
    np.testing.assert_allclose(found, [cosines[0], pooled, np.zeros(4), np.zeros(4)], atol=1e-6)
    assert knn.rank([[2, 0, 1]], k=2, filter_seen=False).items.tolist() == [[0, 1] if pooling == "max" else [2, 0]]


def test_a_saved_one_scores_the_same(tmp_path):
    knn = TextKnn.from_embeddings(EMBEDDINGS, recent=3)
    knn.save_pretrained(tmp_path)
    loaded = TextKnn.from_pretrained(tmp_path)
    assert (loaded.score([[0], [1, 2]]) == knn.score([[0], [1, 2]])).all() and loaded.config.recent == 3


def test_bad_embeddings_and_settings_are_refused():
    for embeddings in (EMBEDDINGS[0], np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="got embeddings of shape"):
            TextKnn.from_embeddings(embeddings)
    with pytest.raises(ValueError, match="got pooling='sum'"):
        TextKnn.from_embeddings(EMBEDDINGS, pooling="sum")
