import numpy as np
import pytest

from genrec_hf.semantic_ids import cooccurrence_embeddings

TEXT = np.eye(6, dtype=np.float32)
TOGETHER = [np.array([0, 1, 2] * 3), np.array([3, 4, 5] * 3)] * 5


def test_weight_zero_gives_the_text_embeddings_back() -> None:
    assert cooccurrence_embeddings(TOGETHER, TEXT, weight=0) is TEXT


def test_items_chosen_together_come_close_and_others_do_not() -> None:
    vectors = cooccurrence_embeddings(TOGETHER, TEXT, weight=1, window=2, components=4)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.4
    assert abs(similarity[0, 3]) < 0.1


def test_text_and_behaviour_stand_side_by_side_with_their_weights() -> None:
    vectors = cooccurrence_embeddings(TOGETHER, 5 * TEXT, weight=0.25, components=4)
    assert np.allclose(vectors[:, :6], 0.75 * TEXT)
    assert np.allclose(np.linalg.norm(vectors[:, 6:], axis=1), 0.25)


def test_an_item_nobody_chose_is_placed_by_its_text() -> None:
    vectors = cooccurrence_embeddings([np.array([0, 1, 2])], TEXT, weight=0.5, components=2)
    assert np.allclose(vectors[5, 6:], 0)
    assert np.isfinite(vectors).all()


def test_behaviour_without_behaviour_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing co-occurs"):
        cooccurrence_embeddings([np.array([1])], TEXT, weight=0.5)
