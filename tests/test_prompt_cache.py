"""Prefixes give the logits of plain forward passes, for every family that shares them and for those that cannot."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from genrec_hf.generation import SidLogitsProcessor, SidTrie, prompt_cache, sid_beam_search
from genrec_hf.generation.prompt_cache import (
    CopiedPromptCache,
    SharedPromptCache,
    StaticPromptCache,
    can_share_prompts,
    start_prompt_cache,
)
from genrec_hf.models import decoder_log_norm, decoder_logits
from genrec_hf.models.head import PLAIN_FAMILIES, is_plain

TOKENS = 60
SMALL = {
    "vocab_size": TOKENS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": 0,
    "pad_token_id": 1,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
EXTRA = {
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 32},
    "qwen3_moe": EXPERTS,
    "mixtral": EXPERTS,
    "gemma2": {"final_logit_softcapping": 0.5, "attn_logit_softcapping": 3.0, "attn_implementation": "eager"},
    "gemma3_text": {"final_logit_softcapping": 0.5},
}
# What shares no prefix: copies of the cache serve it.
OTHERS = {
    "window": ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "window everywhere": ("mistral", {"sliding_window": 5}),
    "alibi": ("bloom", {}),
    "alibi of falcon": ("falcon", {"alibi": True}),
    "linear attention": ("qwen3_next", EXPERTS | {"shared_expert_intermediate_size": 32, "linear_num_key_heads": 2,
                         "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
                         "layer_types": ["linear_attention", "full_attention", "linear_attention"]}),
    "convolutions": ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}),
    "mamba layers": ("jamba", EXPERTS | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8}),
    "scaled logits": ("granite", {"logits_scaling": 4.0}),
    "rotary positions of a part": ("phi3", {"partial_rotary_factor": 0.5}),
    "learned positions": ("gpt2", {}),
    "attention sinks": ("gpt_oss", EXPERTS | {"sliding_window": 6}),
}  # fmt: skip

IDS = torch.randint(2, 38, (3, 11), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[0, :5] = 0
MASK[2, :8] = 0
BATCH = {"input_ids": IDS.masked_fill(MASK == 0, 1), "attention_mask": MASK}
PROMPTS = [row[mask == 1] for row, mask in zip(IDS, MASK, strict=True)]

CODES = np.unique(np.random.default_rng(0).integers((3, 4, 3), size=(24, 3)), axis=0)
VOCABULARY = SimpleNamespace(level_token_ids=[np.arange(40, 43), np.arange(44, 48), np.arange(50, 53)])
TRIE = SidTrie(CODES, VOCABULARY)


def build(family: str, **settings) -> PreTrainedModel:
    """A random model with weights so large that its logits are far from 0."""
    config = AutoConfig.for_model(family)
    settings = SMALL | EXTRA.get(family, {}) | settings
    attention = settings.pop("attn_implementation", None)
    known = {key for key in settings if hasattr(config, key)} - {"head_dim" if family == "falcon" else None}
    config = AutoConfig.for_model(family, **{key: settings[key] for key in known})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=3, eos_token_id=0, pad_token_id=1)
    return model


@torch.no_grad()
def alone(model: PreTrainedModel, *tokens: torch.Tensor) -> torch.Tensor:
    """Logits `[vocabulary]` of what follows, from a plain forward pass without padding or cache."""
    return model(input_ids=torch.cat(tokens)[None], use_cache=False).logits[0, -1]


def logits(made, states: torch.Tensor) -> torch.Tensor:
    """Of the whole vocabulary; `log_norm` has to agree."""
    every = made.logits(states, torch.arange(TOKENS))
    for temperature in (1.0, 0.3):
        torch.testing.assert_close(made.log_norm(states, temperature), (every / temperature).logsumexp(dim=-1))
    return every


@torch.no_grad()
def check_prefix(made, model: PreTrainedModel, sizes=(4, 6, 2), inputs=None):
    """Every logit of a walk with arbitrary parents, some with many children and some with none."""
    draw = torch.Generator().manual_seed(1)
    prompt = {"input_ids": BATCH["input_ids"]} if inputs is None else inputs
    found = logits(made, made.read(prompt, MASK))
    histories = [[prompt] for prompt in PROMPTS]
    for size in (*sizes, None):
        expected = torch.stack([torch.stack([alone(model, each) for each in row]) for row in histories])
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
        if size is None:
            return
        parents = torch.randint(0, len(histories[0]), (3, size), generator=draw)
        tokens = torch.randint(2, TOKENS, (3, size), generator=draw)
        found = logits(made, made.extend(tokens, parents))
        histories = [
            [torch.cat([histories[row][int(parent)], token[None]]) for parent, token in zip(*pair, strict=True)]
            for row, pair in enumerate(zip(parents, tokens, strict=True))
        ]


def check_search(model: PreTrainedModel, normalization: str):
    """`sid_beam_search` against Hugging Face's beams."""
    options = {"return_dict_in_generate": True}
    processor = SidLogitsProcessor(TRIE, VOCABULARY, normalization=normalization)
    for num_beams in (2, 5):
        expected = model.generate(
            **BATCH,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            logits_processor=[processor],
            output_scores=True,
            **options,
        )
        found = model.generate(
            **BATCH,
            custom_generate=sid_beam_search,
            trie=TRIE,
            num_beams=num_beams,
            normalization=normalization,
            **options,
        )
        assert torch.equal(found.sequences, expected.sequences)
        torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", sorted(PLAIN_FAMILIES))
def test_decoder_logits_are_the_models_own(family):
    model = build(family)
    assert is_plain(model)
    with torch.no_grad():
        hidden, own = model.base_model(**BATCH).last_hidden_state, model(**BATCH).logits
        some = torch.tensor([7, 40, 59, 40])
        torch.testing.assert_close(decoder_logits(model, hidden, torch.arange(TOKENS)), own)
        torch.testing.assert_close(decoder_log_norm(model, hidden), own.logsumexp(dim=-1))
        torch.testing.assert_close(decoder_logits(model, hidden, some), own[..., some])
        cap = getattr(model.config, "final_logit_softcapping", None)
        assert (cap is None) == (family not in ("gemma2", "gemma3_text"))
        assert model.get_output_embeddings()(hidden).abs().max() > 1 and (cap is None or own.abs().max() < cap)


@pytest.mark.parametrize("family", sorted(PLAIN_FAMILIES))
def test_shared_and_copied_prefixes_give_the_logits_of_plain_forward_passes(family):
    model = build(family)
    assert can_share_prompts(model, 14)
    check_prefix(SharedPromptCache(model), model)
    check_prefix(CopiedPromptCache(model), model)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_shared_prefixes_under_either_attention(attention):
    model = build("qwen3", attn_implementation=attention)
    assert can_share_prompts(model, 14)
    check_prefix(SharedPromptCache(model), model)


@pytest.mark.parametrize("way", [SharedPromptCache, CopiedPromptCache])
def test_prefixes_read_embeddings_and_give_some_logits_only(way):
    model = build("llama")
    check_prefix(way(model), model, inputs={"inputs_embeds": model.get_input_embeddings()(BATCH["input_ids"])})
    some, (tokens, parents) = torch.tensor([50, 3, 41]), torch.tensor([[[40, 41]] * 3, [[0, 0]] * 3])
    with torch.no_grad():
        one, other = way(model), way(model)
        prompt = {"input_ids": BATCH["input_ids"]}
        for call, arguments in (("read", (prompt, MASK)), ("extend", (tokens, parents))):
            states, others = getattr(one, call)(*arguments), getattr(other, call)(*arguments)
            torch.testing.assert_close(one.logits(states, some), logits(other, others)[..., some])


@pytest.mark.parametrize("family", ["llama", "gemma", "mixtral", "qwen2_moe", "smollm3"])
def test_static_prefixes_give_the_logits_of_plain_forward_passes(family, monkeypatch):
    monkeypatch.setattr(prompt_cache, "_compiled_decode", lambda: prompt_cache._decode)  # test_beam_search compiles
    model = build(family)
    made = start_prompt_cache(model, length=11, hypotheses=4, levels=4, static=True)
    assert isinstance(made, StaticPromptCache)
    check_prefix(made, model, sizes=(4, 4, 4))
    check_prefix(made, model, sizes=(4, 4, 4))  # the cache is used again
    check_prefix(start_prompt_cache(model, length=11, hypotheses=6, levels=3, static=True), model, sizes=(6, 6))


def test_threads_do_not_write_into_each_others_static_caches(monkeypatch):
    monkeypatch.setattr(prompt_cache, "_compiled_decode", lambda: prompt_cache._decode)
    model, both = build("llama"), threading.Barrier(2, timeout=30)
    prompts = [{"input_ids": torch.full((2, 11), token)} for token in (7, 31)]
    step = torch.tensor([[40, 41]] * 2), torch.zeros(2, 2, dtype=torch.long)

    def states(way, prompt, wait=lambda: None):
        with torch.no_grad():
            way.read(prompt, torch.ones(2, 11, dtype=torch.long))
            wait()  # until the other has read, too
            return way.extend(*step)

    expected = [states(SharedPromptCache(model), prompt) for prompt in prompts]
    for _ in range(2):  # the caches are made, and used again
        with ThreadPoolExecutor(2) as pool:
            caches = [start_prompt_cache(model, length=11, hypotheses=2, levels=2, static=True) for _ in prompts]
            made = [pool.submit(states, *pair, both.wait) for pair in zip(caches, prompts, strict=True)]
            for each, wanted in zip(made, expected, strict=True):
                torch.testing.assert_close(each.result(), wanted)


@pytest.mark.parametrize("family, settings", OTHERS.values(), ids=OTHERS)
def test_what_shares_no_prefix_is_searched_exactly(family, settings):
    model = build(family, **settings)
    assert not can_share_prompts(model, 13)
    for normalization in ("full", "level", "trie"):
        check_search(model, normalization)
    check_prefix(CopiedPromptCache(model), model)
    with pytest.raises(ValueError, match=f"got static=True for '{family}'"):
        start_prompt_cache(model, length=11, hypotheses=5, levels=3, static=True)


def test_a_window_no_token_falls_out_of_is_shared():
    # 11 tokens of a prompt and 2 of a SID are read; the last of them sees 13, itself included.
    for window in (12, 13, 14):
        model = build("mistral", sliding_window=window)
        assert (
            isinstance(start_prompt_cache(model, length=11, hypotheses=5, levels=3), SharedPromptCache)
            == (window >= 13)
            == can_share_prompts(model, 13)
        )
        check_search(model, "full")
        with pytest.raises(ValueError, match="got static=True for 'mistral'"):
            start_prompt_cache(model, length=11, hypotheses=5, levels=3, static=True)
    assert can_share_prompts(build("mistral", sliding_window=None), 10**6)
    # A window that no layer uses is none.
    assert can_share_prompts(build("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=3), 10**6)


def test_a_window_shorter_than_a_sequence_would_change_shared_logits():
    model = build("mistral", sliding_window=5)
    with pytest.raises(AssertionError, match="not close"):
        check_prefix(SharedPromptCache(model), model)


def test_attention_that_reads_no_mask_of_four_dimensions_shares_no_prefix():
    model = build("llama")
    for attention in ("flash_attention_2", "flash_attention_3", "flex_attention", "kernels-community/flash-attn"):
        model.config._attn_implementation_internal = attention
        assert not can_share_prompts(model, 13) and isinstance(
            start_prompt_cache(model, length=11, hypotheses=5, levels=3), CopiedPromptCache
        )
        with pytest.raises(ValueError, match=f"with '{attention}' attention"):
            start_prompt_cache(model, length=11, hypotheses=5, levels=3, static=True)


class Scaled(LlamaForCausalLM):
    """Someone's own model: a Llama that does more to its logits."""

    # The key-value cache is called `cache` since transformers 5.24, `past_key_values` before.
    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, cache=None, past_key_values=None, **kwargs
    ):
        cached = past_key_values if cache is None else cache
        output = super().forward(input_ids, attention_mask, position_ids, cached, **kwargs)
        output.logits = output.logits * torch.linspace(0.1, 2, TOKENS)
        return output


@pytest.mark.parametrize("normalization", ["full", "level", "trie"])
def test_a_subclass_of_a_known_family_is_asked_for_its_own_logits(normalization):
    model = build("llama")
    own = Scaled(model.config).eval()
    own.load_state_dict(model.state_dict())
    own.generation_config = model.generation_config
    assert is_plain(model) and not is_plain(own) and not can_share_prompts(own, 13)
    check_search(own, normalization)


def test_models_that_keep_their_state_elsewhere_are_refused():
    with pytest.raises(ValueError, match=r"would not reach the model|has no key-value cache"):
        check_search(build("mamba", state_size=8), "full")
    with pytest.raises(ValueError, match="has no key-value cache"):
        start_prompt_cache(build("mamba", state_size=8), length=11, hypotheses=5, levels=3)


def test_state_kept_in_the_modules_is_refused():
    with pytest.raises(ValueError, match="has no key-value cache"):
        start_prompt_cache(
            build("recurrent_gemma", lru_width=32, attention_window_size=64), length=11, hypotheses=5, levels=3
        )


def test_encoder_decoders_are_refused():
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=TOKENS, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=1
    )
    model = T5ForConditionalGeneration(config).eval()
    with pytest.raises(ValueError, match="encoder-decoder"):
        start_prompt_cache(model, length=11, hypotheses=5, levels=3)
    with pytest.raises(ValueError):
        model.generate(**BATCH, custom_generate=sid_beam_search, trie=TRIE)
