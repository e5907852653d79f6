"""Quantizers by name: each makes a catalogue's semantic ids, with figures and a way back from its files."""

import numpy as np
import pytest

from genrec_hf.semantic_ids import (
    QUANTIZER_NAMES,
    SemanticIds,
    behaviour_data,
    find_related_items,
    make_quantizer,
    read_settings,
    tokenize_catalogue,
)

RNG = np.random.default_rng(0)
VECTORS = (RNG.normal(size=(6, 12)).repeat(20, axis=0) * 4 + RNG.normal(size=(120, 12))).astype(np.float32)
KIN = find_related_items(VECTORS)
IDS = [f"i{item}" for item in range(120)]
QUICK = {"rq-vae": {"epochs": 3, "hidden_sizes": [16], "latent_size": 4}, "fsq": {"steps": 20, "hidden": 16}}


def tokenized(name, collisions="extra-level", **options):
    quantizer = make_quantizer(name, (16, 16), 3, settings=QUICK.get(name))
    return tokenize_catalogue(quantizer, VECTORS, KIN, item_ids=IDS, collisions=collisions, progress=False, **options)


@pytest.mark.parametrize("name", QUANTIZER_NAMES)
def test_every_name_makes_semantic_ids(name, tmp_path):
    made = tokenized(name)
    assert len(made.semantic_ids) == 120 and made.codes.shape == (120, 2)
    np.testing.assert_array_equal(made.semantic_ids.codes[:, :2], made.codes)
    report = made.report
    assert report["seconds"] > 0 and report["collision_after"] == 0 and len(report["levels"]) == 2
    assert (report["reconstruction_error"] is None) == (name in ("lsh", "random"))
    assert made.semantic_ids.info["settings"]["seed"] == 3
    made.semantic_ids.save_pretrained(tmp_path)
    loaded = SemanticIds.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.quantizer.encode(VECTORS), made.codes)
    assert loaded.quantizer.settings == made.semantic_ids.info["settings"]


@pytest.mark.parametrize("collisions, levels", [("nearest", 2), ("random-level", 3), ("none", 2)])
def test_collisions_are_resolved_as_asked(collisions, levels):
    made = tokenized("balanced-rq-kmeans", collisions)
    sids = made.semantic_ids
    assert sids.levels == levels and sids.shared == (collisions == "none") and sids.info["collisions"] == collisions
    assert (len(np.unique(sids.codes, axis=0)) == 120) == (collisions != "none")


def test_spare_codes_are_for_new_items():
    assert (
        tokenized("rq-kmeans", reserved_codes=5).semantic_ids.level_sizes[2]
        == 5 + tokenized("rq-kmeans").report["largest_group"]
    )


def test_unknown_names_and_settings_are_refused():
    with pytest.raises(ValueError, match="got quantizer='vq-gan'; use one of rq-kmeans"):
        make_quantizer("vq-gan", (8,))
    with pytest.raises(ValueError, match=r"rq-vae has no setting 'epoch': its settings are .*epochs"):
        make_quantizer("rq-vae", (8,), settings={"epoch": 3})
    with pytest.raises(ValueError, match="opq has no setting 'rotate'"):
        make_quantizer("opq", (8,), settings={"rotate": False})
    for wrong in (["epochs"], ["=3"], ["a=1", "a=2"]):
        with pytest.raises(ValueError, match="as name=value"):
            read_settings(wrong)


def test_behaviour_goes_to_quantizers_that_read_it():
    sequences = [RNG.integers(120, size=30) for _ in range(40)]
    assert behaviour_data(make_quantizer("rq-kmeans", (8, 8)), sequences, IDS) == {}
    settings = {"contrastive_weight": 0.1, "alignment_weight": 0.1} | QUICK["rq-vae"]
    quantizer = make_quantizer("rq-vae", (8, 8), settings=settings)
    behaviour = behaviour_data(quantizer, sequences, IDS)
    assert behaviour["cooccurrence"].shape == (120, 120) and behaviour["collaborative"].shape == (120, 64)
    made = tokenize_catalogue(quantizer, VECTORS, KIN, item_ids=IDS, progress=False, **behaviour)
    assert len(made.semantic_ids) == 120
    with pytest.raises(ValueError, match="which only rq-vae with alignment_weight above 0 uses"):
        behaviour_data(make_quantizer("pq", (8, 8)), sequences, IDS, collaborative="vectors.safetensors")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("ema=False", "got ema='False': it must be true or false, such as True"),
        ("ema=0", "got ema=0: it must be true or false"),
        ("epochs=ten", "got epochs='ten': it must be a whole number, such as 60"),
        ("epochs=1.5", "got epochs=1.5: it must be a whole number"),
        ("seed=true", "got seed=True: it must be a whole number"),
        ("temperature=warm", "got temperature='warm': it must be a number"),
        ("gradient=1", "got gradient=1: it must be text"),
        ("hidden_sizes=64", "got hidden_sizes=64: it must be whole numbers"),
        ("level_sizes=[8,1.5]", r"got level_sizes=\[8, 1.5\]: it must be whole numbers"),
    ],
)
def test_a_setting_of_another_type_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        make_quantizer(f"rq-vae {setting}", (8, 8))


def test_settings_may_follow_the_name():
    quantizer = make_quantizer("rq-vae ema=false seed=3 level_sizes=[16,4]", (8, 8), 1, settings={"epochs": 2})
    assert (quantizer.ema, quantizer.seed, quantizer.level_sizes, quantizer.epochs) == (False, 3, (16, 4), 2)
    assert make_quantizer("rq-kmeans", np.array([8, 8]), np.int64(1)).level_sizes == (8, 8)
