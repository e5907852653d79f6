"""The file of codes and ids loads as it was saved, in the form of today and in that of earlier versions."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genrec_hf import SemanticIds

CODES, SIZES, IDS = [[0, 1], [2, 0], [2, 1]], (3, 2), ["tea", "cup", "Kännchen ☕"]


def as_saved_earlier(sids, directory):
    """The folder that earlier versions wrote."""
    directory.mkdir(exist_ok=True)
    save_file({"codes": sids.codes.astype(np.int32)}, directory / "codes.safetensors")
    config = {"level_sizes": sids.level_sizes, "item_ids": sids.item_ids, "fingerprint": sids.fingerprint}
    text = json.dumps({**config, "info": sids.info}, ensure_ascii=False)
    (directory / "semantic_ids.json").write_text(text, encoding="utf-8")


def test_ids_are_bytes_and_offsets_and_no_json(tmp_path):
    SemanticIds(CODES, SIZES, IDS).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "codes.safetensors")
    assert set(tensors) == {"codes", "item_ids.bytes", "item_ids.offsets"}
    assert tensors["item_ids.bytes"].tobytes().decode() == "".join(IDS)
    assert tensors["item_ids.offsets"].tolist() == [0, 3, 6, 19]
    assert "item_ids" not in json.loads((tmp_path / "semantic_ids.json").read_text())


def test_folders_of_earlier_versions_load(tmp_path):
    sids = SemanticIds(CODES, SIZES, IDS, info={"seed": 3})
    as_saved_earlier(sids, tmp_path)
    loaded = SemanticIds.from_pretrained(tmp_path)
    assert (loaded.item_ids, loaded.codes.tolist(), loaded.info) == (tuple(IDS), CODES, {"seed": 3})
    assert loaded.fingerprint == sids.fingerprint and loaded.rows(["cup"]).tolist() == [1]
    loaded.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "codes.safetensors")) == {"codes", "item_ids.bytes", "item_ids.offsets"}
    assert SemanticIds.from_pretrained(tmp_path).item_ids == tuple(IDS)


def test_a_file_without_what_is_asked_for_is_named(tmp_path):
    SemanticIds(CODES, SIZES, IDS).save_pretrained(tmp_path)
    file = tmp_path / "codes.safetensors"
    tensors = load_file(file)
    for name in tensors:
        save_file({other: value for other, value in tensors.items() if other != name}, file)
        with pytest.raises(ValueError, match=rf"codes\.safetensors' holds no '{re.escape(name)}', .* from one save"):
            SemanticIds.from_pretrained(tmp_path)
    broken = np.frombuffer(b"tea" + b"cup" + b"\xff" * 13, dtype=np.uint8)
    save_file({**tensors, "item_ids.bytes": broken}, file)
    with pytest.raises(ValueError, match=r"codes\.safetensors' holds item ids that are not text \(Invalid UTF8"):
        SemanticIds.from_pretrained(tmp_path)
    other = np.frombuffer("".join(["tea", "CUP", IDS[2]]).encode(), dtype=np.uint8)
    save_file({**tensors, "item_ids.bytes": other}, file)
    with pytest.raises(ValueError, match="do not belong together"):
        SemanticIds.from_pretrained(tmp_path)
    save_file({**tensors, "item_ids.offsets": tensors["item_ids.offsets"][:-1]}, file)
    with pytest.raises(ValueError, match="3 rows of codes for 2 item ids"):
        SemanticIds.from_pretrained(tmp_path)


def test_loading_makes_no_string_an_item_and_looks_for_no_repeats(tmp_path, monkeypatch):
    sids = SemanticIds(np.stack(np.divmod(np.arange(500), 25), axis=1), (20, 25), [f"B{row:09}" for row in range(500)])
    sids.save_pretrained(tmp_path)
    for name in ("tolist", "rows", "refuse_repeats"):
        monkeypatch.setattr(f"genrec_hf.semantic_ids.id_array.IdArray.{name}", None)
    loaded = SemanticIds.from_pretrained(tmp_path)
    monkeypatch.undo()
    assert "_item_ids" not in vars(loaded) and loaded.ids([499, 0]) == ["B000000499", "B000000000"]
    assert loaded.rows(["B000000007"]).tolist() == [7] and "_item_ids" not in vars(loaded)
    left = loaded.remove(["B000000000"])
    assert left.ids([0]) == ["B000000001"] and len(left) == 499 and left.ancestors == (sids.fingerprint,)
