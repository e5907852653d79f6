"""Collaborative vectors: row by row those of the items trained on, and controls that keep all but the tie."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.models import SasRec, SasRecConfig, collaborative_vectors

ROWS = np.random.default_rng(0).normal(2.0, 3.0, (24, 6)).astype(np.float32)


@pytest.fixture
def told(toy_data):
    """The toy, with events of its last two items behind everybody's training."""
    events = toy_data.interactions
    late = events["item_id"].isin(["i22", "i23"])
    data = type(toy_data)(events[~(late & (events["split"] == "train"))], toy_data.items, toy_data.info)
    known = np.zeros(24, dtype=bool)
    known[np.concatenate(data.training_sequences())] = True
    assert not known[22:].any() and known[:22].all()
    return data, known


def test_vectors_of_sasrec_and_of_files_are_the_same_rows(told, tmp_path):
    data, known = told
    catalogue = catalogue_fingerprint(data.item_ids)
    model = SasRec(SasRecConfig(items=24, hidden_size=6, intermediate_size=8, catalogue=catalogue))
    model.save_pretrained(tmp_path / "sasrec")
    np.save(tmp_path / "rows.npy", model.item_vectors.astype(np.float64))
    save_file({"factors": model.item_vectors}, tmp_path / "rows.safetensors")
    for source in ("sasrec", "rows.npy", "rows.safetensors"):
        vectors, mask = collaborative_vectors(tmp_path / source, data)
        assert vectors.dtype == np.float32 and (mask == known).all()
        np.testing.assert_allclose(vectors, model.item_vectors)


def test_shuffled_vectors_are_the_same_ones_of_other_items(told, tmp_path):
    data, known = told
    np.save(tmp_path / "rows.npy", ROWS)
    vectors, _ = collaborative_vectors(tmp_path / "rows.npy", data, control="shuffled", seed=1)
    assert (vectors[known] != ROWS[known]).all(axis=1).mean() > 0.8
    assert sorted(map(tuple, vectors[known].tolist())) == sorted(map(tuple, ROWS[known].tolist()))
    again, _ = collaborative_vectors(tmp_path / "rows.npy", data, control="shuffled", seed=1)
    other, _ = collaborative_vectors(tmp_path / "rows.npy", data, control="shuffled", seed=2)
    assert (again == vectors).all() and (other != vectors).any()


def test_random_vectors_have_their_mean_and_spread(told, tmp_path):
    data, known = told
    rows = np.random.default_rng(0).normal([0.0, 50.0], [1.0, 2.0], (24, 2))
    np.save(tmp_path / "rows.npy", rows)
    drawn = [
        collaborative_vectors(tmp_path / "rows.npy", data, control="random", seed=seed)[0][known] for seed in range(50)
    ]
    np.testing.assert_allclose(np.mean(drawn, axis=(0, 1)), rows[known].mean(axis=0), atol=0.3)
    np.testing.assert_allclose(np.std(drawn, axis=(0, 1)), rows[known].std(axis=0), rtol=0.1)


def test_what_is_no_matrix_of_these_items_is_refused(told, tmp_path):
    data, _ = told
    for name, rows, message in (
        ("short.npy", ROWS[:-1], r"holds an array of shape \(23, 6\) for 24 items"),
        ("flat.npy", ROWS[:, 0], r"holds an array of shape \(24,\) for 24 items"),
    ):
        np.save(tmp_path / name, rows)
        with pytest.raises(ValueError, match=message):
            collaborative_vectors(tmp_path / name, data)
    save_file({"a": ROWS, "b": ROWS}, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match="holds 2 tensors"):
        collaborative_vectors(tmp_path / "two.safetensors", data)
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        collaborative_vectors(tmp_path / "pickled.npy", data)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        collaborative_vectors(tmp_path / "nothing.npy", data)
    with pytest.raises(FileNotFoundError, match="not the output of a recipe that trains a 'sasrec' model"):
        collaborative_vectors(tmp_path, data)
    with pytest.raises(ValueError, match="got control='none of it'; use one of none, shuffled, random"):
        collaborative_vectors(tmp_path / "two.safetensors", data, control="none of it")
    SasRec(SasRecConfig(items=24, catalogue="other")).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="its rows would belong to other items"):
        collaborative_vectors(tmp_path / "other", data)
    SasRec(SasRecConfig(items=24, dataset="0" * 16)).save_pretrained(tmp_path / "split")
    with pytest.raises(ValueError, match="was trained on another data set, or on another split of this one"):
        collaborative_vectors(tmp_path / "split", data)
    (tmp_path / "two.safetensors").write_bytes((tmp_path / "two.safetensors").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"two\.safetensors' is not a complete safetensors file"):
        collaborative_vectors(tmp_path / "two.safetensors", data)


def test_vectors_of_a_sasrec_of_the_hub(told, tmp_path, hub):
    data, _ = told
    model = SasRec(SasRecConfig(items=24, hidden_size=6, dataset=data.info["fingerprint"]))
    model.save_pretrained(tmp_path / "sasrec")
    hub.put("someone/sasrec", tmp_path / "sasrec")
    assert (collaborative_vectors("someone/sasrec", data)[0] == model.item_vectors).all()
