"""A catalogue that changes: SIDs of old items stay, new ones are theirs alone, and the trained model serves both."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from huggingface_hub.utils import filter_repo_objects
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf import Recommender, SemanticIds, SidVocabulary, load_recommender
from genrec_hf.generation import SearchSettings as Search
from genrec_hf.generation import SidTrie
from genrec_hf.hub import save_recommender
from genrec_hf.model_card import write_model_card
from genrec_hf.models import load_base
from genrec_hf.repositories import LEFT_OUT_FILES, LOADED_FILES, PUSHED_FILES
from genrec_hf.semantic_ids import RqKmeans, resolve_collisions
from genrec_hf.semantic_ids.behaviour import cold_embeddings, cooccurrence_embeddings
from genrec_hf.semantic_ids.quantizer import Quantizer, load_quantizer
from genrec_hf.tasks import dense_dataset

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(12, 6))
POINTS = (CENTRES[np.arange(110) % 12] + RNG.normal(size=(110, 6)) * 0.3).astype(np.float32)
OLD, NEW = POINTS[:100], POINTS[100:]
OLD_IDS, NEW_IDS = [f"i{item}" for item in range(100)], [f"n{item}" for item in range(10)]
QUANTIZER = RqKmeans((6, 8)).fit(OLD, progress=False)
STRATEGIES = ["extra-level", "random-level", "nearest"]


def build(strategy="extra-level", quantizer=QUANTIZER, reserved_codes=4, points=OLD, ids=OLD_IDS):
    codes, sizes = quantizer.encode(points), quantizer.level_sizes
    near = quantizer.distances(points)
    room = {} if strategy in ("nearest", "none") else {"reserved_codes": reserved_codes}
    codes, sizes = resolve_collisions(codes, sizes, None, strategy=strategy, distances=near, **room)
    info = {"collisions": strategy}
    return SemanticIds(codes, sizes, ids, info=info, shared=strategy == "none", quantizer=quantizer)


class Scattered(Quantizer):
    """Codes that stand for no embedding."""

    def _fit(self, embeddings, progress):
        return {}

    def _encode(self, embeddings):
        return (np.abs(embeddings[:, :2] * 1000).astype(int)) % np.array(self.level_sizes)


@pytest.fixture(scope="module")
def wide():
    """Room for every item: 20 codes on the last level."""
    return RqKmeans((6, 20)).fit(OLD, progress=False)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_catalogue_grows_by_a_tenth_after_saving_and_loading(tmp_path, wide, strategy):
    sids = build(strategy, wide)
    sids.save_pretrained(tmp_path / "sids")
    loaded = SemanticIds.from_pretrained(tmp_path / "sids")
    grown = loaded.add(NEW_IDS, NEW)
    assert grown.codes[:100].tolist() == sids.codes.tolist() and grown.item_ids == (*OLD_IDS, *NEW_IDS)
    assert grown.level_sizes == sids.level_sizes and len(np.unique(grown.codes, axis=0)) == 110
    trie = SidTrie(grown)
    assert len(trie) == 110 and not trie.shares_sids
    assert trie.items(trie.leaf).tolist() == list(range(110))
    assert grown.info == {"collisions": strategy, "added": 10} and grown.ancestors == (sids.fingerprint,)
    assert loaded.codes.tolist() == sids.codes.tolist() and len(loaded) == 100  # nothing is changed in place
    # The same in memory, and every time.
    assert sids.add(NEW_IDS, NEW).fingerprint == grown.fingerprint == loaded.add(NEW_IDS, NEW).fingerprint
    assert sids.add([], NEW[:0]) is sids
    # Grown twice, saved and loaded in between.
    grown.save_pretrained(tmp_path / "grown")
    again = SemanticIds.from_pretrained(tmp_path / "grown").remove(["i3", "n4"]).add(["z"], POINTS[3:4])
    assert again.ancestors[1:] == (grown.fingerprint, sids.fingerprint) and again.info["removed"] == 2
    assert again.codes[again.rows(["n5"])].tolist() == grown.codes[[105]].tolist()


def test_new_items_get_the_quantizers_codes_and_the_lowest_free_number():
    sids = build()
    grown = sids.add(NEW_IDS, NEW, events=np.arange(10))
    codes = QUANTIZER.encode(NEW)
    numbers = {}
    for code, number in zip(map(tuple, QUANTIZER.encode(OLD).tolist()), sids.codes[:, 2].tolist(), strict=True):
        numbers.setdefault(code, set()).add(number)
    for item in reversed(range(10)):  # by popularity
        taken = numbers.setdefault(tuple(codes[item].tolist()), set())
        lowest = next(number for number in range(100) if number not in taken)
        taken.add(lowest)
        assert grown.codes[100 + item].tolist() == [*codes[item].tolist(), lowest]


def test_a_full_group_sends_new_items_to_the_nearest_codes_with_room():
    sids = build(reserved_codes=0)
    codes, counts = np.unique(QUANTIZER.encode(OLD), axis=0, return_counts=True)
    full = codes[counts.argmax()]
    point = OLD[(QUANTIZER.encode(OLD) == full).all(axis=1)][:1]
    assert sids.level_sizes[2] == counts.max()
    grown = sids.add(["new"], point)
    distances = np.square(QUANTIZER.codebooks[1] - (point - QUANTIZER.codebooks[0][full[0]])).sum(axis=1)
    items = [(sids.codes[:, :2] == [full[0], code]).all(axis=1).sum() for code in range(8)]
    nearest = next(code for code in distances.argsort() if items[code] < counts.max())
    assert nearest != full[1] and grown.codes[-1].tolist() == [full[0], nearest, items[nearest]]


@given(st.integers(0, 10**6), st.integers(1, 14))
@settings(max_examples=60, deadline=None)
def test_a_catalogue_fills_up_to_the_last_sid(seed, count):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(30, 2)).astype(np.float32)
    quantizer = RqKmeans((4, 4), restarts=1).fit(points, progress=False)
    first = np.unique(quantizer.encode(points), axis=0, return_index=True)[1]
    sids = SemanticIds(quantizer.encode(points[first]), (4, 4), [f"i{i}" for i in first], quantizer=quantizer)
    new = rng.normal(size=(count, 2)).astype(np.float32)
    free = 16 - len(sids)
    if count > free:
        with pytest.raises(ValueError, match=f"{count} new items for the {free} unassigned SIDs"):
            sids.add([f"n{i}" for i in range(count)], new)
        new = new[:free]
    grown = sids.add([f"n{i}" for i in range(len(new))], new)
    assert len(np.unique(grown.codes, axis=0)) == len(sids) + len(new) == len(grown)
    wanted = [tuple(row) for row in quantizer.encode(new).tolist()] if len(new) else []
    there = set(map(tuple, sids.codes.tolist()))
    for item, code in enumerate(wanted):
        if code not in there and code not in wanted[:item]:
            assert tuple(grown.codes[len(sids) + item]) == code


def test_codes_that_stand_for_nothing_grow_by_the_lowest_that_are_free():
    quantizer = Scattered((3, 4)).fit(OLD)
    sids = SemanticIds([[0, 0], [0, 1], [1, 3]], (3, 4), ["a", "b", "c"], quantizer=quantizer)
    assert quantizer.distances(NEW) is None
    point = np.zeros((2, 6), dtype=np.float32)
    assert sids.add(["d", "e"], point).codes[3:].tolist() == [[0, 2], [0, 3]]
    assert sids.add([*"defg"], np.zeros((4, 6))).codes[3:].tolist() == [[0, 2], [0, 3], [1, 0], [1, 1]]


def test_shared_sids_grow_by_their_codes(tmp_path):
    sids = build("none")
    sids.save_pretrained(tmp_path)
    grown = SemanticIds.from_pretrained(tmp_path).add(NEW_IDS, NEW)
    assert grown.shared and grown.shares_sids
    assert grown.codes.tolist() == QUANTIZER.encode(POINTS).tolist()
    extra = SemanticIds([[0, 0, 0]] * 2, (6, 8, 1), ["a", "b"], shared=True, quantizer=QUANTIZER)
    with pytest.raises(ValueError, match="for which the quantizer gives no code"):
        extra.add(["c"], NEW[:1])


def test_what_cannot_be_added_or_removed_is_refused():
    sids = build()
    for arguments, match in [
        ((["i7"], NEW[:1]), r"'i7' is already in the catalogue \(1 of 1\)"),
        ((["a", "a"], NEW[:2]), "rows 100 and 101 share the item id 'a'"),
        (("ab", NEW[:2]), "letter by letter"),
        ((["a"], NEW[:2]), "1 item ids, 2 embeddings and no events"),
        ((["a"], NEW[:1], np.ones(2)), r"1 embeddings and events of shape \(2,\)"),
        ((["a"], NEW[:1] * np.nan), "NaN or infinite"),
        ((["a"], NEW[:1, :4]), r"4 wide, the quantizer was fitted on 6: .*components=2\)"),
        ((["a"], NEW[0]), "embeddings and no events"),
    ]:
        with pytest.raises(ValueError, match=match):
            sids.add(*arguments)
    with pytest.raises(ValueError, match="have no quantizer"):
        SemanticIds(sids.codes, sids.level_sizes, OLD_IDS).add(["a"], NEW[:1])
    with pytest.raises(ValueError, match="'a' is not in the catalogue"):
        sids.remove(["a"])
    with pytest.raises(ValueError, match="letter by letter"):
        sids.remove("i1")
    with pytest.raises(ValueError, match="all 100 items would be removed"):
        sids.remove(OLD_IDS)
    assert sids.remove([]) is sids


def test_removing_keeps_sids_and_order():
    sids = build()
    left = sids.remove(["i0", "i50", "i0"])
    kept = [item for item in range(100) if item not in (0, 50)]
    assert left.codes.tolist() == sids.codes[kept].tolist() and left.item_ids == tuple(OLD_IDS[i] for i in kept)
    assert left.rows(["i1"]).tolist() == [0] and left.ancestors == (sids.fingerprint,) and left.info["removed"] == 2
    # What became free is given again.
    assert left.add(["new"], OLD[:1]).codes[-1].tolist() == sids.codes[0].tolist()


def test_shuffled_sids_are_the_same_and_mean_nothing():
    sids = build()
    control = sids.shuffled(3)
    assert sorted(control.codes.tolist()) == sorted(sids.codes.tolist()) and control.item_ids == sids.item_ids
    assert (control.codes != sids.codes).any(axis=1).mean() > 0.9
    assert control.info == {"collisions": "extra-level", "shuffled": 3} and control.quantizer is None
    assert control.ancestors == () and control.fingerprint not in (sids.fingerprint, sids.shuffled(4).fingerprint)
    assert sids.shuffled(3).fingerprint == control.fingerprint


# The quantizer that travels along


def test_the_quantizer_is_made_when_asked_for_and_only_the_one_that_was_saved(tmp_path):
    sids = build()
    sids.save_pretrained(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "codes.safetensors",
        "quantizer/quantizer.json",
        "quantizer/quantizer.safetensors",
        "semantic_ids.json",
    ]
    loaded, lazy = SemanticIds.from_pretrained(tmp_path), SemanticIds.from_pretrained(tmp_path)
    assert type(loaded.quantizer) is RqKmeans and loaded.quantizer is loaded.quantizer
    # Another quantizer in its place is refused, and who loaded before that is not disturbed.
    RqKmeans((6, 8), seed=9).fit(NEW, progress=False).save_pretrained(tmp_path / "quantizer")
    with pytest.raises(ValueError, match="is not the quantizer that was saved"):
        SemanticIds.from_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "quantizer")
    assert SemanticIds.from_pretrained(tmp_path).quantizer is None
    lazy.save_pretrained(tmp_path)
    assert SemanticIds.from_pretrained(tmp_path).add(NEW_IDS, NEW).fingerprint == sids.add(NEW_IDS, NEW).fingerprint


def test_a_class_not_known_here_stops_only_what_needs_it(tmp_path):
    quantizer = Scattered((3, 4)).fit(OLD)
    quantizer.tensors = {"none": np.zeros(1)}
    SemanticIds([[0, 0]], (3, 4), ["a"], quantizer=quantizer).save_pretrained(tmp_path / "one")
    SemanticIds.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    loaded = SemanticIds.from_pretrained(tmp_path / "two")
    with pytest.raises(ValueError, match="holds a quantizer 'Scattered', this genrec_hf knows"):
        loaded.add(["b"], NEW[:1])


def test_a_quantizer_saved_beside_is_found_and_one_of_others_is_removed(tmp_path):
    sids = build()
    bare = SemanticIds(sids.codes, sids.level_sizes, OLD_IDS)
    bare.save_pretrained(tmp_path)
    QUANTIZER.save_pretrained(tmp_path / "quantizer")
    assert SemanticIds.from_pretrained(tmp_path).add(NEW_IDS, NEW).fingerprint == sids.add(NEW_IDS, NEW).fingerprint
    bare.save_pretrained(tmp_path)
    assert SemanticIds.from_pretrained(tmp_path).quantizer is None and not (tmp_path / "quantizer").exists()
    RqKmeans((2, 2)).fit(OLD, progress=False).save_pretrained(tmp_path / "quantizer")
    with pytest.raises(
        ValueError, match=r"RqKmeans with level sizes \(2, 2\), fitted, for SIDs with level sizes \(6, 8, "
    ):
        _ = SemanticIds.from_pretrained(tmp_path).quantizer
    with pytest.raises(ValueError, match="not fitted"):
        SemanticIds(sids.codes, sids.level_sizes, OLD_IDS, quantizer=RqKmeans((6, 8)))


def test_load_quantizer_knows_its_classes_and_no_others(tmp_path):
    QUANTIZER.save_pretrained(tmp_path)
    assert load_quantizer(tmp_path) == QUANTIZER
    config = json.loads((tmp_path / "quantizer.json").read_text())
    (tmp_path / "quantizer.json").write_text(json.dumps({**config, "quantizer": "os.system"}))
    with pytest.raises(ValueError, match=r"a quantizer 'os\.system', this genrec_hf knows RqKmeans"):
        load_quantizer(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*absent'"):
        load_quantizer(tmp_path / "absent")


def test_distances_are_those_of_the_residuals(monkeypatch):
    near, codes = QUANTIZER.distances(OLD), QUANTIZER.encode(OLD)
    left = OLD - QUANTIZER.codebooks[0][codes[:, 0]]
    expected = np.square(left[:, None] - QUANTIZER.codebooks[1]).sum(axis=2)
    np.testing.assert_allclose(near(np.arange(100), codes, 1), expected, rtol=1e-4, atol=1e-5)
    assert (near(np.arange(100), codes, 1).argmin(axis=1) == codes[:, 1]).all()
    some = near(np.array([7, 3]), codes[[1, 2]], 0)
    rest = POINTS[[7, 3]] - QUANTIZER.codebooks[1][codes[[1, 2], 1]]
    np.testing.assert_allclose(some, np.square(rest[:, None] - QUANTIZER.codebooks[0]).sum(axis=2), rtol=1e-4)
    monkeypatch.setattr("genrec_hf.semantic_ids.quantizer.RECONSTRUCTION_CHUNK", 100)
    np.testing.assert_array_equal(QUANTIZER.distances(OLD)(np.array([7, 3]), codes[[1, 2]], 0), some)
    assert near(np.arange(0), codes[:0], 1).shape == (0, 8)


def test_behaviour_of_new_items_is_silent():
    sequences = [np.arange(start, start + 5) for start in range(0, 90, 5)]
    vectors = cooccurrence_embeddings(sequences, OLD, weight=0.4, components=8)
    quantizer = RqKmeans((6, 8)).fit(vectors, progress=False)
    sids = build(quantizer=quantizer, points=vectors)
    with pytest.raises(ValueError, match=r"6 wide, the quantizer was fitted on 14: .*cold_embeddings.*components=8\)"):
        sids.add(NEW_IDS, NEW)
    cold = cold_embeddings(OLD, 0.4, components=8)
    np.testing.assert_array_equal(cold[95:], vectors[95:])  # nobody chose items 90 to 99
    assert (
        len(sids.add(NEW_IDS, cold_embeddings(NEW, 0.4, components=sids.quantizer.embedding_size - NEW.shape[1])))
        == 110
    )
    assert cold_embeddings(NEW, 0) is NEW
    for weight, components in ((0.5, 0), (1.5, 8), (-1, 8)):
        with pytest.raises(ValueError, match="pass those of the catalogue"):
            cold_embeddings(NEW, weight, components)


# The model that serves old and new


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory, wide):
    """A saved recommender, as a recipe leaves it."""
    directory = tmp_path_factory.mktemp("recommender")
    tokenizer = make_tokenizer()
    make_model(vocabulary=len(tokenizer)).save_pretrained(directory / "base")
    tokenizer.save_pretrained(directory / "base")
    sids = build("extra-level", wide)
    model, tokenizer = load_base(str(directory / "base"))
    SidVocabulary(sids).extend(tokenizer, model, init="random")
    save_recommender(directory / "out", model, tokenizer, semantic_ids=sids, max_history=5, normalization="level")
    return directory / "out"


def test_a_trained_recommender_serves_a_grown_catalogue(output_dir, tmp_path):
    old = load_recommender(output_dir)
    grown = old.semantic_ids.add(NEW_IDS, NEW).remove(["i9"])
    new = load_recommender(output_dir, semantic_ids=grown)
    assert [torch.equal(*pair) for pair in zip(old.model.parameters(), new.model.parameters(), strict=True)]
    assert new.vocabulary.all_token_ids.tolist() == old.vocabulary.all_token_ids.tolist()
    only_new = new.recommend([["i1", "n2"], []], k=9, allow=NEW_IDS)
    assert sorted(only_new[0]) == sorted(set(NEW_IDS) - {"n2"}) and set(only_new[1]) <= set(NEW_IDS)
    lists = new.recommend([["i1"]], k=20)[0]
    assert len(set(lists)) == 20 and "i9" not in lists
    # A SID means what it meant: old items get the scores they had.
    assert new.recommend([["i1", "i2"]], k=15, deny=NEW_IDS, search=Search(60)) == old.recommend(
        [["i1", "i2"]], k=15, deny=["i9"], search=Search(60)
    )
    # Beside the model on disk, and as a repository of its own.
    directory = tmp_path / "out"
    shutil.copytree(output_dir, directory)
    grown.save_pretrained(directory / "semantic_ids")
    write_model_card(directory)
    assert load_recommender(directory).recommend([["i1"]], k=20)[0] == lists
    save_recommender(
        tmp_path / "own", new.model, new.tokenizer, semantic_ids=grown, max_history=5, normalization="level"
    )
    again = load_recommender(tmp_path / "own")
    assert again.recommend([["i1"]], k=20)[0] == lists
    assert again.semantic_ids.add(["one more"], OLD[:1]).ancestors[0] == grown.fingerprint


class Given(Quantizer):
    """Codes that are the embeddings."""

    def _fit(self, embeddings, progress):
        return {}

    def _encode(self, embeddings):
        return embeddings.astype(int)


def test_a_model_that_was_not_trained_on_new_items_hardly_recommends_them(toy_data):
    """The claim of `SemanticIds.add`: copies of items that people do choose do not come out by themselves."""
    vectors = np.stack([np.arange(24) // 6, np.arange(24) % 6], axis=1).astype(np.float32)
    codes, sizes = np.column_stack([vectors.astype(int), np.zeros(24, dtype=int)]), (4, 6, 3)
    sids = SemanticIds(codes, sizes, toy_data.item_ids, quantizer=Given(sizes[:2]).fit(vectors))
    tokenizer, model = make_tokenizer(), make_model(tied=False)
    vocabulary = SidVocabulary(sids).extend(tokenizer, model, init="random")
    with torch.no_grad():  # sharper than a fresh model, so that it learns fast
        model.get_input_embeddings().weight.mul_(8)
    rows = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    batch = {name: torch.tensor(rows[name]) for name in ("input_ids", "labels")}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    grown = sids.add([f"copy of {item_id}" for item_id in sids.item_ids], vectors)
    assert (grown.codes[24:, :2] == grown.codes[:24, :2]).all()  # the quantizer knows them for what they are
    recommender, cases = Recommender(model, tokenizer, grown), toy_data.cases("test")
    lists = recommender.rank(cases.histories, k=10).items
    assert (lists[:, 0] == cases.targets).mean() > 0.5, "the model has learnt what comes next"
    assert (lists >= 24).mean() < 0.02, "half of the catalogue, in hardly a place"
    allowed = recommender.rank(cases.histories, k=10, allow=[range(24, 48)] * len(cases)).items
    assert allowed.min() >= 24, "an allow list reaches them"


def test_sids_of_another_making_stay_refused(output_dir):
    old = load_recommender(output_dir)
    sids = old.semantic_ids
    others = [sids.shuffled(1), SemanticIds(sids.codes, sids.level_sizes, OLD_IDS[::-1])]
    for other in others:
        with pytest.raises(ValueError, match="extended for semantic ids"):
            load_recommender(output_dir, semantic_ids=other)
    # Nor does a model of the grown catalogue speak for its ancestor's cousins.
    grown = sids.add(NEW_IDS, NEW)
    tokenizer = make_tokenizer()
    SidVocabulary(grown).extend(tokenizer)
    with pytest.raises(ValueError, match="extended for semantic ids"):
        SidVocabulary(sids.add(NEW_IDS, NEW[::-1])).bind(tokenizer)
    SidVocabulary(grown.remove(NEW_IDS)).bind(tokenizer)


def test_the_quantizer_goes_where_the_recommender_goes(output_dir):
    files = [str(path.relative_to(output_dir)) for path in output_dir.rglob("*") if path.is_file()]
    wanted = {f"semantic_ids/quantizer/quantizer.{kind}" for kind in ("json", "safetensors")}
    for patterns in (LOADED_FILES, PUSHED_FILES):
        assert wanted <= set(filter_repo_objects(files, allow_patterns=patterns, ignore_patterns=LEFT_OUT_FILES))


def test_shared_sids_do_not_name_one_item_in_silence():
    sids = build("none")
    tokenizer, model = make_tokenizer(), make_model()
    vocabulary = SidVocabulary(sids).extend(tokenizer, model, init="mean")
    trie = SidTrie(sids, vocabulary)
    first = trie.items_of(int(trie.leaf[0])).tolist()
    assert first == np.flatnonzero((sids.codes == sids.codes[0]).all(axis=1)).tolist()
    with pytest.raises(ValueError, match="several items share a SID"):
        vocabulary.items(vocabulary.token_ids([0]))
    with pytest.raises(ValueError, match="several items share a SID"):
        Recommender(model, tokenizer, sids)


def test_a_push_removes_the_quantizer_of_other_semantic_ids(monkeypatch):
    pushed = {}

    class Hub:
        def create_repo(self, *_, **__): ...

        def upload_folder(self, folder_path, delete_patterns, **_):
            files = [path for path in Path(folder_path).rglob("*") if path.is_file()]
            pushed["files"] = sorted(str(path.relative_to(folder_path)) for path in files)
            pushed["deleted"] = list(filter_repo_objects(pushed["files"], allow_patterns=delete_patterns))
            return "address"

    monkeypatch.setattr("genrec_hf.semantic_ids.artefact.HfApi", Hub)
    assert build().push_to_hub("someone/sids") == "address"
    names = [f"semantic_ids/quantizer/quantizer.{kind}" for kind in ("json", "safetensors")]
    assert pushed["deleted"] == names and set(names) < set(pushed["files"])
    build().shuffled().push_to_hub("someone/sids")
    assert pushed["files"] == ["semantic_ids/codes.safetensors", "semantic_ids/semantic_ids.json"]
