"""Adapters: only LoRA in safetensors, on the base model that they were trained on, wherever that is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import make_model
from safetensors.torch import load_file, save_file
from test_checkpoints import as_pickle, edit, logits, save, save_base, train

from genrec_hf import load_recommender
from genrec_hf.models import load_adapter, load_base
from genrec_hf.models.export import export_checkpoint


@pytest.fixture
def adapter(tmp_path):
    return save(tmp_path / "out", *train(save_base(tmp_path / "base")))


def test_pickles_of_an_adapter_are_read_by_request_alone(adapter):
    expected = load_recommender(adapter)
    as_pickle(adapter, "adapter_model.safetensors", "adapter_model.bin")
    for read in (load_adapter, load_recommender, train):
        with pytest.raises(
            FileNotFoundError, match=r"holds no adapter_model\.safetensors: weights in other files are"
        ):
            read(adapter)
    loaded = load_recommender(adapter, allow_pickle=True)
    assert torch.equal(logits(loaded.model, loaded.tokenizer), logits(expected.model, expected.tokenizer))


def test_tokens_added_after_training_are_refused(adapter, tmp_path):
    recommender = load_recommender(adapter)
    model, tokenizer = recommender.model, recommender.tokenizer
    tokenizer.add_tokens(["<late>"])
    with pytest.raises(ValueError, match=r"none for '<late>', which would be random"):
        save(tmp_path / "new", model, tokenizer)
    tokenizer.save_pretrained(adapter)
    with pytest.raises(
        ValueError,
        match=r"out' has 1 tokens, such as '<late>', that neither .* would be random, and different at every load",
    ):
        load_recommender(adapter)
    whole, tokenizer = train(tmp_path / "base", "full")
    save(tmp_path / "whole", whole, tokenizer)
    tokenizer.add_tokens(["<late>"])
    tokenizer.save_pretrained(tmp_path / "whole")
    for read in (load_recommender, train):
        with pytest.raises(ValueError, match="none for '<late>'"):
            read(tmp_path / "whole")


# A base that is elsewhere, or gone


def test_a_base_of_a_relative_path_is_found_beside_the_adapter(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    save_base(Path("outputs/base"))
    model, tokenizer = train("outputs/base")
    save(Path("outputs/mine"), model, tokenizer)
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "work", moved)
    monkeypatch.chdir(tmp_path)
    loaded = load_recommender(moved / "outputs" / "mine")
    assert (logits(loaded.model, tokenizer) - logits(model, tokenizer)).abs().max() == 0.0
    # What goes on from it names the place where the base was found.
    going_on, _ = train(moved / "outputs" / "mine")
    again = load_recommender(save(tmp_path / "next", going_on, tokenizer))
    assert again.model.peft_config["default"].base_model_name_or_path == str(moved / "outputs" / "base")
    assert json.loads((tmp_path / "next" / "genrec_hf.json").read_text())["base_model_is_local"]
    shutil.rmtree(moved / "outputs" / "base")
    with pytest.raises(FileNotFoundError, match=r"local checkpoint 'outputs/base', which is neither here nor next to"):
        load_recommender(moved / "outputs" / "mine")


def test_a_base_whose_cached_copy_is_gone_comes_from_the_hub(tmp_path, hub):
    hub.put("someone/base", save_base(tmp_path / "base"))
    load_base("someone/base")
    (snapshot,) = (tmp_path / "hub").glob("models--someone--base/snapshots/*")
    model, tokenizer = train(snapshot)
    save(tmp_path / "out", model, tokenizer)
    shutil.rmtree(tmp_path / "hub")
    loaded = load_recommender(tmp_path / "out")
    assert (logits(loaded.model, tokenizer) - logits(model, tokenizer)).abs().max() == 0.0
    config = loaded.model.peft_config["default"]
    assert (config.base_model_name_or_path, config.revision) == ("someone/base", snapshot.name)


def test_a_base_that_left_the_hub_is_named(adapter, hub):
    edit(adapter / "adapter_config.json", base_model_name_or_path="someone/base")
    edit(adapter / "genrec_hf.json", base_model="someone/base", base_model_is_local=False)
    with pytest.raises(FileNotFoundError, match=r"someone/base' is neither a folder here nor a Hub repository"):
        load_recommender(adapter)
    edit(adapter / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(ValueError, match=r"adapter_config\.json' names no base model"):
        load_recommender(adapter)


def test_an_adapter_that_is_no_lora_is_told(adapter):
    for kind in ("XLORA", "BOGUS", None):
        edit(adapter / "adapter_config.json", peft_type=kind)
        with pytest.raises(ValueError, match=f"out' holds an adapter of type {kind!r}, and only LoRA adapters"):
            load_recommender(adapter)


def test_an_adapter_of_another_base_or_without_some_weights_is_told(adapter, tmp_path):
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: weight for name, weight in weights.items() if "q_proj" not in name},
        adapter / "adapter_model.safetensors",
    )
    with pytest.raises(ValueError, match=r"^the adapter in '.*out' does not fit the base model '.*base', .*missing"):
        load_recommender(adapter)
    save_file(weights, adapter / "adapter_model.safetensors")
    export_checkpoint(str(tmp_path / "base"), tmp_path / "cut", num_hidden_layers=1)
    shutil.copytree(tmp_path / "cut", tmp_path / "base", dirs_exist_ok=True)
    with pytest.raises(
        ValueError, match=r"holds \d+ weights that the base model .* has no modules for, such as '.*\.1\."
    ):
        load_recommender(adapter)
    make_model(width=16, vocabulary=319).save_pretrained(tmp_path / "base")
    with pytest.raises(
        ValueError, match=r"^the adapter in '.*out' does not fit the base model '.*base', which is not"
    ):
        load_recommender(adapter)
