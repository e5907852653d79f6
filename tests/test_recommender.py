"""`Recommender` against scoring the whole catalogue by hand, and everything a user may ask of it."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from conftest import make_model, make_tokenizer
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from genrec_hf import Recommender, SemanticIds, SidVocabulary
from genrec_hf.generation import Mmr, PrefixCap
from genrec_hf.generation import SearchSettings as Search
from genrec_hf.generation.prompt_cache import can_share_prompts
from genrec_hf.models import start_adapter
from genrec_hf.ranking import Ranking
from genrec_hf.tasks import encode_prompt, next_item_prompt

SIZES = (3, 4, 3)
CODES = np.unique(np.random.default_rng(0).integers(SIZES, size=(24, 3)), axis=0)
ITEMS = len(CODES)
IDS = [f"i{item}" for item in range(ITEMS)]
HISTORIES = [np.array(history, dtype=np.int64) for history in ([3], [], [5, 1, 9, 2, 7], [1, 2, 3], [0, 4])]
HOSTILE = {"do_sample": True, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05, "temperature": 0.7}


def recommender(model=None, markers=False, codes=CODES, sizes=SIZES, **kwargs):
    model = make_model() if model is None else model
    sids = SemanticIds(codes, sizes, [f"i{item}" for item in range(len(codes))])
    tokenizer = make_tokenizer()
    SidVocabulary(sids, markers=markers).extend(tokenizer, model, init="random")
    with torch.no_grad():  # sharper than a fresh model, so that the best is best by a margin
        model.get_input_embeddings().weight.mul_(8)
    return Recommender(model, tokenizer, sids, markers=markers, **kwargs)


def brute_force(rec, history, barred=(), instruction=None):
    """Log-probability `[items]` of each item's SID after the user's prompt, from one plain forward pass an item."""
    vocabulary = rec.vocabulary
    prompt = rec.tokenizer(next_item_prompt(history, vocabulary, rec.tokenizer, instruction=instruction))["input_ids"]
    codes = rec.semantic_ids.codes
    tokens = np.stack([ids[codes[:, level]] for level, ids in enumerate(vocabulary.level_token_ids)], axis=1)
    scores, legal = [], ~np.isin(np.arange(len(codes)), barred)
    for item in range(len(codes)):
        with torch.no_grad():
            logits = rec.model(torch.tensor([prompt + tokens[item].tolist()])).logits[0, len(prompt) - 1 : -1].double()
        total = 0.0
        for level, token in enumerate(tokens[item]):
            rivals = {
                "full": np.arange(logits.shape[-1]),
                "level": vocabulary.level_token_ids[level],
                "trie": np.unique(tokens[legal & (codes[:, :level] == codes[item, :level]).all(axis=1), level]),
            }[rec.normalization]
            total += float(logits[level, token] - logits[level, rivals.tolist()].logsumexp(dim=0))
        scores.append(total)
    return np.array(scores)


def check_order(row, scores, barred=()):
    """`row` is every item that is not barred, by falling normalization (to rounding), then `-1`."""
    left = np.setdiff1d(np.arange(len(scores)), barred)
    assert sorted(row[: len(left)]) == left.tolist() and (row[len(left) :] == -1).all()
    np.testing.assert_allclose(scores[row[: len(left)]], np.sort(scores[left])[::-1], atol=1e-4)


@pytest.mark.parametrize("normalization", ["full", "level", "trie"])
def test_wide_beams_rank_the_catalogue_as_brute_force_does(tiny_model, normalization):
    rec = recommender(tiny_model, normalization=normalization)
    for filter_seen in (True, False):
        ranked = rec.rank(HISTORIES, k=ITEMS, filter_seen=filter_seen).items
        for history, row in zip(HISTORIES, ranked, strict=True):
            barred = history if filter_seen else ()
            check_order(row, brute_force(rec, history, barred), barred)


def windowed_model():
    """A model whose layers see 16 tokens back: its prompts cannot be shared between beams, plain `generate` serves."""
    torch.manual_seed(0)
    config = make_model("qwen2").config.to_dict() | {"use_sliding_window": True, "sliding_window": 16}
    config |= {"max_window_layers": 0, "layer_types": ["sliding_attention"] * 2}
    return Qwen2ForCausalLM(Qwen2Config(**config)).eval()


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("granite", {"logits_scaling": 4.0}),
        ("phi3", {"partial_rotary_factor": 0.5}),
        ("mistral", {"sliding_window": 8}),
    ],
)
def test_families_beside_llama_and_qwen_rank_the_catalogue_as_brute_force_does(family, settings):
    config = AutoConfig.for_model(
        family, vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=512, bos_token_id=None, eos_token_id=0,
        pad_token_id=1, **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    rec = recommender(AutoModelForCausalLM.from_config(config).eval())
    for history, row in zip(HISTORIES, rec.rank(HISTORIES, k=ITEMS, filter_seen=False).items, strict=True):
        check_order(row, brute_force(rec, history))


@pytest.mark.parametrize("normalization", ["full", "level", "trie"])
def test_models_that_cannot_share_prefixes_rank_alike(normalization):
    rec = recommender(windowed_model(), normalization=normalization)
    assert not can_share_prompts(rec.model, 40) and can_share_prompts(make_model("qwen2"), 40)
    for history, row in zip(HISTORIES, rec.rank(HISTORIES, k=ITEMS).items, strict=True):
        check_order(row, brute_force(rec, history, history), history)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("normalization", ["full", "level", "trie"])
def test_trained_adapters_count_in_full(tied, normalization):
    plain = recommender(make_model(tied=tied))
    torch.manual_seed(1)
    adapter = start_adapter(plain.model, plain.vocabulary, LoraConfig(r=2))
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn_like(parameter))
    rec = Recommender(adapter, plain.tokenizer, plain.semantic_ids, normalization=normalization)
    for history, row in zip(HISTORIES, rec.rank(HISTORIES, k=ITEMS).items, strict=True):
        check_order(row, brute_force(rec, history, history), history)


def test_prompts_of_many_lengths_in_a_batch_equal_one_at_a_time(tiny_model):
    rec = recommender(tiny_model)
    batch = rec.rank(HISTORIES, k=8).items
    np.testing.assert_array_equal(batch, np.concatenate([rec.rank([history], k=8).items for history in HISTORIES]))
    np.testing.assert_array_equal(batch, rec.rank(HISTORIES, k=8, progress=True, search=Search(batch_size=2)).items)
    np.testing.assert_array_equal(batch, rec.rank(HISTORIES, k=8).items)


@pytest.mark.parametrize("make", [make_model, windowed_model])
def test_a_checkpoints_own_sampling_defaults_do_not_void_the_constraint(tmp_path, make):
    codes = np.array(list(np.ndindex(6, 6, 6)))[::3]
    model = make()
    model.generation_config = GenerationConfig(**HOSTILE, eos_token_id=0, pad_token_id=1)
    model.save_pretrained(tmp_path)
    hostile = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert hostile.generation_config.top_k == HOSTILE["top_k"]
    rec = recommender(hostile, codes=codes, sizes=(6, 6, 6))
    ranked = rec.rank([np.arange(user, user + 4) for user in range(10)], k=50, search=Search(50)).items
    assert ranked.min() >= 0 and all(len(set(row)) == 50 for row in ranked.tolist())
    clean = recommender(make(), codes=codes, sizes=(6, 6, 6))
    np.testing.assert_array_equal(clean.rank([np.arange(4)], k=50, search=Search(50)).items[0], ranked[0])


def test_allow_and_deny_and_seen_items():
    rec = recommender()
    scores = brute_force(rec, np.array([3, 4]))
    everything = set(range(ITEMS))

    def best(barred):
        return [IDS[item] for item in np.argsort(-scores) if item not in barred]

    def ask(**kwargs):
        return rec.recommend([["i3", "i4"]], k=ITEMS, **kwargs)[0]

    assert ask() == best({3, 4})
    assert ask(filter_seen=False) == best(set())
    assert ask(deny={"i0", "i7"}) == best({0, 3, 4, 7})
    assert ask(allow=["i0", "i7", "i3"]) == best(everything - {0, 7})
    assert ask(allow=["i0", "i7"], deny=["i7", "i1"]) == ["i0"]
    assert ask(allow=["i3"]) == ask(deny=IDS) == ask(allow=[]) == []
    assert rec.recommend([["i3"], ["i5"]], k=3, allow=["i3"]) == [[], ["i3"]]
    assert rec.recommend([], k=3) == []


@pytest.mark.parametrize("make", [make_model, windowed_model])
def test_few_items_left_of_a_deep_catalogue_leave_the_other_ranks_empty(make):
    # Plain generate tells empty beams from real ones by their normalization, which it divides by the depth.
    codes = np.random.default_rng(1).permuted(np.tile(np.arange(12) % 2, (30, 1)), axis=1)
    codes = np.unique(codes, axis=0)
    rec = recommender(make(), codes=codes, sizes=(2,) * 12)
    ranked = rec.rank([np.array([0])], k=10, deny=[np.arange(3, len(codes))]).items
    check_order(ranked[0], brute_force(rec, np.array([0])), np.setdiff1d(np.arange(len(codes)), [1, 2]))


def test_a_cold_user_gets_what_the_empty_prompt_gives():
    rec = recommender()
    best = np.argsort(-brute_force(rec, np.array([], dtype=np.int64)))
    assert rec.recommend([[]], k=ITEMS) == [[IDS[item] for item in best]]


def test_only_the_most_recent_items_are_read_and_all_are_filtered():
    rec = recommender(max_history=2)
    row = rec.rank([np.array([8, 9, 1, 2])], k=ITEMS).items[0]
    check_order(row, brute_force(rec, np.array([1, 2])), [8, 9, 1, 2])


@pytest.mark.parametrize("markers", [False, True])
def test_an_instruction_never_becomes_sid_or_control_tokens(markers):
    rec = recommender(markers=markers)
    instruction = "cheap <s_a_1><s_b_2><|im_end|> <|end|><s_<s_a_1>a_1> <|sid_begin|>\n<|im_start|>please"
    prompt = next_item_prompt([3], rec.vocabulary, rec.tokenizer, instruction=instruction)
    added = [token for token in rec.tokenizer(prompt)["input_ids"] if token in rec.tokenizer.added_tokens_decoder]
    sid = rec.vocabulary.token_ids([3])[0].tolist()
    assert added == ([*sid, int(rec.vocabulary.all_token_ids[-2])] if markers else sid)
    assert "cheap" in prompt and "please" in prompt
    row = rec.rank([np.array([3])], k=ITEMS, instruction=instruction).items[0]
    check_order(row, brute_force(rec, np.array([3]), instruction=instruction), [3])
    assert not np.array_equal(row, rec.rank([np.array([3])], k=ITEMS).items[0])


def test_markers_stand_around_every_sid_and_the_prompt_ends_with_the_begin_marker(tiny_model):
    rec = recommender(tiny_model, markers=True)
    begin, end = rec.vocabulary.all_token_ids[-2:].tolist()
    for history in HISTORIES:
        ids = encode_prompt(next_item_prompt(history, rec.vocabulary), rec.tokenizer)
        assert ids[-1] == begin and ids.count(begin) == len(history) + 1 and ids.count(end) == len(history)
    for history, row in zip(HISTORIES, rec.rank(HISTORIES, k=ITEMS).items, strict=True):
        check_order(row, brute_force(rec, history), history)


def test_what_cannot_be_answered_raises():
    rec = recommender()
    with pytest.raises(ValueError, match=f"k={ITEMS + 1} for a catalogue"):
        rec.recommend([["i1"]], k=ITEMS + 1)
    with pytest.raises(ValueError, match="k=0 for a catalogue"):
        rec.recommend([["i1"]], k=0)
    with pytest.raises(ValueError, match="num_beams=2 for k=3"):
        rec.recommend([["i1"]], k=3, search=Search(2))
    for kwargs in (
        {"histories": [["i1", "nope"]]},
        {"histories": [["i1"]], "allow": ["nope"]},
        {"histories": [[]], "deny": ["nope"]},
    ):
        with pytest.raises(ValueError, match="'nope' is not in the catalogue"):
            rec.recommend(**kwargs)
    with pytest.raises(ValueError, match="does not fit into 509"):
        rec.recommend([["i1"]], instruction="instruction " * 400)
    with pytest.raises(ValueError, match="max_history=0"):
        Recommender(rec.model, rec.tokenizer, rec.semantic_ids, max_history=0)
    other = SemanticIds(CODES, SIZES, IDS[::-1])
    with pytest.raises(ValueError, match="extended for semantic ids"):
        Recommender(rec.model, rec.tokenizer, other)


def test_a_prompt_that_just_fits_is_answered():
    rec = recommender()
    words = (
        509
        - len(encode_prompt(next_item_prompt([1], rec.vocabulary, rec.tokenizer, instruction="x"), rec.tokenizer))
        + 1
    )
    instruction = "x" * words
    assert (
        len(
            encode_prompt(next_item_prompt([1], rec.vocabulary, rec.tokenizer, instruction=instruction), rec.tokenizer)
        )
        == 509
    )
    assert len(rec.recommend([["i1"]], k=3, instruction=instruction)[0]) == 3


def test_duplicates_in_a_history_and_a_training_mode_model_are_fine():
    rec = recommender(make_model().train())
    assert not rec.model.training
    row = rec.rank([np.array([3, 3, 5])], k=ITEMS).items[0]
    check_order(row, brute_force(rec, np.array([3, 3, 5])), [3, 5])


# What is asked for all histories at once, and for each of them.
ASKED = [[f"i{item}" for item in history] for history in HISTORIES]
EMBEDDINGS = np.random.default_rng(3).normal(size=(ITEMS, 5))
FILTERS = {
    "none": None,
    "all": [f"i{item}" for item in (1, 3, 4, 8, 9, 12, 15)],
    "each": [["i2", "i4", "i15"], {"i0", "i7"}, (), ["i9", "i9", "i10", "i11"], np.array(["i0", "i4", "i5"])],
}
INSTRUCTIONS = ["cheap", None, "for a child", "", "cheap and red, to last for years"]


def attentive():
    """A recommender that heeds all of the prompt and whose best items do not lie under the best prefixes.

    A fresh model follows the last token alone.
    """
    model = make_model(tied=False)
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(30)
    return recommender(model)


@cache
def shared():
    """A recommender that no test changes, and the scores `[histories, items]` by brute force."""
    rec = attentive()
    return rec, np.stack([brute_force(rec, history) for history in HISTORIES])


def best_of(scores, left):
    """The items `left`, best first."""
    return [int(item) for item in np.argsort(-scores, kind="stable") if item in left]


def padded(items, k):
    return [*items, *[-1] * (k - len(items))][:k]


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("allow", FILTERS)
@pytest.mark.parametrize("deny", FILTERS)
def test_filters_for_all_and_for_each_mix(deny, allow, filter_seen):
    rec, scores = shared()
    found = rec.recommend(ASKED, k=ITEMS, filter_seen=filter_seen, allow=FILTERS[allow], deny=FILTERS[deny])
    for user, history in enumerate(ASKED):
        denied, only = (set(FILTERS[how][user] if how == "each" else FILTERS[how] or []) for how in (deny, allow))
        left = (set(IDS) if allow == "none" else only) - denied - (set(history) if filter_seen else set())
        assert found[user] == [IDS[item] for item in best_of(scores[user], {IDS.index(name) for name in left})]


@pytest.mark.parametrize("make", [make_model, windowed_model])
def test_a_history_with_nothing_left_gets_an_empty_list_beside_others_that_are_served(make):
    histories = [*ASKED, IDS[:7], []]  # of the last but one, the history and the deny list are everything
    rec = recommender(make())
    plain = rec.recommend(histories, k=4)
    deny = [IDS, (), (), (), (), IDS[7:], ()]
    allow = [IDS, IDS, [], IDS, ["i0", "i4"], IDS, ["i6"]]
    for batch_size in (32, 2, 1):
        found = rec.recommend(histories, k=4, deny=deny, allow=allow, search=Search(batch_size=batch_size))
        assert found == [[], plain[1], [], plain[3], [], [], ["i6"]]
        assert rec.recommend(histories, k=4, deny=IDS, search=Search(batch_size=batch_size)) == [[]] * 7


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"deny": [["i1"]]}, "deny holds 1 entries for 5 histories"),
        ({"allow": [["i1"]] * 6}, "allow holds 6 entries for 5 histories"),
        (
            {"deny": ["i1", ["i2"], "i3", "i4", "i5"]},
            "deny holds 5 entries for 5 histories: pass item ids for all users, or",
        ),
        ({"allow": [["i1"], "i2"]}, "allow holds 2 entries for 5 histories: pass item ids for all users, or"),
        ({"allow": [["i1"]] * 4 + [["nope"]]}, "'nope' is not in the catalogue"),
        ({"instruction": ["cheap"] * 4}, "4 instruction entries for 5 histories: pass one for each"),
        ({"instruction": []}, "0 instruction entries for 5 histories"),
    ],
)
def test_lists_of_another_number_and_mixtures_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        shared()[0].recommend(ASKED, k=3, **kwargs)


@pytest.mark.parametrize("name", ["deny", "allow", "instruction"])
@pytest.mark.parametrize("number", [0, 4, 6])
def test_rank_refuses_lists_of_another_number(name, number):
    with pytest.raises(ValueError, match=f"{number} {name} entries for 5 histories: pass one for each"):
        shared()[0].rank(HISTORIES, k=3, **{name: [[1]] * number})


def test_instructions_for_each_history_equal_one_by_one_calls():
    rec, _ = shared()
    together = rec.recommend(ASKED, k=8, instruction=INSTRUCTIONS)
    alone = [
        rec.recommend([history], k=8, instruction=instruction)[0]
        for history, instruction in zip(ASKED, INSTRUCTIONS, strict=True)
    ]
    assert together == alone == rec.recommend(ASKED, k=8, instruction=tuple(INSTRUCTIONS), search=Search(batch_size=2))
    plain = rec.recommend(ASKED, k=8)
    assert [mine == other for mine, other in zip(together, plain, strict=True)] == [
        not instruction for instruction in INSTRUCTIONS
    ]
    assert rec.recommend(ASKED, k=8, instruction="cheap") == rec.recommend(ASKED, k=8, instruction=["cheap"] * 5)


def capped(items, cap):
    """`items`, in order, less those whose prefix the cap has no room for."""
    kept = []
    for item in items:
        same = [other for other in kept if (CODES[other, : cap.length] == CODES[item, : cap.length]).all()]
        kept += [item] if len(same) < cap.items else []
    return kept


CAPS = [PrefixCap(1, 1), PrefixCap(2, 1), PrefixCap(4, 1), PrefixCap(1, 2), PrefixCap(2, 2)]


@pytest.mark.parametrize("cap", CAPS, ids=str)
def test_a_prefix_cap_holds_in_every_list_and_keeps_lists_full(cap):
    rec, scores = shared()
    room = min(
        len(capped(best_of(scores[user], set(range(ITEMS)) - set(history)), cap))
        for user, history in enumerate(HISTORIES)
    )
    for k in range(1, room + 1):
        for num_beams in (k, k + 3, 20):
            for row in rec.rank(HISTORIES, k=k, search=Search(max(k, num_beams), prefix_cap=cap)).items.tolist():
                assert min(row) >= 0 and capped(row, cap) == row
        # Where no beam is dropped on the way, the cap takes the best that it has room for.
        for user, row in enumerate(rec.rank(HISTORIES, k=k, search=Search(1000, prefix_cap=cap)).items.tolist()):
            seen = set(HISTORIES[user].tolist())
            assert row == capped(best_of(scores[user], set(range(ITEMS)) - seen), cap)[:k]


@pytest.mark.parametrize("cap", CAPS, ids=str)
def test_a_prefix_cap_holds_where_lists_cannot_be_full(cap):
    rec, scores = shared()
    for num_beams in (ITEMS, 20, 1000):
        for user, row in enumerate(
            rec.rank(HISTORIES, k=ITEMS, search=Search(num_beams, prefix_cap=cap)).items.tolist()
        ):
            left = set(range(ITEMS)) - set(HISTORIES[user].tolist())
            assert row == padded(capped(best_of(scores[user], left), cap), ITEMS)


def test_a_prefix_cap_holds_under_mmr():
    rec, cap = shared()[0], PrefixCap(1)
    for seed in range(20):
        mmr = Mmr(np.random.default_rng(seed).normal(size=(ITEMS, 5)), relevance=0.3)
        for row in rec.rank(HISTORIES, k=3, reranker=mmr, search=Search(prefix_cap=cap)).items.tolist():
            assert capped(row, cap) == row


@pytest.mark.parametrize("cap", [PrefixCap(ITEMS), PrefixCap(6, 1), PrefixCap(3, 2)], ids=str)
@pytest.mark.parametrize(("k", "num_beams"), [(1, None), (5, 5), (10, None), (ITEMS, 1000)])
def test_a_loose_prefix_cap_changes_nothing(cap, k, num_beams):
    rec, _ = shared()
    plain = rec.rank(HISTORIES, k=k, search=Search(num_beams)).items
    np.testing.assert_array_equal(rec.rank(HISTORIES, k=k, search=Search(num_beams, prefix_cap=cap)).items, plain)


def test_a_prefix_as_long_as_a_sid_is_refused():
    with pytest.raises(ValueError, match="a prefix of 3 codes for SIDs of 3"):
        shared()[0].rank(HISTORIES, k=3, search=Search(prefix_cap=PrefixCap(1, 3)))


@pytest.mark.parametrize("allow", [None, ["i1", "i2", "i3", "i8", "i9"]])
@pytest.mark.parametrize("k", [1, 5, ITEMS])
def test_mmr_of_full_relevance_changes_nothing(k, allow):
    rec, _ = shared()
    mmr = Mmr(EMBEDDINGS, relevance=1)
    assert rec.recommend(ASKED, k=k, allow=allow, reranker=mmr) == rec.recommend(ASKED, k=k, allow=allow)


@pytest.mark.parametrize("relevance", [0.7, 0.3])
@pytest.mark.parametrize("k", [1, 4, ITEMS])
def test_mmr_reranks_all_the_beams(k, relevance):
    rec, scores = shared()
    mmr = Mmr(EMBEDDINGS, relevance)
    wide = rec.rank(HISTORIES, k=ITEMS).items
    brute = np.where(wide < 0, -np.inf, np.take_along_axis(scores, wide, axis=1))
    expected = mmr.rerank(HISTORIES, Ranking(wide, brute), k)
    ranking = rec.rank(HISTORIES, k=k, reranker=mmr)
    found = ranking.items
    np.testing.assert_array_equal(found, expected.items)
    np.testing.assert_allclose(ranking.scores, expected.scores, atol=1e-4)
    assert k == 1 or not np.array_equal(found, wide[:, :k])
    # Of k beams, the same items in another order.
    narrow = rec.rank(HISTORIES, k=k, reranker=mmr, search=Search(k)).items
    np.testing.assert_array_equal(
        np.sort(narrow, axis=1), np.sort(rec.rank(HISTORIES, k=k, search=Search(k)).items, axis=1)
    )


EVERYTHING = {
    "deny": [[15], [], [2, 0], [7], []],
    "allow": [range(ITEMS), range(ITEMS), [1, 5, 8, 9, 10, 11], range(ITEMS), []],
    "instruction": INSTRUCTIONS,
    "reranker": Mmr(EMBEDDINGS, 0.6),
}


@pytest.mark.parametrize("kwargs", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 100])
def test_the_batch_size_changes_nothing(batch_size, kwargs):
    rec, _ = shared()
    cap = PrefixCap(3) if kwargs else None
    whole = rec.rank(HISTORIES, k=6, **kwargs, search=Search(prefix_cap=cap, batch_size=5))
    parts = rec.rank(HISTORIES, k=6, **kwargs, search=Search(prefix_cap=cap, batch_size=batch_size))
    np.testing.assert_array_equal(parts.items, whole.items)
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-5)


def test_rows_may_stand_for_the_items_of_a_data_set():
    rec, _ = shared()
    rows = np.random.default_rng(5).permutation(ITEMS)[:12]  # a data set that knows 12 items, in an order of its own
    place = {int(row): place for place, row in enumerate(rows)}
    histories = [np.array(some, dtype=np.int64) for some in ([3], [], [11, 0, 5, 5], range(12))]
    deny, allow = [[1], [2, 3], [], []], [range(12), [0, 2, 4], [1, 5, 6, 7, 8], range(12)]
    kwargs = {"deny": deny, "allow": allow, "instruction": INSTRUCTIONS[:4], "k": 6}
    found = rec.with_items([IDS[row] for row in rows]).rank(histories, **kwargs).items
    kwargs |= {"deny": [rows[each] for each in deny], "allow": [rows[list(each)] for each in allow]}
    expected = rec.rank([rows[history] for history in histories], **kwargs).items
    assert found.tolist() == [[place.get(item, -1) for item in row] for row in expected.tolist()]
    (row,) = rec.with_items([IDS[row] for row in rows]).rank(histories[:1], k=12, filter_seen=False).items.tolist()
    assert sorted(row) == list(range(12))
    with pytest.raises(ValueError, match="'nope' is not in the catalogue"):
        rec.with_items(["nope"]).rank(histories, k=3)


NO_ROWS = {"negative": [3, -1], "too high": [3, ITEMS], "fractions": [0.5], "mask": np.ones(ITEMS, dtype=bool)}


@pytest.mark.parametrize("wrong", NO_ROWS.values(), ids=NO_ROWS)
@pytest.mark.parametrize("name", ["histories", "deny", "allow"])
def test_what_is_no_row_is_refused(name, wrong):
    with pytest.raises((ValueError, IndexError), match=r"row|out of bounds"):
        shared()[0].rank(**{"histories": [[1]], "k": 3, name: [wrong]})


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        shared()[0].recommend(ASKED, k=3, search=Search(batch_size=batch_size))


@pytest.mark.parametrize("name", ["deny", "allow"])
def test_ids_may_come_from_a_generator(name):
    rec, ids = shared()[0], FILTERS["all"]
    found = rec.recommend(ASKED, k=ITEMS, **{name: (each for each in ids)})
    assert found == rec.recommend(ASKED, k=ITEMS, **{name: ids})


def test_none_leaves_a_history_without_a_filter():
    rec = shared()[0]
    found = rec.recommend(ASKED, k=3, allow=[None, ["i1"], None, None, ["i2"]], deny=[None, None, ["i3"], None, None])
    assert found == rec.recommend(ASKED, k=3, allow=[IDS, ["i1"], IDS, IDS, ["i2"]], deny=[[], [], ["i3"], [], []])


@pytest.fixture
def quick_switches():
    """Threads that take turns every few microseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def request_of(rng):
    """A request of one to three users with histories, filters, instructions and settings of its own."""
    users = int(rng.integers(1, 4))
    kwargs = {"k": int(rng.integers(1, 8)), "filter_seen": bool(rng.integers(2))}
    if rng.integers(2):
        kwargs["deny"] = [rng.choice(IDS, 5).tolist() for _ in range(users)]
    if rng.integers(2):
        kwargs["allow"] = rng.choice(IDS, 15).tolist()
    if rng.integers(2):
        kwargs["instruction"] = [["red <s_a_1> for ever", "cheap", None][user] for user in range(users)]
    if rng.integers(2):
        kwargs["search"] = Search(int(rng.integers(8, 30)), PrefixCap(2) if rng.integers(2) else None)
    return [rng.choice(IDS, rng.integers(0, 20)).tolist() for _ in range(users)], kwargs


def test_requests_side_by_side_get_what_they_get_one_after_the_other(quick_switches):
    rec, rng = attentive(), np.random.default_rng(0)
    before = rec.network.config.to_dict() | {"attention": rec.network.config._attn_implementation}
    requests = [request_of(rng) for _ in range(200)]

    def ask(request):
        return rec.recommend(request[0], return_scores=True, **request[1])

    alone = [ask(request) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, requests))
    for each, expected in zip(together, alone, strict=True):
        assert [[item.item_id for item in row] for row in each] == [[item.item_id for item in row] for row in expected]
        scores = [[item.score for row in lists for item in row] for lists in (each, expected)]
        np.testing.assert_allclose(*scores, atol=1e-5)
    assert rec.network.config.to_dict() | {"attention": rec.network.config._attn_implementation} == before


def test_recommendations_come_with_scores_and_titles():
    rec, scores = shared()
    plain = rec.recommend(ASKED, k=6)
    titled = Recommender(
        rec.model, rec.tokenizer, rec.semantic_ids, item_titles=[f"Title {row}" for row in range(ITEMS)]
    )
    for lists, title_of in (
        (rec.recommend(ASKED, k=6, return_scores=True), None),
        (titled.recommend(ASKED, k=6, return_scores=True), "Title {}"),
    ):
        assert [[item.item_id for item in row] for row in lists] == plain
        for user, row in enumerate(lists):
            for item in row:
                at = IDS.index(item.item_id)
                assert abs(item.score - scores[user, at]) < 1e-4
                assert item.title == (None if title_of is None else title_of.format(at))


@pytest.fixture
def no_state():
    """Without the process state that accelerate keeps, before and after."""
    PartialState._reset_state()
    yield
    PartialState._reset_state()


# Histories, and the batch size: users that no batch size and no number of processes divides, fewer batches than
# processes, nobody at all.
SHARES = {
    "even": (4, 2),
    "odd": (5, 2),
    "one by one": (5, 1),
    "three": (3, 2),
    "one batch": (5, 8),
    "alone": (1, 3),
    "nobody": (0, 2),
}


def ask_together(rec, users, batch_size, distributed=False, progress=False):
    """`rank` of the first `users` with everything that can be asked, and how many histories this process decoded."""
    rank, decoded = rec._catalogue_model.rank, []

    def counted(prompts, *arguments, **settings):
        decoded.append(len(prompts))
        return rank(prompts, *arguments, **settings)

    rec._catalogue_model.rank = counted
    each = {name: EVERYTHING[name][:users] for name in ("deny", "allow", "instruction")}
    settings = Search(prefix_cap=PrefixCap(3), batch_size=batch_size, distributed=distributed)
    ranked = rec.rank(HISTORIES[:users], k=6, **{**EVERYTHING, **each}, search=settings, progress=progress)
    rec._catalogue_model.rank = rank
    return ranked, sum(decoded)


@pytest.mark.parametrize(("users", "batch_size"), SHARES.values(), ids=SHARES)
def test_distributed_in_one_process_changes_nothing(users, batch_size, no_state):
    rec, _ = shared()
    alone, decoded = ask_together(rec, users, batch_size, distributed=True, progress=True)
    expected, _ = ask_together(rec, users, batch_size)
    assert decoded == users and alone.items.shape == (users, 6) and alone.items.dtype == np.int64
    np.testing.assert_array_equal(alone.items, expected.items)


SCRIPT = """
import os
import sys
from pathlib import Path

import numpy as np
from accelerate import PartialState, debug_launcher

sys.path.insert(0, sys.argv[1])
from test_recommender import SHARES, ask_together, attentive


def main():
    rec = attentive()
    for name, share in SHARES.items():
        lists, decoded = ask_together(rec, *share, distributed=True)
        file = Path(sys.argv[2]) / f"{name}{PartialState().process_index}.npz"
        np.savez(file, lists=lists.items, scores=lists.scores, decoded=decoded)
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main() if "LOCAL_RANK" in os.environ else debug_launcher(main)
"""
ROOT = Path(__file__).parents[1]
LAUNCH = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "accelerate_configs/multi_gpu.yaml")]
LAUNCH += ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]


@pytest.mark.parametrize("launch", [[], pytest.param(LAUNCH, marks=pytest.mark.slow)], ids=["fork", "launch"])
def test_two_processes_share_the_work_and_each_gets_every_list(launch, tmp_path):
    (tmp_path / "ask.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, *launch, tmp_path / "ask.py", ROOT / "tests", tmp_path],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, (users, batch_size) in SHARES.items():
        expected, _ = ask_together(shared()[0], users, batch_size)
        answers = [np.load(tmp_path / f"{name}{rank}.npz") for rank in range(2)]
        for mine in answers:
            assert mine["lists"].dtype == expected.items.dtype
            np.testing.assert_array_equal(mine["lists"], expected.items)
            np.testing.assert_allclose(mine["scores"], expected.scores, atol=1e-5)
        first, second = (int(mine["decoded"]) for mine in answers)
        assert first + second == users and (second > 0) == (users > batch_size)
