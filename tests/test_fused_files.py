"""A fused ranker is one repository: what is saved, loaded, pushed, and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_model, make_tokenizer
from huggingface_hub import ModelCard

from genrec_hf import FusedRanker, SasRec, SidVocabulary, load_ranker
from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.fused_files import read_fused_config, refuse_other_model
from genrec_hf.generation import BeamScores, SearchSettings
from genrec_hf.hub import save_recommender
from genrec_hf.models import ItemKnn, SasRecConfig, TextKnn
from genrec_hf.ranking import Histories

ITEMS = 24
HISTORIES = [[0, 1, 2], [], [23, 7]]


def make_sasrec(**known):
    shape = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
    return SasRec(SasRecConfig(items=ITEMS, **shape, **known)).eval()


@pytest.fixture
def known(toy_data):
    return {"catalogue": catalogue_fingerprint(toy_data.item_ids), "dataset": toy_data.info["fingerprint"]}


@pytest.fixture
def fused(toy_data, known):
    rankers = {
        "counts": ItemKnn.from_sequences(toy_data.training_sequences(), ITEMS, **known),
        "sasrec": make_sasrec(**known),
        "words": TextKnn.from_embeddings(np.eye(ITEMS), **known),
    }
    weights = {"counts": 0.5, "sasrec": 0.0, "words": 0.5}
    return FusedRanker(rankers, weights, {"words": "z_score"}, dataset=known["dataset"])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_loaded_one_ranks_as_the_saved_one_and_a_ranker_of_weight_0_is_left_out(fused, toy_data, tmp_path):
    fused.save_pretrained(tmp_path / "fused")
    files = {"config.json", "model.safetensors"}
    folders = {f"rankers/{name}/{file}" for name in ("counts", "words") for file in files}
    assert tree(tmp_path / "fused").keys() == {"config.json", "README.md"} | folders
    assert {path.name for path in tmp_path.iterdir()} == {"fused"}
    for item_ids, dataset in ((toy_data.item_ids, toy_data.info), (None, None)):
        loaded = load_ranker(tmp_path / "fused", item_ids, dataset=dataset, device="cpu", search=SearchSettings(20))
        assert list(loaded.rankers) == ["counts", "words"] and loaded.dataset == toy_data.info["fingerprint"]
        np.testing.assert_array_equal(loaded.score(HISTORIES), fused.score(HISTORIES))
        assert (loaded.rank(HISTORIES, 10).items == fused.rank(HISTORIES, 10).items).all()
    loaded.save_pretrained(tmp_path / "again")
    assert tree(tmp_path / "again").keys() == tree(tmp_path / "fused").keys()
    fused.weights["counts"] = 0.0
    (tmp_path / "fused" / "metrics.json").write_text("{}")
    fused.save_pretrained(tmp_path / "fused")
    assert "metrics.json" not in tree(tmp_path / "fused") and not (tmp_path / "fused/rankers/counts").exists()


def test_fused_rankers_are_fused_again(fused, toy_data, known, tmp_path):
    outer = FusedRanker({"inner": fused, "other": make_sasrec(**known)}, {"inner": 1, "other": 2}, **known)
    outer.save_pretrained(tmp_path)
    loaded = load_ranker(tmp_path, toy_data.item_ids, dataset=toy_data.info)
    np.testing.assert_allclose(loaded.score(HISTORIES), outer.score(HISTORIES), rtol=1e-6)
    assert not (tmp_path / "rankers/inner/README.md").exists() and isinstance(loaded.rankers["inner"], FusedRanker)


@pytest.fixture
def recommender(toy_sids, tmp_path):
    model, tokenizer = make_model(), make_tokenizer()
    SidVocabulary(toy_sids).extend(tokenizer, model, init="random")
    folder = tmp_path / "outputs" / "llm"
    save_recommender(folder, model, tokenizer, semantic_ids=toy_sids, max_history=5, normalization="level")
    for name in ("metrics.json", "run_settings.json", "checkpoint-7/config.json", "elsewhere/config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def test_files_of_a_recommender_are_copied_from_its_source(recommender, fused, known, toy_data, tmp_path):
    llm = load_ranker(recommender, toy_data.item_ids, search=SearchSettings(ITEMS))
    rankers = {"llm": BeamScores(llm, ITEMS), "counts": fused.rankers["counts"]}
    both = FusedRanker(rankers, {"llm": 0.75, "counts": 0.25}, sources={"llm": recommender}, **known)
    both.save_pretrained(tmp_path / "both")
    copied = tree(tmp_path / "both/rankers/llm")
    assert set(copied) == {
        "config.json", "generation_config.json", "genrec_hf.json", "model.safetensors",
        "semantic_ids/codes.safetensors", "semantic_ids/semantic_ids.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert all(content == (recommender / name).read_bytes() for name, content in copied.items())
    assert read_fused_config(tmp_path / "both").kinds == {"llm": "recommender", "counts": "item_knn"}
    for search in (None, SearchSettings(4, batch_size=2), SearchSettings(30)):
        loaded = load_ranker(tmp_path / "both", toy_data.item_ids, search=search, dtype="float32")
        np.testing.assert_allclose(loaded.score(HISTORIES), both.score(HISTORIES), atol=1e-5)
        assert loaded.rankers["llm"].k == ITEMS
    assert load_ranker(tmp_path / "both").rankers["llm"].ranker.max_history == 5
    other = toy_data.item_ids[::-1]
    sources, catalogue = {"llm": recommender}, catalogue_fingerprint(other)
    llm = BeamScores(load_ranker(recommender, other), 20)
    FusedRanker({"llm": llm}, {"llm": 1.0}, sources=sources, catalogue=catalogue).save_pretrained(tmp_path / "other")
    assert load_ranker(tmp_path / "other", other).rank([[0]], 3).items.min() >= 0
    with pytest.raises(ValueError, match=r"has its items in another order .*; pass item_ids"):
        load_ranker(tmp_path / "other")


def test_what_is_pushed_loads_and_has_a_card(fused, toy_data, tmp_path, hub):
    assert fused.push_to_hub("someone/fused", private=True) == f"{hub.url}/someone/fused"
    files = hub.repos["someone/fused"]
    assert hub.private["someone/fused"] and "rankers/words/model.safetensors" in files and "README.md" in files
    card = ModelCard(files["README.md"].decode())
    assert "load_ranker('someone/fused')" in card.text and "| counts | item_knn | 0.5 | log_softmax |" in card.text
    loaded = load_ranker("someone/fused", toy_data.item_ids, dataset=toy_data.info)
    np.testing.assert_array_equal(loaded.score(HISTORIES), fused.score(HISTORIES))
    hub.private["someone/fused"] = False
    with pytest.raises(ValueError, match="which exists and is public, so nothing was uploaded"):
        fused.push_to_hub("someone/fused", private=True)


def test_another_catalogue_and_other_data_are_refused(fused, toy_data, known, tmp_path):
    fused.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"knows 24 items .*, not these 24 .*: its rows would belong to other items"):
        load_ranker(tmp_path, toy_data.item_ids[::-1])
    with pytest.raises(ValueError, match="was trained on another data set, or on another split"):
        load_ranker(tmp_path, toy_data.item_ids, dataset={"fingerprint": "0" * 16})
    edit(tmp_path / "rankers" / "words", catalogue="0" * 16)
    with pytest.raises(ValueError, match="got rankers of the catalogues"):
        load_ranker(tmp_path)
    rankers = {"one": make_sasrec(**known), "other": make_sasrec(catalogue="0" * 16)}
    with pytest.raises(ValueError, match="a row stands for another item in each; train or load all of them"):
        FusedRanker(rankers, {"one": 1, "other": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"../../counts": 1.0, "words": 1.0}}, "use letters, digits, _ and - only"),
        ({"weights": {"/etc": 1.0, "words": 1.0}}, "use letters, digits, _ and - only"),
        ({"weights": {"counts": 1.0}}, "a ranker lacks a setting"),
        ({"weights": {}}, "a ranker lacks a setting"),
        ({"weights": {"counts": 0.0, "words": 0.0}}, "give finite numbers above 0"),
        ({"weights": {"counts": "1", "words": 1.0}}, "give finite numbers above 0"),
        ({"weights": {"counts": True, "words": 1.0}}, "give finite numbers above 0"),
        ({"weights": [1.0, 2.0]}, "holds no objects of weights"),
        ({"beams": {"counts": 2.5}}, "a value has another type"),
        ({"dataset": 3}, "a value has another type"),
        ({"normalizations": {"counts": "rank", "words": "z_score"}}, "use one of log_softmax, z_score"),
        ({"format_version": 2}, "has format 2, this genrec_hf reads 1: upgrade"),
    ],
)
def test_a_config_that_was_changed_is_refused(changes, message, fused, tmp_path):
    fused.save_pretrained(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_ranker(tmp_path)


def test_what_is_missing_is_told(fused, tmp_path):
    fused.save_pretrained(tmp_path)
    (tmp_path / "rankers/words/model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"words/model\.safetensors' is not a complete safetensors file"):
        load_ranker(tmp_path)
    (tmp_path / "rankers/words/config.json").unlink()
    with pytest.raises(FileNotFoundError, match="words' is not the output of a training recipe"):
        load_ranker(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json of a fused ranker"):
        read_fused_config(tmp_path / "rankers" / "counts")


def test_what_could_not_be_loaded_is_not_saved(fused, known, tmp_path):
    class Fixed:
        num_items = ITEMS

        def score(self, histories, items=None, *, progress=False):
            return np.zeros((len(Histories.of(histories)), ITEMS), dtype=np.float32)

    table, sasrec = Fixed(), make_sasrec()
    for ranker, message in (
        (
            FusedRanker({"a": table}, {"a": 1}, catalogue="0"),
            r"\(Fixed\), which has no save_pretrained: pass sources=",
        ),
        (FusedRanker({"a": sasrec}, {"a": 1}), "do not know their catalogue"),
        (FusedRanker({"a/b": sasrec}, {"a/b": 1}, catalogue="0"), "use letters, digits, _ and - only"),
    ):
        with pytest.raises(ValueError, match=message):
            ranker.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match="neither a folder here"):
        FusedRanker({"a": table}, {"a": 1}, catalogue="0", sources={"a": "nothing"}).save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing is half-written"


def test_nothing_else_is_replaced(fused, tmp_path):
    make_sasrec().save_pretrained(tmp_path / "sasrec")
    for name, file in (("card", "README.md"), ("run", "run_settings.json"), ("mine", "rankers/notes.txt")):
        (tmp_path / name / file).parent.mkdir(parents=True)
        (tmp_path / name / file).write_text("mine")
    before = tree(tmp_path)
    for name, message in (
        ("sasrec", "holds model.safetensors, which genrec_hf did not write"),
        ("card", r"holds README\.md, which is not of a fused ranker"),
        ("run", r"holds run_settings\.json, which is not of a fused ranker"),
        ("mine", "holds rankers, which is not of a fused ranker"),
        ("card/README.md", "is a file; name a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            fused.save_pretrained(tmp_path / name)
    assert tree(tmp_path) == before
    fused.save_pretrained(tmp_path / "fused")
    with pytest.raises(ValueError, match="which the run reads and would replace"):
        refuse_other_model(tmp_path / "fused", [tmp_path / "fused"])


def test_an_interrupted_save_leaves_what_was_there(fused, tmp_path, monkeypatch):
    fused.save_pretrained(tmp_path)
    before = tree(tmp_path)
    monkeypatch.setattr(fused.rankers["words"], "save_pretrained", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fused.save_pretrained(tmp_path)
    assert tree(tmp_path) == before
