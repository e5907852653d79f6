"""Rollouts: groups behind one prompt, drawn from what the loss scores them over."""

import numpy as np
import pytest
import torch
from chat_templates import TEMPLATES
from conftest import make_model
from scipy import stats
from torch.nn import functional as F

from genrec_hf import SidVocabulary
from genrec_hf.generation import SidTrie
from genrec_hf.generation.prompt_cache import start_prompt_cache
from genrec_hf.generation.scoring import score_sids
from genrec_hf.tasks import encode_pairs, encode_prompt, next_item_prompt
from genrec_hf.training.rollouts import SidRollouts, _group_by_prompt, _groups, score_rollouts


class Trainer:
    """What a rollout asks of TRL's trainer."""

    num_generations, num_generations_eval = 6, 2

    def __init__(self, model):
        self.model, self.accelerator = model, self
        model.train()

    def unwrap_model(self, model):
        return model

    def autocast(self):
        return torch.autocast("cpu", enabled=False)


@pytest.fixture
def world(toy_sids, tokenizer):
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer)
    model = make_model(vocabulary=len(tokenizer))
    prompts = [next_item_prompt(history, vocabulary) for history in ([3, 4], [7], [12, 13, 14])]
    return model, tokenizer, vocabulary, SidTrie(toy_sids, vocabulary), prompts


def test_turns_of_a_chat_are_asked_as_they_were_trained(world):
    model, tokenizer, vocabulary, _, prompts = world
    tokenizer.chat_template = TEMPLATES["qwen3"]
    found = SidRollouts(vocabulary, tokenizer, form="chat")(repeated(prompts), Trainer(model))
    pairs = encode_pairs(prompts, vocabulary.text([5, 6, 7]), tokenizer, form="chat")
    assert found["prompt_ids"] == repeated([asked for asked, _ in pairs])
    assert tokenizer.decode(found["prompt_ids"][0]).endswith("assistant\n<think>\n\n</think>\n\n")


def repeated(prompts, size=6):
    return [prompt for prompt in prompts for _ in range(size)]


@pytest.mark.parametrize(
    ("sampling", "length"),
    [
        (each, 1)
        for each in (
            "samples",
            "distinct_samples",
            "beams",
            "unconstrained",
            {"beams": 1, "samples": 2},
            {"samples": 0.5, "unconstrained": 0.5},
        )
    ]
    + [("samples", 3)],
    ids=str,
)
def test_the_loss_scores_rollouts_as_they_were_drawn(sampling, length, world):
    model, tokenizer, vocabulary, trie, prompts = world
    rollouts = SidRollouts(vocabulary, tokenizer, sampling=sampling, temperature=0.8, list_length=length)
    found = rollouts(repeated(prompts), Trainer(model))
    assert model.training and {len(values) for values in found.values()} == {18}
    assert found["prompt_ids"] == [encode_prompt(prompt, tokenizer) for prompt in repeated(prompts)]
    lists = vocabulary.items(np.array(found["completion_ids"]).reshape(18, length, trie.levels))
    items = lists[:, 0]
    assert found["lists"] == lists.tolist() and (lists[:, 1:] >= 0).all()
    assert found["items"] == items.tolist() and found["group"] == [0] * 6 + [1] * 6 + [2] * 6
    assert (items >= 0).all() or "unconstrained" in sampling
    if isinstance(sampling, dict) and "unconstrained" in sampling:
        assert (items.reshape(3, 6)[:, :3] >= 0).all(), "its draws are items"
    if sampling in ("distinct_samples", "beams"):
        assert all(len(set(items[start : start + 6])) == 6 for start in (0, 6, 12))
    if sampling == "beams":
        assert all(np.diff(found["likelihood"][:6]) <= 1e-6)
    # As TRL's loss calls it: shuffled, padded on the left, labels on the completions.
    order = torch.randperm(18, generator=torch.Generator().manual_seed(0)).tolist()
    longest = max(map(len, found["prompt_ids"])) + 3
    ids = torch.tensor(
        [
            [9] * (longest - len(found["prompt_ids"][k])) + found["prompt_ids"][k] + found["completion_ids"][k]
            for k in order
        ]
    )
    mask = torch.tensor(
        [[0] * (longest - len(found["prompt_ids"][k])) + [1] * len(found["prompt_ids"][k]) for k in order]
    )
    mask = F.pad(mask, (0, rollouts.tokens), value=1)
    labels = ids.clone()
    labels[:, :longest] = -100
    score_rollouts(model, rollouts)
    output = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    scored = output.log_probs[:, -rollouts.tokens :]
    torch.testing.assert_close(scored, torch.tensor([found["logprobs"][k] for k in order]), atol=1e-5, rtol=1e-5)
    assert output.log_probs.shape == output.entropy.shape == labels[:, 1:].shape
    assert scored.requires_grad and (output.entropy[:, -rollouts.tokens :] > 0).any()
    plain = model(input_ids=ids, attention_mask=mask).logits
    assert plain.shape == (*ids.shape, len(tokenizer)), "any other call is the model's own"


def test_free_draws_follow_the_model(world):
    model, tokenizer, vocabulary, _, prompts = world
    rollouts = SidRollouts(vocabulary, tokenizer, sampling="unconstrained", temperature=1.5)
    torch.manual_seed(0)
    with torch.no_grad():
        tokens, _ = rollouts.generate(model, [encode_prompt(prompts[0], tokenizer)], 4000)
        logits = model(torch.tensor([encode_prompt(prompts[0], tokenizer)])).logits[0, -1] / 1.5
    counts = torch.bincount(tokens[0, :, 0], minlength=len(tokenizer)).numpy()
    expected = logits.softmax(dim=-1).double().numpy() * 4000
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


def test_checkpointed_activations_are_refused(world):
    model, tokenizer, vocabulary, *_ = world
    score_rollouts(model, SidRollouts(vocabulary, tokenizer))
    model.train()
    model.activation_checkpointing_enable()
    with pytest.raises(ValueError, match="got activation checkpointing"):
        model(input_ids=torch.ones(2, 9, dtype=torch.long), attention_mask=torch.ones(2, 9), fused_lm_head=True)


def test_groups_are_whole():
    assert _groups(["a", "a", "b", "b", "a", "a"], 2) == ["a", "b", "a"]
    for prompts in (["a", "a", "b"], ["a", "b", "b", "b"]):
        with pytest.raises(ValueError, match="that are not whole groups of 2"):
            _groups(prompts, 2)


def test_rows_that_share_a_prompt():
    ids = torch.tensor([[0, 5], [7, 5], [0, 5], [7, 5], [9, 5], [0, 5]])
    mask = torch.tensor([[0, 1], [1, 1], [0, 1], [1, 1], [0, 1], [1, 1]])
    prompts, member, place = _group_by_prompt(ids, mask)
    assert sorted(prompts.tolist()) == [0, 1, 5], "what is masked is no part of a prompt"
    assert [member.flatten()[place[row]] for row in range(6)] == list(range(6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling": "best"}, "got sampling='best'"),
        ({"sampling": {}}, "got sampling={}"),
        ({"sampling": {"samples": 1, "beams": 0}}, "shares above 0"),
        ({"temperature": 0.0}, "got temperature=0.0"),
        ({"list_length": 0}, "got list_length=0"),
        ({"list_length": 2, "sampling": "unconstrained"}, "got list_length=2 with sampling='unconstrained'"),
        ({"list_length": 2, "inject_target": True}, "inject_target=True"),
    ],
)
def test_settings_that_draw_nothing_are_refused(settings, message, world):
    with pytest.raises(ValueError, match=message):
        SidRollouts(world[2], world[1], **settings)


def test_more_distinct_items_than_there_are_are_refused(world):
    model, tokenizer, vocabulary, _, prompts = world
    trainer = Trainer(model)
    trainer.num_generations = 25
    with pytest.raises(ValueError, match=r"25 distinct items per group for .* a catalogue of 24"):
        SidRollouts(vocabulary, tokenizer, sampling="distinct_samples")(repeated(prompts, 25), trainer)


def test_shares_of_a_group_are_whole(world):
    _, tokenizer, vocabulary, _, _ = world
    rollouts = SidRollouts(vocabulary, tokenizer, sampling={"samples": 3, "beams": 1})
    assert rollouts.counts(16) == {"samples": 12, "beams": 4} and rollouts.normalization == "trie"
    with pytest.raises(ValueError, match=r"for groups of 6, .* give shares"):
        rollouts.counts(6)


def test_a_target_is_put_where_it_is_missing(world):
    model, tokenizer, vocabulary, _, prompts = world
    trainer, plain = Trainer(model), SidRollouts(vocabulary, tokenizer)
    torch.manual_seed(1)
    drawn = plain(repeated(prompts), trainer)
    there, missing = drawn["items"][3], next(item for item in range(24) if item not in drawn["items"])
    trainer.targets = [there] * 6 + [missing] * 6 + [missing] * 6
    torch.manual_seed(1)
    found = SidRollouts(vocabulary, tokenizer, inject_target=True)(repeated(prompts), trainer)
    assert found["items"] == [*drawn["items"][:11], missing, *drawn["items"][12:17], missing]
    assert found["lists"] == [[item] for item in found["items"]] and drawn["sampling"] == ["samples"] * 18
    assert found["sampling"] == ["samples"] * 11 + ["target"] + ["samples"] * 5 + ["target"]
    for row in range(18):
        if row in (11, 17):
            assert found["completion_ids"][row] == vocabulary.token_ids([missing])[0].tolist()
            assert found["logprobs"][row] == [0.0, 0.0] and found["likelihood"][row] == 0
        else:
            assert found["logprobs"][row] == drawn["logprobs"][row]


def test_what_is_no_item_is_judged_by_its_first_wrong_token(world):
    _, tokenizer, vocabulary, *_ = world
    rollouts = SidRollouts(vocabulary, tokenizer, sampling="unconstrained")
    sids = vocabulary.token_ids(np.arange(len(vocabulary.semantic_ids)))
    tokens = np.random.default_rng(0).choice([*np.unique(sids), 0, 5], size=(400, sids.shape[1]))
    prefixes = {tuple(sid[:length]) for sid in sids.tolist() for length in range(1, sids.shape[1] + 1)}
    found = rollouts.advantage_mask(torch.from_numpy(np.concatenate([tokens, sids])))
    assert found[len(tokens) :].all(), "of an item every code"
    for row, mine in zip(tokens.tolist(), found[: len(tokens)].tolist(), strict=True):
        legal = [tuple(row[: length + 1]) in prefixes for length in range(len(row))]
        assert mine == [all(legal) or level == legal.index(False) for level in range(len(row))]


def test_a_list_goes_on_after_its_own_items(world):
    """The second item of a list has the probability that it has behind a history which ends with the first."""
    model, tokenizer, vocabulary, trie, _ = world
    rollouts = SidRollouts(vocabulary, tokenizer, list_length=2)
    one = SidRollouts(vocabulary, tokenizer)
    found = rollouts(repeated([next_item_prompt([3, 4], vocabulary)]), Trainer(model))
    for (first, second), log_probs in zip(found["lists"], found["logprobs"], strict=True):
        ids = torch.tensor([encode_prompt(next_item_prompt([3, 4, first], vocabulary), tokenizer)])
        prefix = start_prompt_cache(model, length=ids.shape[1], hypotheses=1, levels=trie.levels)
        tokens = one.codes_of([second])[None]
        scored = score_sids(prefix, {"input_ids": ids}, torch.ones_like(ids), trie=trie, tokens=tokens)
        torch.testing.assert_close(scored.log_probs[0, 0], torch.tensor(log_probs[trie.levels :]), atol=1e-5, rtol=0)
