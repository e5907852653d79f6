"""Preferences: the loss of S-DPO by hand, groups that stay together, and targets that gain on their negatives."""

import numpy as np
import pytest
import torch
from test_grpo import COMMON, adapter
from torch.nn import functional as F
from trl import GRPOConfig

from genrec_hf.tasks import next_item_prompts
from genrec_hf.training.preference import SidPreferenceTrainer, preference_loss
from genrec_hf.training.rollouts import SidRollouts

pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning")


def preference(
    model, vocabulary, tokenizer, data, folder, sampling="beams", inject=True, filter_seen=False, **settings
):
    how = {
        "num_generations": 4,
        "per_device_train_batch_size": 32,
        "learning_rate": 3e-3,
        "max_steps": 3,
        "beta": 0.5,
        **COMMON,
        **settings,
    }
    events = np.bincount(np.concatenate(data.training_sequences()), minlength=len(data.item_ids))
    rollouts = SidRollouts(vocabulary, tokenizer, sampling=sampling, inject_target=inject, events=events)
    return SidPreferenceTrainer(
        model,
        GRPOConfig(str(folder), **how),
        rollouts=rollouts,
        processing_class=tokenizer,
        filter_seen=filter_seen,
        train_dataset=next_item_prompts(data.training_sequences(), vocabulary),
    )


def test_groups_of_two_are_dpo_and_larger_ones_s_dpo():
    gained = torch.tensor([0.3, -0.2, 1.0, 0.1, 0.4, -0.5], requires_grad=True)
    pairs = preference_loss(
        gained[:4], torch.tensor([7, 3, 3, 7]), torch.tensor([True, False, True, False])
    )  # rows in any order
    torch.testing.assert_close(
        pairs["loss"], -F.logsigmoid(torch.stack([gained[0] - gained[3], gained[2] - gained[1]])).mean()
    )
    assert pairs["accuracy"] == 1 and pairs["margin"].item() == pytest.approx((0.2 + 1.2) / 2)
    hit = torch.tensor([False, False, False, True, False, True])
    many = preference_loss(gained, torch.zeros(6), hit)
    others = torch.tensor([0.3, -0.2, 1.0, 0.4])
    expected = -torch.sigmoid(-(others - 0.1).logsumexp(dim=0)).log()
    torch.testing.assert_close(many["loss"], expected)
    assert many["accuracy"] == 0 and many["margin"].item() == pytest.approx(0.1 - others.mean().item())
    alone = preference_loss(gained[:1], torch.zeros(1), torch.tensor([True]))
    assert [alone[name].item() for name in ("loss", "accuracy", "margin")] == [0, 0, 0]
    with pytest.raises(ValueError, match="a group of 2 items without its target"):
        preference_loss(gained[:2], torch.zeros(2), torch.tensor([False, False]))


@pytest.mark.parametrize("sampling", ["uniform", "popular", {"beams": 1, "uniform": 3}], ids=str)
def test_targets_gain_on_negatives(sampling, toy_data, toy_sids, tokenizer, tmp_path):
    model, vocabulary = adapter(toy_sids, tokenizer)
    trainer = preference(model, vocabulary, tokenizer, toy_data, tmp_path, sampling, max_steps=20)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "preference/loss" in entry]
    assert log[0]["preference/loss"] <= np.log(4) + 1e-5 and log[0]["preference/margin"] == pytest.approx(0, abs=1e-6)
    assert np.mean([entry["preference/margin"] for entry in log[-5:]]) > 0.01
    assert np.mean([entry["preference/loss"] for entry in log[-5:]]) < log[0]["preference/loss"] - 0.01


def test_the_loss_is_that_of_whole_sequences(toy_data, toy_sids, tokenizer, tmp_path):
    model, vocabulary = adapter(toy_sids, tokenizer)
    trainer = preference(model, vocabulary, tokenizer, toy_data, tmp_path, num_generations=8)
    trainer.model.train()
    inputs = trainer._generate_and_score_completions([trainer.train_dataset[k // 8] for k in range(32)])
    assert inputs["is_target"].view(4, 8).any(dim=1).all()
    inputs["ref_per_token_logps"] = torch.randn(32, 2)
    order = torch.randperm(32)
    shuffled = {
        name: values[order] if torch.is_tensor(values) and values.dim() else values for name, values in inputs.items()
    }
    trainer.current_gradient_accumulation_steps = 1
    found = trainer.compute_loss(trainer.model, shuffled)
    children, gained = [torch.tensor(ids) for ids in vocabulary.level_token_ids], []
    for row in range(32):
        prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()]
        completion = inputs["completion_ids"][row]
        logits = model(torch.cat([prompt, completion])[None]).logits[0]
        total = 0.0
        for level, token in enumerate(completion):
            at = logits[len(prompt) - 1 + level][children[level]].log_softmax(dim=-1)
            total = total + at[children[level] == token].squeeze() - inputs["ref_per_token_logps"][row, level]
        gained.append(total)
    gained, hit = 0.5 * torch.stack(gained).view(4, 8), inputs["is_target"].view(4, 8)
    losses = []
    for values, mine in zip(gained, hit, strict=True):
        target = values[mine][0]
        losses.append(torch.cat([target[None], values[~mine]]).logsumexp(dim=0) - target)
    torch.testing.assert_close(found, torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)


def test_items_that_were_seen_are_no_negatives(toy_data, toy_sids, tokenizer, tmp_path, monkeypatch):
    model, vocabulary = adapter(toy_sids, tokenizer)
    trainer = preference(model, vocabulary, tokenizer, toy_data, tmp_path, num_generations=8, filter_seen=True)
    trainer.model.train()
    asked = [trainer.train_dataset[k // 8] for k in range(32)]
    inputs = trainer._generate_and_score_completions(asked)
    items = vocabulary.items(inputs["completion_ids"].numpy())
    seen = np.array([item in row["history"] for item, row in zip(items, asked, strict=True)])
    target = np.array([item == row["target"] for item, row in zip(items, asked, strict=True)])
    assert (seen & ~target).any() and (inputs["is_compared"].numpy() == (target | ~seen)).all()
    taken = []
    monkeypatch.setattr(
        "genrec_hf.training.preference.preference_loss",
        lambda *rows: taken.append([len(each) for each in rows]) or preference_loss(*rows),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(trainer.model, inputs | {"ref_per_token_logps": torch.zeros(32, 2)})
    assert taken == [[int((target | ~seen).sum())] * 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inject": False}, "inject_target=False"),
        ({"sampling": "unconstrained"}, "normalization='full'"),
        ({"beta": 0.0}, "got beta=0"),
        ({"gradient_accumulation_steps": 2}, "groups would be split over batches"),
        ({"num_iterations": 2}, "groups would be split over batches"),
    ],
)
def test_settings_without_a_preference_are_refused(settings, message, toy_data, toy_sids, tokenizer, tmp_path):
    model, vocabulary = adapter(toy_sids, tokenizer)
    with pytest.raises(ValueError, match=message):
        preference(model, vocabulary, tokenizer, toy_data, tmp_path, **settings)
