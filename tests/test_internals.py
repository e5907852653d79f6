"""Names inside libraries that genrec_hf relies on: what they do in the installed versions, and what a lack says."""

import importlib
import logging
import pkgutil
import sys
import warnings

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from conftest import make_model
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import DynamicCache
from transformers.integrations import deepspeed
from trl import GRPOTrainer
from vector_quantize_pytorch import VectorQuantize

from genrec_hf.internals import require
from genrec_hf.internals import torch as torch_internals
from genrec_hf.internals.peft import TrainableTokensWrapper, no_deprecations, trained_rows
from genrec_hf.internals.transformers import (
    attention_of,
    cache_in,
    cache_name,
    keeps_key_values,
    mark_initialized,
    whole_under_zero3,
)
from genrec_hf.internals.trl import no_experimental_warning
from genrec_hf.internals.vector_quantize import codebook_of


def test_a_missing_name_is_one_sentence_with_the_version_and_what_to_do():
    with pytest.raises(ImportError, match=r"^numpy \d.* has no numpy.gone, which genrec_hf relies on: install a"):
        require("numpy", {"numpy.gone": False, "numpy.ndarray": True})


@pytest.mark.parametrize(
    ("module", "holder", "name"),
    [
        ("transformers", "transformers.masking_utils", "sdpa_mask"),
        ("transformers", "transformers.integrations.sdpa_attention", "sdpa_attention_forward"),
        ("transformers", "transformers.integrations.deepspeed", "_hf_deepspeed_config_weak_ref"),
        ("peft", "peft.utils.other", "TrainableTokensWrapper"),
        ("trainer", "transformers.Trainer", "_run_epoch"),
        ("trl", "trl.trainer.utils", "FusedCausalLMOutput"),
        ("vector_quantize", "vector_quantize_pytorch.vector_quantize_pytorch", "rotate_to"),
    ],
)
def test_another_version_is_told_at_import(module, holder, name, monkeypatch):
    ours = sys.modules.get(f"genrec_hf.internals.{module}") or importlib.import_module(f"genrec_hf.internals.{module}")
    monkeypatch.delattr(pkgutil.resolve_name(holder), name)
    with pytest.raises(ImportError, match=f"has no .*{name}"):
        importlib.reload(ours)


def test_another_name_for_the_cache_is_told_at_import(monkeypatch):
    ours = importlib.import_module("genrec_hf.internals.transformers")
    monkeypatch.setattr("transformers.LlamaForCausalLM.forward", lambda self, input_ids, memory=None: None)
    with pytest.raises(ImportError, match="has no key-value cache called cache or past_key_values in `forward`"):
        importlib.reload(ours)


@pytest.mark.parametrize(
    "method", ["_generate_and_score_completions", "_compute_loss", "_get_per_token_logps_and_entropies"]
)
def test_methods_of_trl_that_are_overridden_or_called_are_there(method, monkeypatch):
    ours = importlib.import_module("genrec_hf.internals.trl")
    monkeypatch.delattr(GRPOTrainer, method)
    with pytest.raises(ImportError, match=f"has no GRPOTrainer.{method}"):
        importlib.reload(ours)


def test_a_cache_goes_in_and_comes_out_by_its_name(tiny_model):
    name, cache = cache_name(tiny_model), DynamicCache(config=tiny_model.config)
    assert name == cache_name(tiny_model.base_model)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")  # such as that a name is deprecated
        output = tiny_model(input_ids=torch.tensor([[3, 4, 5]]), **{name: cache})
    assert cache.get_seq_length() == 3 and cache_in(output) == {name: cache} and keeps_key_values(cache)
    assert cache_in({"use_cache": True, name: None}) == {}


def test_the_attention_of_a_config_is_the_one_that_runs():
    model = make_model()
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        assert attention_of(model.config) == attention


def test_marked_weights_are_not_drawn_again():
    class Around(type(make_model())):
        def __init__(self, config, inner):
            super().__init__(config)
            self.inner = inner
            self.post_init()

    inner = make_model()
    before = {name: weight.clone() for name, weight in inner.state_dict().items()}
    mark_initialized(inner)
    Around(inner.config, inner)
    assert all(torch.equal(weight, before[name]) for name, weight in inner.state_dict().items())


def test_zero3_is_out_of_the_way_and_comes_back():
    class Config:
        def is_zero3(self):
            return True

    config = Config()
    deepspeed.set_hf_deepspeed_config(config)
    try:
        assert deepspeed.is_deepspeed_zero3_enabled()
        with whole_under_zero3():
            assert not deepspeed.is_deepspeed_zero3_enabled()
        assert deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()


def test_trained_rows_are_those_that_the_wrapped_head_computes_with():
    base = make_model(tied=False)
    with no_deprecations():
        model = get_peft_model(
            base, LoraConfig(target_modules=["q_proj"], trainable_token_indices={"lm_head": [7, 5]})
        )
    head = model.get_base_model().get_output_embeddings()
    assert isinstance(head, TrainableTokensWrapper)
    with torch.no_grad():
        head.token_adapter.trainable_tokens_delta["default"] += 1
    hidden = torch.randn(3, base.config.hidden_size)
    for ids in (torch.tensor([5, 7]), torch.tensor([5, 9])):
        torch.testing.assert_close(hidden @ trained_rows(head, ids).T, head(hidden)[:, ids])


def test_a_deprecation_of_peft_does_not_reach_users():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with no_deprecations():
            get_peft_model(make_model(), LoraConfig(target_modules=["q_proj"]))


def test_missing_kernels_of_bitsandbytes_are_no_message(caplog):
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with caplog.at_level(logging.WARNING, logger=logger.name):
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no module named kernels")
        logger.warning("Something else")
    assert [record.getMessage() for record in caplog.records] == ["Something else"]


def test_a_choice_of_ours_is_no_warning_to_users():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with no_experimental_warning():
            warnings.warn("You are using 'rollout_func', which is an experimental feature.", UserWarning, stacklevel=1)


def test_writes_holders_and_hooks_are_noticed():
    tensor = torch.zeros(3)
    version, holders = torch_internals.version_of(tensor), torch_internals.holders_of(tensor)
    view = tensor[1:]
    assert torch_internals.holders_of(tensor) == holders + 1 > 0
    view += 1
    assert torch_internals.version_of(tensor) > version
    for attach in (
        lambda layer: layer.register_forward_hook(lambda *_: None),
        lambda layer: layer.register_forward_pre_hook(lambda *_: None),
        lambda layer: add_hook_to_module(layer, ModelHook()),
    ):
        layer = nn.Linear(2, 2)
        assert not torch_internals.has_hooks(layer)
        attach(layer)
        assert torch_internals.has_hooks(nn.Sequential(layer))


def test_the_choice_of_codes_is_the_one_put_into_the_codebook():
    level = VectorQuantize(dim=2, codebook_size=4).eval()
    codebook = codebook_of(level)

    def last(logits, *args, **kwargs):
        codes = torch.full(logits.shape[:-1], 3)
        return codes, nn.functional.one_hot(codes, 4).float()

    codebook.gumbel_sample = last
    assert level(torch.randn(5, 2))[1].tolist() == [3] * 5
