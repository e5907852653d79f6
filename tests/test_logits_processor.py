"""The processor against brute force: what is legal, what it costs, and every decoding strategy of plain `generate`."""

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.generation import SidLogitsProcessor, SidTrie, clean_generation_config

SIZES = (3, 4, 3)
CODES = np.unique(np.random.default_rng(0).integers(SIZES, size=(24, 3)), axis=0)
PROMPTS = ["a b c: ", "The red thing, then the blue thing and the green one: ", "x"]


def world(model):
    """The model extended for `CODES`, with what decodes it."""
    sids = SemanticIds(CODES, SIZES, [f"i{item}" for item in range(len(CODES))])
    tokenizer = make_tokenizer()
    vocabulary = SidVocabulary(sids).extend(tokenizer, model, init="random")
    with torch.no_grad():  # sharper than a fresh model, so that the best is best by a margin
        model.get_input_embeddings().weight.mul_(8)
    model.generation_config = clean_generation_config(tokenizer, sids.levels)
    return tokenizer, vocabulary, SidTrie(sids)


def tokens_of(vocabulary):
    return torch.as_tensor(vocabulary.token_ids(np.arange(len(CODES))))


def brute_force(model, vocabulary, prompt, score="full", items=None):
    """Log-probability `[items]` of each whole SID after `prompt`, teacher-forced, under one of the three softmaxes."""
    items = np.arange(len(CODES)) if items is None else items
    tokens = tokens_of(vocabulary)[items]
    ids = torch.cat([torch.tensor([prompt]).expand(len(items), -1), tokens], dim=1)
    with torch.no_grad():
        logits = model(ids).logits[:, len(prompt) - 1 : -1].double()
    total = torch.zeros(len(items), dtype=torch.double)
    for row in range(len(items)):
        for level in range(tokens.shape[1]):
            if score == "full":
                rivals = torch.arange(logits.shape[-1])
            elif score == "level":
                rivals = torch.as_tensor(vocabulary.level_token_ids[level].copy())
            else:
                rivals = tokens[(tokens[:, :level] == tokens[row, :level]).all(dim=1), level].unique()
            here = logits[row, level]
            total[row] += here[tokens[row, level]] - here[rivals].logsumexp(dim=0)
    return total.numpy()


def generate(model, tokenizer, processor, prompts=PROMPTS, **kwargs):
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    output = model.generate(**batch, max_new_tokens=processor.levels, logits_processor=[processor], **kwargs)
    return output[:, batch["input_ids"].shape[1] :].numpy()


def legal_by_hand(row, vocabulary, allowed):
    """Legal next tokens after the tokens `row`, from the definition: the longest SID prefix that ends the row."""
    tokens = vocabulary.token_ids(np.arange(len(CODES))).tolist()
    level_of = {int(t): level for level, ids in enumerate(vocabulary.level_token_ids) for t in ids}
    depth = level_of.get(row[-1], -1) + 1 if row else 0
    depth = 0 if depth == len(SIZES) else depth
    prefix = row[len(row) - depth :]
    return {tokens[item][depth] for item in allowed if tokens[item][:depth] == prefix}


def test_legal_tokens_equal_the_definition_at_every_depth():
    _, vocabulary, trie = world(make_model())
    tokens = vocabulary.token_ids(np.arange(len(CODES))).tolist()
    rows = [sid[:depth] for sid in tokens for depth in range(4)] + [
        sid + other[:1] for sid in tokens[:5] for other in tokens
    ]
    for width in (0, 3, 9):
        padded = [[7] * width + [9] * (4 - len(row)) + row for row in rows]
        scores = torch.randn(len(rows), 340)
        masked = SidLogitsProcessor(trie, vocabulary)(torch.tensor(padded), scores)
        for row, before, after in zip(padded, scores, masked, strict=True):
            legal = legal_by_hand(row, vocabulary, range(len(CODES)))
            assert set(torch.isfinite(after).nonzero().flatten().tolist()) == legal
            assert torch.equal(after[list(legal)], before[list(legal)])


@given(st.lists(st.integers(0, len(CODES) - 1), max_size=2 * len(CODES)), st.integers(0, 2), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_deny_equals_a_trie_without_those_items(denied, depth, seed):
    vocabulary, trie = WORLD[1:]
    left = np.setdiff1d(np.arange(len(CODES)), denied)
    if len(left) == 0:
        return
    prefixes = vocabulary.token_ids(left)[:, :depth]
    rows = torch.as_tensor(np.hstack([np.full((len(left), 1), 5), prefixes]))
    scores = torch.randn(len(left), 340, generator=torch.Generator().manual_seed(seed))
    for score in ("full", "level", "trie"):
        one = SidLogitsProcessor(trie, vocabulary, deny=[np.array(denied, dtype=np.int64)], score=score)
        other = SidLogitsProcessor(SidTrie(CODES[left]), vocabulary, score=score)
        assert torch.equal(one(rows, scores), other(rows, scores))


def test_each_request_has_its_own_deny_list():
    tokenizer, vocabulary, trie = world(model := make_model())
    deny = [np.arange(0, len(CODES), 2), np.array([], dtype=np.int64), np.arange(1, len(CODES))]
    processor = SidLogitsProcessor(trie, vocabulary, deny=deny)
    items = vocabulary.items(generate(model, tokenizer, processor, num_beams=4, num_return_sequences=4)).reshape(3, 4)
    assert (items[0] % 2 == 1).all() and items[2, 0] == 0
    with pytest.raises(ValueError, match="3 deny lists"):
        processor(torch.ones(4, 2, dtype=torch.long), torch.zeros(4, 340))


@pytest.mark.parametrize("score", ["full", "level", "trie"])
def test_scores_are_the_softmax_that_was_asked_for(score):
    _, vocabulary, trie = world(make_model())
    first = vocabulary.token_ids([0, 7])[:, :1]
    rows = torch.as_tensor(np.hstack([np.full((2, 1), 5), first]))
    logits = torch.randn(2, 340)
    masked = SidLogitsProcessor(trie, vocabulary, score=score)(rows, logits.log_softmax(dim=-1))
    for row in range(2):
        legal = sorted(legal_by_hand(rows[row].tolist(), vocabulary, range(len(CODES))))
        rivals = {"full": range(340), "level": vocabulary.level_token_ids[1].tolist(), "trie": legal}[score]
        expected = logits[row, legal] - logits[row, list(rivals)].logsumexp(dim=0)
        torch.testing.assert_close(masked[row, legal], expected)


@pytest.mark.parametrize("score", ["full", "level", "trie"])
def test_wide_beams_equal_scoring_every_item(tiny_model, score):
    tokenizer, vocabulary, trie = world(tiny_model)
    processor = SidLogitsProcessor(trie, vocabulary, score=score)
    tokens = generate(tiny_model, tokenizer, processor, num_beams=len(CODES), num_return_sequences=len(CODES))
    found = vocabulary.items(tokens).reshape(len(PROMPTS), len(CODES))
    for row, prompt in zip(found, PROMPTS, strict=True):
        expected = brute_force(tiny_model, vocabulary, tokenizer(prompt)["input_ids"], score)
        assert sorted(row) == list(range(len(CODES)))
        np.testing.assert_allclose(expected[row], np.sort(expected)[::-1], atol=1e-4)


def test_greedy_takes_the_best_legal_token_each_step(tiny_model):
    tokenizer, vocabulary, trie = world(tiny_model)
    found = generate(tiny_model, tokenizer, SidLogitsProcessor(trie, vocabulary), do_sample=False)
    for prompt, tokens in zip(PROMPTS, found.tolist(), strict=True):
        row = tokenizer(prompt)["input_ids"]
        for token in tokens:
            legal = sorted(legal_by_hand(row, vocabulary, range(len(CODES))))
            logits = tiny_model(torch.tensor([row])).logits[0, -1]
            assert token == legal[int(logits[legal].argmax())]
            row = [*row, token]


def test_left_padding_and_a_second_call_change_nothing(tiny_model):
    tokenizer, vocabulary, trie = world(tiny_model)
    processor = SidLogitsProcessor(trie, vocabulary, score="level")
    for settings_ in ({}, {"num_beams": 6, "num_return_sequences": 6}):
        batch = generate(tiny_model, tokenizer, processor, **settings_)
        again = generate(tiny_model, tokenizer, processor, **settings_)
        alone = [generate(tiny_model, tokenizer, processor, [prompt], **settings_) for prompt in PROMPTS]
        np.testing.assert_array_equal(batch, again)
        np.testing.assert_array_equal(batch, np.concatenate(alone))


def test_inputs_embeds_give_what_input_ids_give(tiny_model):
    tokenizer, vocabulary, trie = world(tiny_model)
    processor = SidLogitsProcessor(trie, vocabulary)
    ids = torch.tensor([tokenizer(PROMPTS[1])["input_ids"]])
    for beams in (1, 5):
        kwargs = {
            "max_new_tokens": 3,
            "num_beams": beams,
            "num_return_sequences": beams,
            "logits_processor": [processor],
        }
        embedded = tiny_model.generate(inputs_embeds=tiny_model.get_input_embeddings()(ids), **kwargs)
        assert torch.equal(embedded, tiny_model.generate(input_ids=ids, **kwargs)[:, ids.shape[1] :])


def test_samples_follow_the_softmax_over_legal_tokens():
    tokenizer, vocabulary, trie = world(model := make_model())
    torch.manual_seed(0)
    processor = SidLogitsProcessor(trie, vocabulary)
    tokens = generate(model, tokenizer, processor, PROMPTS[:1], do_sample=True, num_return_sequences=4000)
    share = np.bincount(vocabulary.items(tokens), minlength=len(CODES)) / 4000
    expected = np.exp(brute_force(model, vocabulary, tokenizer(PROMPTS[0])["input_ids"], "trie"))
    assert expected.sum() == pytest.approx(1)
    assert np.abs(share - expected).max() < 5 * np.sqrt(0.25 / 4000)


def test_history_in_the_prompt_starts_a_new_sid_and_a_forced_prefix_goes_on():
    tokenizer, vocabulary, trie = world(model := make_model())
    processor = SidLogitsProcessor(trie, vocabulary)
    history = "bought: " + "".join(vocabulary.text([3, 8]))
    assert (
        vocabulary.items(generate(model, tokenizer, processor, [history], num_beams=4, num_return_sequences=4)) >= 0
    ).all()
    batch = tokenizer([history + "<s_a_1>"], return_tensors="pt")
    output = model.generate(
        **batch, max_new_tokens=2, num_beams=3, num_return_sequences=3, logits_processor=[processor]
    )
    assert (CODES[vocabulary.items(output[:, -3:].numpy())][:, 0] == 1).all()


def test_broken_scores_and_stuck_rows_raise():
    _, vocabulary, trie = world(make_model())
    rows = torch.full((2, 3), 5)
    with pytest.raises(ValueError, match="NaN"):
        SidLogitsProcessor(trie, vocabulary)(rows, torch.tensor([[0.0] * 340, [float("nan")] * 340]))
    with pytest.raises(ValueError, match="every item is denied"):
        SidLogitsProcessor(trie, vocabulary, deny=[np.arange(len(CODES))])(rows, torch.zeros(2, 340))
    # A token of the second level with nothing before it is no prefix of any SID.
    second = int(vocabulary.level_token_ids[1][0])
    with pytest.raises(ValueError, match="row 1 has no legal token"):
        SidLogitsProcessor(trie, vocabulary)(torch.tensor([[5, 5, 5], [5, 5, second]]), torch.zeros(2, 340))
    with pytest.raises(ValueError, match="score='best'"):
        SidLogitsProcessor(trie, vocabulary, score="best")


WORLD = world(make_model())
