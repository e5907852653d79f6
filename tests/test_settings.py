"""`genrec_hf.json` is checked when it is read, and data that a model was not trained on is refused."""

import json

import pytest
from conftest import make_model, make_tokenizer
from trl import ModelConfig

from genrec_hf import SemanticIds, SidVocabulary, load_recommender
from genrec_hf.hub import save_recommender
from genrec_hf.models import load_for_training
from genrec_hf.settings import data_fingerprints, read_prompting, read_settings, refuse_other_data

SIDS = SemanticIds([[0, 1], [2, 0], [1, 1]], (3, 2), ["tea", "cup", "pot"])
DATASET = {"name": "toy", "fingerprint": "f" * 16}
SETTINGS = {
    "format_version": 1, "base_model": "org/base", "base_model_is_local": False, "max_history": 5,
    "normalization": "level", "markers": False, "form": "plain", "titles": False, "dataset": DATASET,
}  # fmt: skip


def write(folder, without=(), **changes):
    settings = {name: value for name, value in (SETTINGS | changes).items() if name not in without}
    (folder / "genrec_hf.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("form", "bogus"), ("form", None), ("normalization", "best"), ("normalization", ["full"]), ("max_history", 0),
        ("max_history", "5"), ("max_history", True), ("max_history", 2.5), ("markers", "no"), ("titles", 1),
        ("format_version", "1"), ("format_version", None), ("dataset", "toy"), ("base_model", 7),
        ("base_model_is_local", "false"),
    ],
)  # fmt: skip
def test_a_value_that_none_can_have_is_refused_with_file_and_name(tmp_path, name, value):
    write(tmp_path, **{name: value})
    for read in (read_settings, lambda folder: read_prompting(folder, SIDS)):
        with pytest.raises(ValueError) as raised:
            read(tmp_path)
        assert f"genrec_hf.json' has {name}={value!r}, where only " in str(raised.value)


@pytest.mark.parametrize("name", ["format_version", "max_history", "normalization", "markers", "base_model"])
def test_a_setting_that_is_missing_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=rf"genrec_hf\.json' has {name}=nothing, where only"):
        read_settings(write(tmp_path, without=[name]))


def test_files_from_before_prompts_had_forms_and_titles_are_plain(tmp_path):
    write(tmp_path, without=["form", "titles", "dataset", "base_model_is_local"])
    assert read_prompting(tmp_path, SIDS) == {
        "max_history": 5,
        "normalization": "level",
        "markers": False,
        "form": "plain",
        "titles": None,
    }
    assert read_settings(tmp_path)["dataset"] is None


def test_no_settings_no_model_and_no_titles_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no genrec_hf\.json"):
        read_settings(tmp_path)
    with pytest.raises(ValueError, match="model_name_or_path is not set"):
        read_prompting(None, SIDS)
    with pytest.raises(FileNotFoundError, match=r"was trained with titles in its prompts and holds no item_titles"):
        read_prompting(write(tmp_path, titles=True), SIDS)
    (tmp_path / "item_titles.json").write_text('{"tea": "A pot of tea"}')
    assert read_prompting(tmp_path, SIDS)["titles"] == ["A pot of tea", "", ""]
    with pytest.raises(ValueError, match="format 2, this genrec_hf reads up to 1: upgrade"):
        read_settings(write(tmp_path, format_version=2))


def test_other_data_is_refused_and_unknown_data_warned_of():
    refuse_other_data("mine", ["f" * 16], DATASET)
    refuse_other_data("mine", ["0" * 16], None)
    refuse_other_data("mine", ["0" * 16], {"name": "toy"})
    with pytest.raises(ValueError, match=r"^'mine' was trained on another data set, or on another split of this one"):
        refuse_other_data("mine", ["f" * 16, "0" * 16], DATASET)
    with pytest.warns(UserWarning, match="'mine' does not say which data it was trained on"):
        refuse_other_data("mine", [], DATASET)


def test_a_recommender_is_not_loaded_to_be_evaluated_on_another_split(tmp_path):
    tokenizer, model = make_tokenizer(), make_model()
    SidVocabulary(SIDS).extend(tokenizer, model, init="mean")
    save_recommender(
        tmp_path / "out", model, tokenizer, semantic_ids=SIDS, max_history=3, normalization="full", dataset=DATASET
    )
    assert load_recommender(tmp_path / "out", dataset=DATASET).max_history == 3
    with pytest.raises(ValueError, match=r"out' was trained on another data set.*set other_data: true"):
        load_recommender(tmp_path / "out", dataset=DATASET | {"fingerprint": "0" * 16})


@pytest.mark.parametrize("stage", ["lora", "full"])
def test_data_of_earlier_stages_is_remembered(tmp_path, stage):
    make_model().save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    source = tmp_path / "base"
    for name, fingerprint in (("first", "1" * 16), ("second", "2" * 16), ("third", "2" * 16)):
        given = ModelConfig(str(source), use_peft=stage == "lora", lora_r=2)
        model, tokenizer = load_for_training(given, SidVocabulary(SIDS), init="mean", stage=stage)
        dataset = {"name": "toy", "fingerprint": fingerprint}
        source = tmp_path / name
        save_recommender(
            source, model, tokenizer, semantic_ids=SIDS, max_history=3, normalization="full", dataset=dataset
        )
    found = [read_settings(tmp_path / name)["dataset"] for name in ("first", "second", "third")]
    assert found[0] == {"name": "toy", "fingerprint": "1" * 16}
    assert found[1] == found[2] == {"name": "toy", "fingerprint": "2" * 16, "earlier": ["1" * 16]}
    assert data_fingerprints(found[2]) == ["2" * 16, "1" * 16] and data_fingerprints(None) == []
    load_recommender(tmp_path / "first", dataset={"fingerprint": "1" * 16})
    with pytest.raises(ValueError, match=rf"third' was trained on .*{'1' * 16}, this one is {'2' * 16}"):
        load_recommender(tmp_path / "third", dataset={"fingerprint": "2" * 16})
