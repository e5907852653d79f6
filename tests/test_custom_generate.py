"""What `custom_generate` reads from a call of `generate` and what it refuses: nothing asked for is left out unsaid."""

from functools import partial

import pytest
import torch
from conftest import make_model
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model
from test_beam_search import CODES, NORMALIZATIONS, assert_same, encode, graphs, ours, plain, world  # noqa: F401
from torch import nn

from genrec_hf.generation import prompt_cache, sid_beam_search, sid_sample


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_hook_on_the_head_counts(normalization):
    here = world(make_model(tied=False))
    shift = torch.randn(here.model.lm_head.weight.shape[0], generator=torch.Generator().manual_seed(0))
    here.model.lm_head.register_forward_hook(lambda module, inputs, output: output + shift)
    assert_same(
        ours(here, encode(here), num_beams=5, normalization=normalization), plain(here, encode(here), 5, normalization)
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("tied", [True, False])
def test_adapter_names_choose_the_adapter_of_each_row(normalization, tied):
    here = world(make_model(tied=tied))
    rows = here.vocabulary.all_token_ids.tolist()
    config = LoraConfig(
        r=2,
        target_modules=["q_proj"],
        init_lora_weights=False,
        trainable_token_indices={"embed_tokens": rows} if tied else {"embed_tokens": rows, "lm_head": rows},
    )
    model = get_peft_model(here.model, config, adapter_name="one")
    model.add_adapter("two", config)
    model.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.set_adapter("one")
    batch = encode(here)
    found = ours(
        here, batch, model, num_return_sequences=5, normalization=normalization,
        custom_generate=partial(sid_beam_search, num_beams=5), adapter_names=["two", "one", "__base__"],
    )  # fmt: skip
    for row, name in enumerate(["two", "one", None]):
        if name:
            model.set_adapter(name)
            alone = ours(here, batch, model, num_beams=5, normalization=normalization)
        else:
            with model.disable_adapter():
                alone = ours(here, batch, model, num_beams=5, normalization=normalization)
        scores = alone.sequences_scores.view(3, 5)[row]
        torch.testing.assert_close(found.sequences_scores.view(3, 5)[row], scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_learned_prompts_are_refused(config):
    here = world(make_model())
    model = get_peft_model(here.model, config(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)).eval()
    with pytest.raises(ValueError, match="prompt"):
        ours(here, encode(here), model)
    ours(here, encode(here))  # the bare model, after PEFT has touched it


def test_unknown_scores_are_refused():
    here = world(make_model())
    with pytest.raises(ValueError, match="got normalization='best'; use one of full, level, trie"):
        ours(here, encode(here), normalization="best")


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_masks_over_everything_legal_raise(normalization):
    here = world(make_model(tied=False))
    sids = torch.as_tensor(here.vocabulary.all_token_ids)

    class Head(nn.Linear):
        def forward(self, hidden):
            return super().forward(hidden).index_fill(-1, sids, -torch.inf)

    here.model.lm_head.__class__ = Head
    with pytest.raises(ValueError, match="-inf for every allowed token"):
        ours(here, encode(here), normalization=normalization)


def test_own_positions_are_refused():
    here = world(make_model())
    batch = encode(here)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    ours(here, batch, position_ids=positions)
    with pytest.raises(ValueError, match="position_ids"):
        ours(here, batch, position_ids=positions * 3)


def test_a_static_model_may_change_dtype(graphs):  # noqa: F811
    here = world(make_model())
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        here.model.to(dtype)
        ours(here, encode(here), num_beams=3, static=True)


def test_static_mode_after_inference_mode(graphs):  # noqa: F811
    here = world(make_model())
    with torch.inference_mode():
        one = ours(here, encode(here), num_beams=3, static=True)
    assert_same(ours(here, encode(here), num_beams=3, static=True), one)
    with torch.inference_mode():
        assert_same(ours(here, encode(here), num_beams=3, static=True), one)


def test_many_static_shapes():
    torch._dynamo.reset()
    here = world(make_model())
    real = torch.compile
    prompt_cache._compiled_decode.cache_clear()
    torch.compile = partial(real, backend="eager")
    try:
        for rows in range(1, 12):
            ours(here, encode(here, ["x: "] * rows), num_beams=3, static=True)
    finally:
        torch.compile = real
        prompt_cache._compiled_decode.cache_clear()


def test_a_length_too_short_for_a_sid_is_refused():
    here = world(make_model())
    with pytest.raises(ValueError, match="which would be cut"):
        ours(here, encode(here), max_new_tokens=2)


def test_top_k_that_was_asked_for():
    here = world(make_model())
    with pytest.raises(ValueError, match="top_k"):
        ours(here, encode(here), custom_generate=sid_sample, do_sample=True, top_k=2)
    here.model.generation_config.top_k = 2
    ours(here, encode(here), custom_generate=sid_sample, num_return_sequences=2)  # a checkpoint's own does not count
