"""`Recommender` against scoring the whole catalogue by hand, and everything a user may ask of it."""

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from peft import LoraConfig
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from genrec_hf import Recommender, SemanticIds, SidVocabulary
from genrec_hf.generation.prefix import shares_prefixes
from genrec_hf.models import start_adapter
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
    prompt = rec.tokenizer(next_item_prompt(history, vocabulary, rec.tokenizer, instruction))["input_ids"]
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
            }[rec.score]
            total += float(logits[level, token] - logits[level, rivals.tolist()].logsumexp(dim=0))
        scores.append(total)
    return np.array(scores)


def check_order(row, scores, barred=()):
    """`row` is every item that is not barred, by falling score (to rounding), then `-1`."""
    left = np.setdiff1d(np.arange(len(scores)), barred)
    assert sorted(row[: len(left)]) == left.tolist() and (row[len(left) :] == -1).all()
    np.testing.assert_allclose(scores[row[: len(left)]], np.sort(scores[left])[::-1], atol=1e-4)


@pytest.mark.parametrize("score", ["full", "level", "trie"])
def test_wide_beams_rank_the_catalogue_as_brute_force_does(tiny_model, score):
    rec = recommender(tiny_model, score=score)
    for filter_seen in (True, False):
        ranked = rec.rank(HISTORIES, k=ITEMS, filter_seen=filter_seen)
        for history, row in zip(HISTORIES, ranked, strict=True):
            barred = history if filter_seen else ()
            check_order(row, brute_force(rec, history, barred), barred)


def windowed_model():
    """A model whose layers see 16 tokens back: its prompts cannot be shared between beams, plain `generate` serves."""
    torch.manual_seed(0)
    config = make_model("qwen2").config.to_dict() | {"use_sliding_window": True, "sliding_window": 16}
    config |= {"max_window_layers": 0, "layer_types": ["sliding_attention"] * 2}
    return Qwen2ForCausalLM(Qwen2Config(**config)).eval()


@pytest.mark.parametrize("score", ["full", "level", "trie"])
def test_models_that_cannot_share_prefixes_rank_alike(score):
    rec = recommender(windowed_model(), score=score)
    assert not shares_prefixes(rec.model, 40) and shares_prefixes(make_model("qwen2"), 40)
    for history, row in zip(HISTORIES, rec.rank(HISTORIES, k=ITEMS), strict=True):
        check_order(row, brute_force(rec, history, history), history)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("score", ["full", "level", "trie"])
def test_trained_adapters_count_in_full(tied, score):
    plain = recommender(make_model(tied=tied))
    torch.manual_seed(1)
    adapter = start_adapter(plain.model, plain.vocabulary, LoraConfig(r=2))
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn_like(parameter))
    rec = Recommender(adapter, plain.tokenizer, plain.semantic_ids, score=score)
    for history, row in zip(HISTORIES, rec.rank(HISTORIES, k=ITEMS), strict=True):
        check_order(row, brute_force(rec, history, history), history)


def test_prompts_of_many_lengths_in_a_batch_equal_one_at_a_time(tiny_model):
    rec = recommender(tiny_model)
    batch = rec.rank(HISTORIES, k=8)
    np.testing.assert_array_equal(batch, np.concatenate([rec.rank([history], k=8) for history in HISTORIES]))
    np.testing.assert_array_equal(batch, rec.rank(HISTORIES, k=8, batch_size=2, progress=True))
    np.testing.assert_array_equal(batch, rec.rank(HISTORIES, k=8))


@pytest.mark.parametrize("make", [make_model, windowed_model])
def test_a_checkpoints_own_sampling_defaults_do_not_void_the_constraint(tmp_path, make):
    codes = np.array(list(np.ndindex(6, 6, 6)))[::3]
    model = make()
    model.generation_config = GenerationConfig(**HOSTILE, eos_token_id=0, pad_token_id=1)
    model.save_pretrained(tmp_path)
    hostile = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert hostile.generation_config.top_k == HOSTILE["top_k"]
    rec = recommender(hostile, codes=codes, sizes=(6, 6, 6))
    ranked = rec.rank([np.arange(user, user + 4) for user in range(10)], k=50, num_beams=50)
    assert ranked.min() >= 0 and all(len(set(row)) == 50 for row in ranked.tolist())
    clean = recommender(make(), codes=codes, sizes=(6, 6, 6))
    np.testing.assert_array_equal(clean.rank([np.arange(4)], k=50, num_beams=50)[0], ranked[0])


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
    # Plain generate tells empty beams from real ones by their score, which it divides by the depth.
    codes = np.random.default_rng(1).permuted(np.tile(np.arange(12) % 2, (30, 1)), axis=1)
    codes = np.unique(codes, axis=0)
    rec = recommender(make(), codes=codes, sizes=(2,) * 12)
    ranked = rec.rank([np.array([0])], k=10, deny=[np.arange(3, len(codes))])
    check_order(ranked[0], brute_force(rec, np.array([0])), np.setdiff1d(np.arange(len(codes)), [1, 2]))


def test_a_cold_user_gets_what_the_empty_prompt_gives():
    rec = recommender()
    best = np.argsort(-brute_force(rec, np.array([], dtype=np.int64)))
    assert rec.recommend([[]], k=ITEMS) == [[IDS[item] for item in best]]


def test_only_the_most_recent_items_are_read_and_all_are_filtered():
    rec = recommender(max_history=2)
    row = rec.rank([np.array([8, 9, 1, 2])], k=ITEMS)[0]
    check_order(row, brute_force(rec, np.array([1, 2])), [8, 9, 1, 2])


@pytest.mark.parametrize("markers", [False, True])
def test_an_instruction_never_becomes_sid_or_control_tokens(markers):
    rec = recommender(markers=markers)
    wish = "cheap <s_a_1><s_b_2><|im_end|> <|end|><s_<s_a_1>a_1> <|sid_begin|>\n<|im_start|>please"
    prompt = next_item_prompt([3], rec.vocabulary, rec.tokenizer, wish)
    added = [token for token in rec.tokenizer(prompt)["input_ids"] if token in rec.tokenizer.added_tokens_decoder]
    sid = rec.vocabulary.token_ids([3])[0].tolist()
    assert added == ([*sid, int(rec.vocabulary.all_token_ids[-2])] if markers else sid)
    assert "cheap" in prompt and "please" in prompt
    row = rec.rank([np.array([3])], k=ITEMS, instruction=wish)[0]
    check_order(row, brute_force(rec, np.array([3]), instruction=wish), [3])
    assert not np.array_equal(row, rec.rank([np.array([3])], k=ITEMS)[0])


def test_markers_stand_around_every_sid_and_the_prompt_ends_with_the_begin_marker(tiny_model):
    rec = recommender(tiny_model, markers=True)
    begin, end = rec.vocabulary.all_token_ids[-2:].tolist()
    for history in HISTORIES:
        ids = encode_prompt(next_item_prompt(history, rec.vocabulary), rec.tokenizer)
        assert ids[-1] == begin and ids.count(begin) == len(history) + 1 and ids.count(end) == len(history)
    for history, row in zip(HISTORIES, rec.rank(HISTORIES, k=ITEMS), strict=True):
        check_order(row, brute_force(rec, history), history)


def test_what_cannot_be_answered_raises():
    rec = recommender()
    with pytest.raises(ValueError, match=f"k={ITEMS + 1} items"):
        rec.recommend([["i1"]], k=ITEMS + 1)
    with pytest.raises(ValueError, match="k=0 items"):
        rec.recommend([["i1"]], k=0)
    with pytest.raises(ValueError, match="num_beams=2 cannot give k=3"):
        rec.recommend([["i1"]], k=3, num_beams=2)
    for kwargs in (
        {"histories": [["i1", "nope"]]},
        {"histories": [["i1"]], "allow": ["nope"]},
        {"histories": [[]], "deny": ["nope"]},
    ):
        with pytest.raises(ValueError, match="'nope' is not in the catalogue"):
            rec.recommend(**kwargs)
    with pytest.raises(ValueError, match="does not fit into 509"):
        rec.recommend([["i1"]], instruction="wish " * 400)
    with pytest.raises(ValueError, match="max_history=0"):
        Recommender(rec.model, rec.tokenizer, rec.semantic_ids, max_history=0)
    other = SemanticIds(CODES, SIZES, IDS[::-1])
    with pytest.raises(ValueError, match="extended for semantic ids"):
        Recommender(rec.model, rec.tokenizer, other)


def test_a_prompt_that_just_fits_is_answered():
    rec = recommender()
    words = 509 - len(encode_prompt(next_item_prompt([1], rec.vocabulary, rec.tokenizer, "x"), rec.tokenizer)) + 1
    wish = "x" * words
    assert len(encode_prompt(next_item_prompt([1], rec.vocabulary, rec.tokenizer, wish), rec.tokenizer)) == 509
    assert len(rec.recommend([["i1"]], k=3, instruction=wish)[0]) == 3


def test_duplicates_in_a_history_and_a_training_mode_model_are_fine():
    rec = recommender(make_model().train())
    assert not rec.model.training
    row = rec.rank([np.array([3, 3, 5])], k=ITEMS)[0]
    check_order(row, brute_force(rec, np.array([3, 3, 5])), [3, 5])
