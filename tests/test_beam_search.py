"""`sid_beam_search` against Hugging Face's beam search with a `SidLogitsProcessor`, and against brute force."""

import logging
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from peft import LoraConfig
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    StoppingCriteria,
)

from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.generation import SidLogitsProcessor, SidTrie, clean_generation_config, prompt_cache, sid_beam_search
from genrec_hf.generation.prompt_cache import can_share_prompts
from genrec_hf.internals.transformers import cache_in
from genrec_hf.models import start_adapter

CODES = np.unique(np.random.default_rng(0).integers((3, 4, 3), size=(24, 3)), axis=0)
NORMALIZATIONS = ["full", "level", "trie"]
BATCHES = {
    "left padding": ["a b c: ", "The red thing, then the blue thing and the green one: ", "x"],
    "no padding": ["red: ", "eat: "],
    "one row": ["The red thing: "],
}
CATALOGUES = {
    "root of one child": CODES[CODES[:, 0] == 1],
    "one item": CODES[:1],
    "one level": np.array([[0], [3], [4], [6]]),
    "shared SIDs": CODES[[0, 5, 0, 3, 9, 9, 9]],
    "two long branches": np.array([[0, 1, 0, 2, 1], [2, 0, 0, 0, 0]]),
}


class World(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    vocabulary: SidVocabulary
    trie: SidTrie


def world(model: PreTrainedModel, codes: np.ndarray = CODES) -> World:
    """The model extended for `codes`, and made sharper, so that the best is best by a margin."""
    distinct = np.unique(codes, axis=0)
    sids = SemanticIds(distinct, tuple(codes.max(axis=0) + 1), [f"i{item}" for item in range(len(distinct))])
    tokenizer = make_tokenizer()
    vocabulary = SidVocabulary(sids).extend(tokenizer, model, init="random")
    with torch.no_grad():
        for weight in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            weight.mul_(8)
    model.generation_config = clean_generation_config(tokenizer, sids.levels)
    return World(model, tokenizer, vocabulary, SidTrie(codes, vocabulary))


def capped_model() -> PreTrainedModel:
    """A Gemma 2 whose soft-caps matter: logits well beyond the cap."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=512, final_logit_softcapping=3.0,
        attn_logit_softcapping=1.0, query_pre_attn_scalar=8, bos_token_id=None, eos_token_id=0, pad_token_id=1,
        attn_implementation="eager", initializer_range=0.2,
    )  # fmt: skip
    return Gemma2ForCausalLM(config).eval()


def encode(here: World, prompts=BATCHES["left padding"]):
    return here.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")


def ours(here: World, batch, model=None, **kwargs):
    options = {"custom_generate": sid_beam_search, "trie": here.trie, "return_dict_in_generate": True} | kwargs
    return (model or here.model).generate(**batch, **options)


def plain(here: World, batch, num_beams, normalization="full", model=None, **kwargs):
    """Hugging Face's own beam search over the same catalogue."""
    if "prefix_allowed_tokens_fn" not in kwargs:
        kwargs["logits_processor"] = [SidLogitsProcessor(here.trie, here.vocabulary, normalization=normalization)]
    return (model or here.model).generate(
        **batch,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        return_dict_in_generate=True,
        output_scores=True,
        **kwargs,
    )


def assert_same(found, expected):
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-4, rtol=0)


def tokens_of(here: World) -> torch.Tensor:
    """Token ids `[leaves, levels]` of each leaf."""
    rows = here.trie.items(torch.arange(here.trie.nodes(here.trie.levels)))
    return torch.as_tensor(here.vocabulary.token_ids(rows.numpy()))


def brute_force(here: World, prompt: str, normalization="full", model=None) -> torch.Tensor:
    """Log-probability `[leaves]` of each whole SID after `prompt`, teacher-forced, one row a SID."""
    prompt_ids, sids = here.tokenizer(prompt)["input_ids"], tokens_of(here)
    rows = torch.cat([torch.tensor([prompt_ids]).expand(len(sids), -1), sids], dim=1)
    with torch.no_grad():
        logits = (model or here.model)(rows).logits[:, len(prompt_ids) - 1 : -1].double()
    total = torch.zeros(len(sids), dtype=torch.double)
    for leaf, sid in enumerate(sids):
        for level, token in enumerate(sid):
            siblings = sids[(sids[:, :level] == sid[:level]).all(dim=1), level].unique()
            rivals = {"full": slice(None), "level": here.vocabulary.level_token_ids[level], "trie": siblings}[
                normalization
            ]
            total[leaf] += logits[leaf, level, token] - logits[leaf, level, rivals].logsumexp(dim=0)
    return total


@pytest.fixture
def graphs(monkeypatch):
    """Every graph that static mode compiles, run as it is traced: full graphs are asked for, no code is generated."""
    torch._dynamo.reset()
    # Tracing writes thousands of debug records, which pytest would keep: half of the time.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph

    compiled = torch.compile(prompt_cache._decode, fullgraph=True, dynamic=False, backend=backend)
    monkeypatch.setattr(prompt_cache, "_compiled_decode", lambda: compiled)
    yield seen
    torch._dynamo.reset()


def check_beams(here: World, normalization):
    for prompts in BATCHES.values():
        batch = encode(here, prompts)
        for num_beams, settings in ((2, {}), (3, {"length_penalty": 0.3}), (5, {"length_penalty": -1.0}), (5, {})):
            found = ours(here, batch, num_beams=num_beams, normalization=normalization, **settings)
            assert_same(found, plain(here, batch, num_beams, normalization, **settings))
            sums = found.token_log_probs.sum(dim=1) / here.trie.levels ** settings.get("length_penalty", 1.0)
            torch.testing.assert_close(found.sequences_scores, sums)
            assert torch.equal(tokens_of(here)[found.leaves], found.sequences[:, batch["input_ids"].shape[1] :])


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_beams_equal_those_of_plain_generate(tiny_model, normalization):
    check_beams(world(tiny_model), normalization)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_beams_of_a_model_with_soft_caps(normalization):
    here = world(capped_model())
    logits, cap = here.model(**encode(here)).logits, here.model.config.final_logit_softcapping
    here.model.config.final_logit_softcapping = None
    assert here.model(**encode(here)).logits.abs().max() > 2 * cap > 2 * logits.abs().max() - cap > cap / 2
    here.model.config.final_logit_softcapping = cap
    assert can_share_prompts(here.model, 60)
    check_beams(here, normalization)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_one_beam_is_the_greedy_choice(tiny_model, normalization):
    here = world(tiny_model)
    batch = encode(here)
    found = ours(here, batch, num_beams=1, normalization=normalization)
    processor = SidLogitsProcessor(here.trie, here.vocabulary, normalization=normalization)
    assert torch.equal(found.sequences, here.model.generate(**batch, logits_processor=[processor]))
    expected = [
        brute_force(here, p, normalization)[leaf]
        for p, leaf in zip(BATCHES["left padding"], found.leaves, strict=True)
    ]
    torch.testing.assert_close(found.sequences_scores * 3, torch.stack(expected).float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_wide_beams_equal_scoring_every_item(tiny_model, normalization):
    here = world(tiny_model)
    found = ours(here, encode(here), num_beams=len(CODES), normalization=normalization)
    leaves, scores = found.leaves.view(3, -1), found.sequences_scores.view(3, -1) * 3
    for row, prompt in enumerate(BATCHES["left padding"]):
        expected = brute_force(here, prompt, normalization)
        assert sorted(leaves[row].tolist()) == list(range(len(CODES)))
        assert (scores[row].diff() <= 0).all()
        torch.testing.assert_close(scores[row], expected[leaves[row]].float(), atol=1e-4, rtol=0)


def test_beams_equal_those_under_prefix_allowed_tokens_fn(tiny_model):
    here = world(tiny_model)
    batch, sids = encode(here), tokens_of(here)
    length = batch["input_ids"].shape[1]

    def allowed(row, ids):
        depth = len(ids) - length
        return sids[(sids[:, :depth] == ids[length:]).all(dim=1), depth].unique().tolist()

    for num_beams in (2, 5):
        assert_same(
            ours(here, batch, num_beams=num_beams), plain(here, batch, num_beams, prefix_allowed_tokens_fn=allowed)
        )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("num_beams", [2, 30])
@pytest.mark.parametrize("codes", CATALOGUES.values(), ids=CATALOGUES)
def test_ranks_beyond_the_catalogue_are_empty(codes, num_beams, normalization):
    here = world(make_model(), codes)
    batch = encode(here)
    length, left = batch["input_ids"].shape[1], min(num_beams, len(np.unique(codes, axis=0)))
    found, expected = (
        ours(here, batch, num_beams=num_beams, normalization=normalization),
        plain(here, batch, num_beams, normalization),
    )
    rows, expected_rows = (each.sequences.view(3, num_beams, -1) for each in (found, expected))
    scores, expected_scores = (each.sequences_scores.view(3, num_beams) for each in (found, expected))
    assert torch.equal(rows[:, :left], expected_rows[:, :left])
    torch.testing.assert_close(scores[:, :left], expected_scores[:, :left], atol=1e-4, rtol=0)
    # Beyond them: the prompt again, and padding.
    assert torch.equal(rows[:, left:, :length], batch["input_ids"][:, None].expand(-1, num_beams - left, -1))
    assert (rows[:, left:, length:] == 1).all() and (scores[:, left:] == -torch.inf).all()
    assert (found.token_log_probs.sum(dim=1).isfinite() == found.sequences_scores.isfinite()).all()
    items = here.trie.items(found.leaves).view(3, num_beams)
    assert (items[:, left:] == -1).all() and (found.leaves.view(3, num_beams)[:, left:] == -1).all()
    # Of items that share a SID, the first stands for all.
    real = items[:, :left].flatten().tolist()
    assert real == [codes.tolist().index(code) for code in codes[real].tolist()]


def test_fewer_sequences_than_beams_and_no_dict():
    here = world(make_model())
    batch = encode(here)
    every = ours(here, batch, num_beams=6).sequences
    some = ours(here, batch, num_beams=6, num_return_sequences=2, return_dict_in_generate=False)
    assert torch.equal(some.view(3, 2, -1), every.view(3, 6, -1)[:, :2])


def trained_adapter(here: World):
    """LoRA and trainable SID rows, all of them moved, in float64: so far that float32 would show how a CPU rounds."""
    torch.manual_seed(1)
    adapter = start_adapter(here.model, here.vocabulary, LoraConfig(r=2))
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return adapter.double().eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_trained_adapters_count_in_full(tied, normalization):
    here = world(make_model(tied=tied))
    batch = encode(here)
    before = ours(here, batch, num_beams=5, normalization=normalization)
    adapter = trained_adapter(here)
    found = ours(here, batch, adapter, num_beams=5, normalization=normalization)
    assert_same(found, plain(here, batch, 5, normalization, adapter))
    assert (found.sequences_scores - before.sequences_scores).abs().max() > 0.01
    with adapter.disable_adapter():
        assert_same(ours(here, batch, adapter, num_beams=5, normalization=normalization), before)


def test_inputs_embeds_give_what_input_ids_give(tiny_model):
    here = world(tiny_model)
    batch = encode(here)
    embeds = {
        "inputs_embeds": tiny_model.get_input_embeddings()(batch["input_ids"]),
        "attention_mask": batch["attention_mask"],
    }
    for num_beams in (1, 5):
        by_ids, by_embeds = ours(here, batch, num_beams=num_beams), ours(here, embeds, num_beams=num_beams)
        assert torch.equal(by_embeds.sequences, by_ids.sequences[:, -3:])
        torch.testing.assert_close(by_embeds.sequences_scores, by_ids.sequences_scores)


EVERY = np.arange(len(CODES))
DENY = [EVERY[::2], [], EVERY]
ALLOW = [EVERY[3:9], None, [0, 1, 2]]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("deny, allow", [(DENY, None), (None, ALLOW), (DENY, ALLOW), (DENY[::-1], [[], [4], None])])
def test_deny_and_allow_equal_a_trie_of_the_items_left(normalization, deny, allow):
    here = world(make_model())
    found = ours(here, encode(here), num_beams=6, normalization=normalization, deny=deny, allow=allow)
    scores, rows = found.sequences_scores.view(3, 6), found.sequences.view(3, 6, -1)[..., -3:]
    for row, prompt in enumerate(BATCHES["left padding"]):
        left = EVERY if allow is None or allow[row] is None else np.array(allow[row], dtype=np.int64)
        left = np.setdiff1d(left, deny[row] if deny is not None else [])
        if len(left) == 0:
            assert (scores[row] == -torch.inf).all() and (rows[row] == 1).all()
            continue
        rebuilt = here._replace(trie=SidTrie(CODES[left], here.vocabulary))
        alone = ours(rebuilt, encode(here, [prompt]), num_beams=6, normalization=normalization)
        assert torch.equal(alone.sequences[:, -3:], rows[row])
        torch.testing.assert_close(alone.sequences_scores, scores[row])
    assert (found.leaves.view(3, 6)[scores == -torch.inf] == -1).all()


STATIC_BATCHES = [BATCHES["left padding"], BATCHES["one row"], ["The red thing, then " * 12], BATCHES["left padding"]]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_static_mode_equals_the_eager_one(family, graphs):
    here = world(make_model(family))
    for prompts in STATIC_BATCHES:
        for normalization in NORMALIZATIONS:
            options = {"num_beams": 5, "normalization": normalization}
            check_static(here, encode(here, prompts), **options)
    assert graphs


def test_static_mode_compiles_one_graph_a_shape(graphs):
    here = world(make_model())
    shapes = set()
    for prompts in STATIC_BATCHES:
        batch = encode(here, prompts)
        rows, length = batch["input_ids"].shape
        shapes.add((rows, -(-length // prompt_cache.STATIC_STRIDE)))
        for normalization in NORMALIZATIONS:
            ours(here, batch, num_beams=5, normalization=normalization, static=True)
            assert len(graphs) == len(shapes)  # the steps of a SID share one, as do the three scores
    assert len(shapes) == 3


def test_static_mode_takes_filters_embeds_adapters_and_wide_beams(graphs):
    here = world(make_model())
    batch = encode(here)
    embeds = {"inputs_embeds": here.model.get_input_embeddings()(batch["input_ids"])}
    embeds["attention_mask"] = batch["attention_mask"]
    for inputs in (batch, embeds):
        for num_beams, filters in ((5, {"deny": DENY, "allow": ALLOW}), (30, {})):
            check_static(here, inputs, num_beams=num_beams, **filters)
    check_static(here, batch, trained_adapter(here), num_beams=5, normalization="level")
    assert graphs


def check_static(here: World, batch, model=None, **options):
    static, eager = (ours(here, batch, model, static=mode, **options) for mode in (True, False))
    assert torch.equal(static.sequences, eager.sequences)
    torch.testing.assert_close(static.sequences_scores, eager.sequences_scores, atol=1e-5, rtol=0)


def test_static_mode_with_the_real_compiler(monkeypatch):
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    here = world(make_model("qwen2"))
    for prompts in (BATCHES["left padding"], BATCHES["left padding"][::-1]):
        batch = encode(here, prompts)
        assert_same(ours(here, batch, num_beams=5, static=True), ours(here, batch, num_beams=5))


def test_a_checkpoints_own_sampling_defaults_change_nothing():
    here = world(make_model())
    batch = encode(here)
    clean = ours(here, batch, num_beams=5)
    here.model.generation_config = GenerationConfig(
        do_sample=True, top_k=2, top_p=0.5, temperature=0.2, repetition_penalty=3.0, eos_token_id=0, pad_token_id=1
    )
    assert_same(ours(here, batch, num_beams=5), clean)
    assert here.model.generation_config.top_k == 2


def test_a_second_call_and_other_rows_change_nothing(tiny_model):
    here = world(tiny_model)
    prompts = BATCHES["left padding"]
    first, second = (ours(here, encode(here), num_beams=5) for _ in range(2))
    assert torch.equal(first.sequences, second.sequences)
    assert torch.equal(first.sequences_scores, second.sequences_scores)
    for row, prompt in enumerate(prompts):
        alone = ours(here, encode(here, [prompt]), num_beams=5)
        assert torch.equal(alone.sequences[:, -3:], first.sequences.view(3, 5, -1)[row, :, -3:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_half_precision(tiny_model, dtype, normalization):
    here = world(tiny_model)
    batch = encode(here)
    whole = ours(here, batch, num_beams=len(CODES), normalization=normalization)
    tiny_model.to(dtype)
    half = ours(here, batch, num_beams=len(CODES), normalization=normalization)
    assert half.sequences_scores.dtype == torch.float32
    for row, other in zip(half.leaves.view(3, -1), whole.leaves.view(3, -1), strict=True):
        assert sorted(row.tolist()) == sorted(other.tolist())
    torch.testing.assert_close(half.sequences_scores, whole.sequences_scores, atol=0.1, rtol=0)


class OwnProcessor(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


class OwnCriterion(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"trie": None}, "got no trie, or one without token ids"),
        ({"trie": SidTrie(CODES)}, "got no trie, or one without token ids"),
        (
            {"generation_config": GenerationConfig(num_beams=2)},
            "num_beams=2, num_return_sequences=1 in the generation",
        ),
        ({"generation_config": GenerationConfig(num_beams=3, num_return_sequences=3)}, "num_return_sequences=3 in"),
        ({"logits_processor": [OwnProcessor()]}, "OwnProcessor.* which would not be applied"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: [5]}, "prefix_allowed_tokens_fn, which would not be applied"),
        ({"stopping_criteria": [OwnCriterion()]}, "OwnCriterion.* which would not be applied"),
        ({"max_new_tokens": 2}, "max_new_tokens=2 for SIDs of 3 tokens"),
        ({"output_logits": True}, "'output_logits'.* are not returned"),
        ({"output_hidden_states": True}, "'output_hidden_states'.* are not returned"),
        ({"labels": torch.zeros(3, 5)}, "'labels'.* which would not reach the model"),
        ({"deny": [[1]]}, "1 deny lists for 3 prompts"),
        ({"allow": [[1]] * 4}, "4 allow lists for 3 prompts"),
        ({"deny": [[len(CODES)], [], []]}, f"item rows {len(CODES)} to {len(CODES)} for {len(CODES)} items"),
        ({"num_beams": 5, "num_return_sequences": 6}, "num_return_sequences=6 for num_beams=5"),
        ({"num_return_sequences": 0}, "num_return_sequences=0 for"),
        ({"num_beams": 0}, "for num_beams=0"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_would_not_be_done_is_refused(kwargs, message):
    here = world(make_model())
    with pytest.raises(ValueError, match=message):
        ours(here, encode(here), **kwargs)


def test_prompts_that_would_not_be_read_whole_are_refused():
    here = world(make_model())
    right = here.tokenizer(BATCHES["left padding"], return_tensors="pt", padding=True, padding_side="right")
    with pytest.raises(ValueError, match="pad on the left"):
        ours(here, right)
    batch = encode(here)
    cached = cache_in(here.model(input_ids=batch["input_ids"][:, :-1], use_cache=True))
    with pytest.raises(ValueError, match="cache that already holds tokens"):
        ours(here, batch, **cached)
    with pytest.raises(ValueError, match="got empty prompts"):
        ours(here, {"inputs_embeds": torch.zeros(2, 0, 32)})


class Masked(nn.Module):
    """A head that masks everything."""

    def __init__(self, rows):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, 32))

    def forward(self, hidden):
        return torch.full((*hidden.shape[:-1], len(self.weight)), -torch.inf)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("broken", ["nan head", "one nan layer", "nothing but -inf"])
def test_logits_that_choose_nothing_raise(normalization, broken):
    here = world(make_model(tied=False))
    batch = encode(here)
    ours(here, batch, num_beams=3, normalization=normalization)
    with torch.no_grad():
        if broken == "nan head":
            here.model.lm_head.weight.fill_(torch.nan)
        elif broken == "one nan layer":
            here.model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
        else:
            here.model.lm_head = Masked(len(here.model.lm_head.weight))
    with pytest.raises(ValueError, match="logits that hold NaN, or are -inf for every allowed token"):
        ours(here, batch, num_beams=3, normalization=normalization)


def test_nan_after_the_first_token_raises():
    here = world(make_model(tied=False))
    with torch.no_grad():  # no prompt holds it, but a beam of the second step does
        here.model.get_input_embeddings().weight[int(here.vocabulary.level_token_ids[0][0])] = torch.nan
    batch, without = encode(here, BATCHES["no padding"]), np.flatnonzero(CODES[:, 0] > 0)
    assert torch.isfinite(ours(here, batch, num_beams=2, allow=[without, without]).sequences_scores).all()
    with pytest.raises(ValueError, match="logits that hold NaN"):
        ours(here, batch, num_beams=3, allow=[without, None])


@pytest.mark.parametrize("way", [prompt_cache.SharedPromptCache, prompt_cache.CopiedPromptCache])
def test_among_legal_children_only_what_is_decided_is_not_read(way, monkeypatch):
    # The last code tells items of one prefix apart, and most have no such neighbour.
    sids = [(0, 0, 0, 0), (0, 0, 1, 0), (0, 0, 1, 1), (0, 1, 0, 0), (1, 0, 0, 0), (1, 0, 1, 0), (2, 2, 2, 0)]
    here = world(make_model(), np.array(sids))
    batch, num_beams = encode(here), []
    extend = way.extend
    monkeypatch.setattr(
        way,
        "extend",
        lambda self, tokens, parents: num_beams.append(tokens.shape[1]) or extend(self, tokens, parents),
    )
    monkeypatch.setattr("genrec_hf.generation.beam_search.start_prompt_cache", lambda model, *_, **__: way(model))
    for normalization, expected in (("trie", [2, 2, 1]), ("level", [3, 4, 6]), ("full", [3, 4, 6])):
        num_beams.clear()
        found = ours(here, batch, num_beams=10, normalization=normalization)
        assert num_beams == expected
        for row, prompt in enumerate(BATCHES["left padding"]):
            log_probs = brute_force(here, prompt, normalization)
            order = log_probs.argsort(descending=True)
            assert torch.equal(found.leaves.view(3, -1)[row, : len(order)], order)
            scores = 4 * found.sequences_scores.view(3, -1)[row, : len(order)]
            torch.testing.assert_close(scores, log_probs[order].float())
