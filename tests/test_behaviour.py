import numpy as np
import pytest

from genrec_hf.data.item_embeddings import save_embeddings
from genrec_hf.semantic_ids import (
    SemanticIds,
    cooccurrence_embeddings,
    find_related_items,
    make_quantizer,
    quantized_vectors,
    tokenize_catalogue,
)

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


@pytest.mark.parametrize("weight", [0, 0.5])
@pytest.mark.parametrize(("name", "settings"), [("rq-kmeans", {}), ("rq-vae", {"epochs": 3, "latent_size": 4})])
def test_the_vectors_that_were_quantized_are_found_again(name, settings, weight, toy_data, tmp_path) -> None:
    text = np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32)
    save_embeddings(tmp_path / "item_embeddings.safetensors", text, toy_data.item_ids)
    sequences = toy_data.training_sequences()
    made = tokenize_catalogue(
        make_quantizer(name, (4, 4), settings=settings),
        cooccurrence_embeddings(sequences, text, weight, seed=3),
        find_related_items(text),
        item_ids=toy_data.item_ids,
        info={"seed": 3, "behaviour_weight": weight},
        progress=False,
    )
    made.semantic_ids.save_pretrained(tmp_path)
    semantic_ids = SemanticIds.from_pretrained(tmp_path)
    vectors = quantized_vectors(semantic_ids, toy_data, tmp_path)
    np.testing.assert_array_equal(vectors, cooccurrence_embeddings(sequences, text, weight, seed=3))
    np.testing.assert_array_equal(semantic_ids.quantizer.encode(vectors), made.codes)


def test_the_vectors_of_semantic_ids_made_elsewhere_are_the_embeddings(toy_data, toy_sids, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"without item_embeddings.*run recipes/build_sids\.py.*--init text"):
        quantized_vectors(toy_sids, toy_data, tmp_path)
    text = np.eye(24, dtype=np.float32)
    save_embeddings(tmp_path / "item_embeddings.safetensors", text, toy_data.item_ids)
    np.testing.assert_array_equal(quantized_vectors(toy_sids, toy_data, tmp_path), text)
