"""`SemanticIds`: what goes in comes out, nothing can be changed, and nothing that is broken is made or loaded."""

import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from genrec_hf import SemanticIds
from genrec_hf.semantic_ids import RqKmeans
from genrec_hf.semantic_ids.quantizer import load_quantizer

CODES, SIZES, IDS = [[0, 1], [2, 0], [2, 1]], (3, 2), ["tea", "cup", "Kännchen ☕"]


def test_codes_sizes_and_rows():
    sids = SemanticIds(CODES, SIZES, IDS, info={"seed": 3})
    assert (len(sids), sids.levels, sids.level_sizes, sids.item_ids) == (3, 2, (3, 2), tuple(IDS))
    assert sids.codes.tolist() == CODES and sids.codes.dtype == np.int64
    assert sids.rows(["cup", "tea", "cup"]).tolist() == [1, 0, 1] and sids.rows([]).tolist() == []
    assert repr(sids) == "SemanticIds(items=3, level_sizes=(3, 2))"
    with pytest.raises(ValueError, match="'pan', 'jug' are not in the catalogue of 3 items"):
        sids.rows(["tea", "pan", "jug"])


def test_ids_of_rows():
    sids = SemanticIds(CODES, SIZES, IDS)
    assert sids.ids(np.array([2, 0, 2])) == ["Kännchen ☕", "tea", "Kännchen ☕"]
    assert sids.ids([]) == [] == sids.ids(np.empty(0, dtype=np.int64)) and type(sids.ids([1])[0]) is str
    for rows, message in (
        ([0, -1], "got rows -1 to 0 for 3 items: pass rows from 0 to 2, without padding"),
        (np.array([3]), "got rows 3 to 3 for 3 items"),
        ([[0]], r"shape \(1, 1\) and dtype int64"),
        ([True, False, True], "dtype bool: pass integers"),
        (["tea"], "dtype <U3"),
    ):
        with pytest.raises(ValueError, match=message):
            sids.ids(rows)


def test_a_lookup_costs_what_is_looked_up():
    items = 300_000
    sids = SemanticIds(
        np.stack(np.divmod(np.arange(items), 1000), axis=1), (300, 1000), [f"B{n}" for n in range(items)]
    )
    wanted = [f"B{row}" for row in (7, 299_999)]
    sids.rows(wanted), sids.rows_of_codes(sids.codes[:1]), sids.fingerprint
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    assert sids.rows(wanted).tolist() == [7, 299_999] and sids.ids([7, 299_999]) == wanted
    assert sids.rows_of_codes([[1, 2], [299, 1000]]).tolist() == [1002, -1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000 and pa.total_allocated_bytes() == before and "_item_ids" not in vars(sids)


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
        SemanticIds(np.array(CODES, dtype=np.int8), list(SIZES), IDS, info={"x": 1}).fingerprint
        == different[0].fingerprint
    )


@pytest.mark.parametrize("inside", [False, True])
def test_saved_and_loaded_is_the_same(tmp_path, inside):
    sids = SemanticIds(CODES, SIZES, IDS, info={"quantizer": "RqKmeans", "seed": 3})
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


def test_files_that_are_cut_short_or_lack_a_key_are_named(tmp_path):
    SemanticIds(CODES, SIZES, IDS).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "semantic_ids.json").read_text())
    for text, message in (
        (json.dumps(config)[:-1], "is not a complete JSON file"),
        (json.dumps({name: config[name] for name in config if name != "level_sizes"}), "holds no 'level_sizes'"),
    ):
        (tmp_path / "semantic_ids.json").write_text(text)
        with pytest.raises(ValueError, match=rf"semantic_ids\.json' {message}"):
            SemanticIds.from_pretrained(tmp_path)
    (tmp_path / "semantic_ids.json").write_text(json.dumps(config))
    (tmp_path / "codes.safetensors").write_bytes((tmp_path / "codes.safetensors").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"codes\.safetensors' is not a complete safetensors file"):
        SemanticIds.from_pretrained(tmp_path)


def test_a_mistyped_folder_is_told_without_asking_the_hub(tmp_path, hub):
    (tmp_path / "semantic_ids").mkdir()
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*semantic_id': did you mean '.*/semantic_ids'"):
        SemanticIds.from_pretrained(tmp_path / "semantic_id")
    with pytest.raises(ValueError, match="got an empty name"):
        SemanticIds.from_pretrained("")
    assert hub.requests == []


def test_semantic_ids_and_their_quantizer_come_from_the_hub_at_any_revision(tmp_path, hub):
    embeddings = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    quantizer = RqKmeans(level_sizes=(4, 4)).fit(embeddings, progress=False)
    codes = quantizer.encode(embeddings)
    first = SemanticIds(codes, (4, 4), list(map(str, range(20))), shared=True, quantizer=quantizer)
    first.save_pretrained(tmp_path / "pushed" / "semantic_ids")
    hub.put("someone/sids", tmp_path / "pushed")
    hub.tag("someone/sids", "v1")
    first.shuffled(1).save_pretrained(tmp_path / "pushed" / "semantic_ids")
    hub.put("someone/sids", tmp_path / "pushed")
    hub.repos["someone/sids"]["semantic_ids/quantizer/evil.bin"] = b"pickle"
    assert SemanticIds.from_pretrained("someone/sids").fingerprint == first.shuffled(1).fingerprint
    for name, revision in (("someone/sids", "v1"), ("someone/sids@v1", None)):
        loaded = SemanticIds.from_pretrained(name, revision)
        assert loaded.fingerprint == first.fingerprint and loaded.quantizer is not None
        for read in (load_quantizer, RqKmeans.from_pretrained):
            assert (read(name, revision).encode(embeddings) == codes).all()
    assert not list((tmp_path / "hub").rglob("*.bin"))
    file = tmp_path / "pushed" / "semantic_ids" / "quantizer.json"
    file.write_text('{"quantizer": "RqKmeans", "embedding_size": 4, "settings": {"levels": 2}}')
    with pytest.raises(ValueError, match=r"quantizer\.json' has other settings than a RqKmeans"):
        load_quantizer(file.parent)
    with pytest.raises(FileNotFoundError, match=r"'someone/sids' holds no quantizer\.json"):
        load_quantizer("someone/sids")


@pytest.mark.parametrize(
    ("codes", "sizes", "ids", "match"),
    [
        ([[0, 1], [0, 1]], (1, 2), ["a", "b"], r"'a' and 'b' share the semantic id \(0, 1\) .*resolve_collisions"),
        ([[0, 1], [0, 0]], (1, 2), ["a", "a"], "rows 0 and 1 share the item id 'a'"),
        ([[0, 2]], (1, 2), ["a"], "item 'a' has code 2 on level 1, whose codes are 0 to 1"),
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
