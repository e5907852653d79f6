"""`SemanticIds`: what goes in comes out, nothing can be changed, and nothing that is broken is made or loaded."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from genrec_hf import SemanticIds

CODES, SIZES, IDS = [[0, 1], [2, 0], [2, 1]], (3, 2), ["tea", "cup", "Kännchen ☕"]


def test_codes_sizes_and_rows():
    sids = SemanticIds(CODES, SIZES, IDS, {"seed": 3})
    assert (len(sids), sids.levels, sids.level_sizes, sids.item_ids) == (3, 2, (3, 2), tuple(IDS))
    assert sids.codes.tolist() == CODES and sids.codes.dtype == np.int64
    assert sids.rows(["cup", "tea", "cup"]).tolist() == [1, 0, 1] and sids.rows([]).tolist() == []
    assert repr(sids) == "SemanticIds(items=3, level_sizes=(3, 2))"
    with pytest.raises(ValueError, match="'pan', 'jug' are not in the catalogue of 3 items"):
        sids.rows(["tea", "pan", "jug"])


def test_nothing_can_be_changed():
    source = np.array(CODES)
    sids = SemanticIds(source, SIZES, IDS)
    source[:] = 0
    assert sids.codes.tolist() == CODES
    with pytest.raises(ValueError, match="read-only"):
        sids.codes[0, 0] = 1
    for name in ("codes", "level_sizes", "item_ids", "levels", "shared", "quantizer", "ancestors"):
        with pytest.raises(AttributeError):
            setattr(sids, name, None)


def test_the_fingerprint_tells_codes_sizes_and_ids_apart():
    different = [
        SemanticIds(CODES, SIZES, IDS),
        SemanticIds(CODES, (3, 3), IDS),
        SemanticIds(CODES[::-1], SIZES, IDS),
        SemanticIds(CODES, SIZES, ["tea", "cups", "pot"]),
        SemanticIds(CODES[:2], SIZES, IDS[:2]),
    ]
    assert len({sids.fingerprint for sids in different}) == len(different)
    assert (
        SemanticIds(np.array(CODES, dtype=np.int8), list(SIZES), IDS, {"x": 1}).fingerprint == different[0].fingerprint
    )


@pytest.mark.parametrize("inside", [False, True])
def test_saved_and_loaded_is_the_same(tmp_path, inside):
    sids = SemanticIds(CODES, SIZES, IDS, {"quantizer": "RqKmeans", "seed": 3})
    target = tmp_path / "new" / "semantic_ids" if inside else tmp_path / "sids"
    sids.save_pretrained(target)
    sids.save_pretrained(target)
    loaded = SemanticIds.from_pretrained(target.parent if inside else str(target))
    assert loaded.codes.tolist() == CODES and loaded.codes.dtype == np.int64
    assert (loaded.level_sizes, loaded.item_ids, loaded.info) == (sids.level_sizes, sids.item_ids, sids.info)
    assert loaded.fingerprint == sids.fingerprint
    assert sorted(path.name for path in target.iterdir()) == ["codes.safetensors", "semantic_ids.json"]
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_shared_sids_have_to_be_stated_and_stay_stated(tmp_path):
    codes = [[0, 1], [2, 0], [0, 1]]
    with pytest.raises(ValueError, match="resolve_collisions"):
        SemanticIds(codes, SIZES, IDS)
    shared = SemanticIds(codes, SIZES, IDS, shared=True)
    shared.save_pretrained(tmp_path)
    loaded = SemanticIds.from_pretrained(tmp_path)
    assert loaded.shared and loaded.shares_sids and loaded.codes.tolist() == codes
    assert loaded.fingerprint == shared.fingerprint and loaded.shuffled(1).shared
    with pytest.raises(ValueError, match="several items share a SID, and so it is"):
        loaded.refuse_shared("so it is")
    unique = SemanticIds(CODES, SIZES, IDS, shared=True)
    assert unique.shared and not unique.shares_sids and not SemanticIds(CODES, SIZES, IDS).shared
    unique.refuse_shared("it is not so")
    with pytest.raises(ValueError, match="share the item id"):
        SemanticIds(codes, SIZES, ["a", "b", "a"], shared=True)


def test_files_that_do_not_belong_together_do_not_load(tmp_path):
    SemanticIds(CODES, SIZES, IDS).save_pretrained(tmp_path)
    save_file({"codes": np.array(CODES[::-1], dtype=np.int32)}, tmp_path / "codes.safetensors")
    with pytest.raises(ValueError, match="do not belong together"):
        SemanticIds.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "semantic_ids.json").read_text())
    (tmp_path / "semantic_ids.json").write_text(json.dumps({**config, "item_ids": IDS[:2]}))
    with pytest.raises(ValueError, match="3 rows of codes for 2 item ids"):
        SemanticIds.from_pretrained(tmp_path)
    (tmp_path / "semantic_ids.json").unlink()
    with pytest.raises(FileNotFoundError, match="build semantic ids first"):
        SemanticIds.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("codes", "sizes", "ids", "match"),
    [
        ([[0, 1], [0, 1]], (1, 2), ["a", "b"], r"'a' and 'b' share the semantic id \(0, 1\) .*resolve_collisions"),
        ([[0, 1], [0, 0]], (1, 2), ["a", "a"], "rows 0 and 1 share the item id 'a'"),
        ([[0, 2]], (1, 2), ["a"], "item 'a' has code 2 on level 1, which holds 0 to 1"),
        ([[0, -1]], (1, 2), ["a"], "has code -1 on level 1"),
        ([[0, 1]], (1, 2, 3), ["a"], r"shape \(1, 2\) for 3 level sizes"),
        ([0, 1], (1, 2), ["a"], r"shape \(2,\)"),
        (np.zeros((0, 2)), (1, 2), [], "at least one item"),
        ([[0, 1]], (1, 2), ["a", "b"], "1 rows of codes for 2 item ids"),
        ([[0.5, 1.0]], (1, 2), ["a"], "integer codes"),
    ],
)
def test_what_is_broken_is_refused(codes, sizes, ids, match):
    with pytest.raises(ValueError, match=match):
        SemanticIds(codes, sizes, ids)
