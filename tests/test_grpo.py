"""GRPO on items: a first ratio of 1, rewards that raise what they reward, and settings that would mislead refused."""

import numpy as np
import pytest
import torch
from conftest import make_model
from peft import LoraConfig
from trl import GRPOConfig, SFTConfig

from genrec_hf import SidVocabulary
from genrec_hf.evaluation import per_case_metrics
from genrec_hf.evaluation.metrics import list_ndcg
from genrec_hf.generation import Recommender
from genrec_hf.models import LlaraForCausalLM, start_adapter
from genrec_hf.tasks import dense_dataset, next_item_prompts
from genrec_hf.training.grpo import SidGrpoTrainer
from genrec_hf.training.reward_selection import make_rewards
from genrec_hf.training.rewards import exact_reward, list_ndcg_reward, validity_reward
from genrec_hf.training.rollouts import SidRollouts
from genrec_hf.training.sft import SidSftTrainer

pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning")
COMMON = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
    "activation_checkpointing": False,
    "save_strategy": "no",
    "logging_steps": 1,
}


def adapter(toy_sids, tokenizer, seed=0, vectors=False):
    vocabulary = SidVocabulary(toy_sids)
    model = make_model(vocabulary=320, seed=seed)
    vocabulary.extend(tokenizer, model, init="random", seed=seed)
    torch.manual_seed(seed)
    if vectors:
        matrix = np.random.default_rng(seed).normal(size=(24, 4))
        model = LlaraForCausalLM.from_language_model(model, matrix, vector_dropout=0.3)
    return start_adapter(model, vocabulary, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.3)), vocabulary


def grpo(
    model, vocabulary, tokenizer, data, folder, rewards, sampling="samples", seed=0, inject=False, length=1, **settings
):
    how = {
        "num_generations": 8,
        "per_device_train_batch_size": 64,
        "learning_rate": 3e-3,
        "max_steps": 3,
        "seed": seed,
        **COMMON,
        **settings,
    }
    names, network = ("mask_target_prefix", "resample", "filter_seen"), model.get_base_model()
    vectors, prompts = how.pop("vectors", isinstance(network, LlaraForCausalLM)), how.pop("prompts", None)
    ours = {"filter_seen": False} | {name: how.pop(name) for name in names if name in how}
    rollouts = SidRollouts(vocabulary, tokenizer, sampling=sampling, inject_target=inject, list_length=length)
    return SidGrpoTrainer(
        model, rewards, GRPOConfig(str(folder), **how), rollouts=rollouts, processing_class=tokenizer, **ours,
        train_dataset=next_item_prompts(
            data.training_sequences(), vocabulary, 40, examples=prompts, seed=seed, following=length, vectors=vectors
        ),
    )  # fmt: skip


def ndcg(model, vocabulary, tokenizer, cases):
    recommender = Recommender(model, tokenizer, vocabulary.semantic_ids)
    ranked = recommender.rank(cases.histories, 10, filter_seen=False).items
    return per_case_metrics(ranked, cases.targets, ks=(10,))["ndcg@10"].mean()


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("sampling", ["samples", "unconstrained"])
def test_the_first_ratio_is_one(sampling, vectors, toy_data, toy_sids, tokenizer, tmp_path, monkeypatch):
    model, vocabulary = adapter(toy_sids, tokenizer, vectors=vectors)
    trainer = grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [exact_reward, validity_reward], sampling)
    seen = []

    def compute(model, inputs):
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        scored, _, _ = trainer._get_per_token_logps_and_entropies(model, ids, mask, 2)
        seen.append((scored - inputs["sampling_per_token_logps"]).exp())
        return original(model, inputs)

    original = trainer._compute_loss
    monkeypatch.setattr(trainer, "_compute_loss", compute)
    trainer.train()
    assert len(seen) == 3
    for ratio in seen:
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)


@pytest.mark.parametrize("vectors", [False, True])
def test_the_reference_is_the_model_as_it_was(vectors, toy_data, toy_sids, tokenizer, tmp_path):
    model, vocabulary = adapter(toy_sids, tokenizer, vectors=vectors)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    trainer = grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [exact_reward, validity_reward], beta=0.1)
    trainer.train()
    kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert kl[0] == pytest.approx(0, abs=1e-9) and kl[-1] > 1e-6
    trained = {name for name, each in trainer.model.named_parameters() if each.requires_grad}
    assert trained and not any("ref" in name.split(".") for name in trained)
    after = dict(model.named_parameters())
    assert {"projector" in name for name in trained} == ({False, True} if vectors else {False})
    assert all((before[name] != after[name]).any() for name in trained if "fallback" not in name)
    assert all((before[name] == after[name]).all() for name in before.keys() - trained)


def test_a_step_is_that_of_a_loss_by_hand(toy_data, toy_sids, tokenizer, tmp_path):
    """The gradient of `-mean_g A_g log p_g`, with log-probabilities of whole sequences over the allowed children."""
    model, vocabulary = adapter(toy_sids, tokenizer)
    trainer = grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [exact_reward], loss_type="grpo")
    model.train()
    inputs = trainer._generate_and_score_completions([trainer.train_dataset[k // 8] for k in range(64)])
    inputs["advantages"] = torch.linspace(-1, 1, 64)
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(trainer.model, inputs).backward()
    ours = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    children = [torch.tensor(ids) for ids in vocabulary.level_token_ids]
    total = 0.0
    for row in range(64):
        prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()]
        completion = inputs["completion_ids"][row]
        logits = model(torch.cat([prompt, completion])[None]).logits[0]
        for level, token in enumerate(completion):
            at = logits[len(prompt) - 1 + level][children[level]].log_softmax(dim=-1)
            total = total - inputs["advantages"][row] * at[children[level] == token].sum() / 2 / 64
    total.backward()
    for name, grad in ours.items():
        expected = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(grad, expected, atol=1e-6, rtol=1e-3)
    assert set(ours) == {name for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_grpo_raises_held_out_ranking_over_its_start(seed, toy_data, toy_sids, tokenizer, tmp_path):
    model, vocabulary = adapter(toy_sids, tokenizer, seed)
    rows = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer, seed=seed)
    start = SFTConfig(
        str(tmp_path / "sft"), max_steps=60, per_device_train_batch_size=16, learning_rate=1e-2, seed=seed, **COMMON
    )
    SidSftTrainer(model, start, train_dataset=rows, processing_class=tokenizer, vocabulary=vocabulary).train()
    cases = toy_data.cases("test")
    before = ndcg(model, vocabulary, tokenizer, cases)
    rewards = make_rewards(["exact", "prefix", "rank"], toy_data, toy_sids)
    trainer = grpo(
        model, vocabulary, tokenizer, toy_data, tmp_path / "grpo", rewards, seed=seed, max_steps=150,
        learning_rate=2e-3, num_generations=16, per_device_train_batch_size=128,
    )  # fmt: skip
    trainer.train()
    assert ndcg(model, vocabulary, tokenizer, cases) > before + 0.03


def test_a_reward_that_is_no_number_is_refused(toy_data, toy_sids, tokenizer, tmp_path):
    model, vocabulary = adapter(toy_sids, tokenizer)

    def broken_reward(items, **columns):
        return [float("nan") if row == 3 else 1.0 for row in range(len(items))]

    trainer = grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [broken_reward])
    with pytest.raises(ValueError, match="broken_reward returned nan for 1 of 64 completions, the first at index 3"):
        trainer.train()

    def short_reward(items, **columns):
        return [1.0]

    model, vocabulary = adapter(toy_sids, tokenizer)
    with pytest.raises(ValueError, match="1 rewards, but 64"):
        grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [short_reward]).train()


def test_what_would_mislead_is_refused(toy_data, toy_sids, tokenizer, tmp_path):
    model, vocabulary = adapter(toy_sids, tokenizer)
    with pytest.raises(ValueError, match="at least 2 generations per prompt"):
        grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [exact_reward], num_generations=1)
    with pytest.raises(ValueError, match="must be divisible by num_generations"):
        grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [exact_reward], per_device_train_batch_size=12)
    with pytest.raises(ValueError, match="fewer than the 64 of one step: no step would be made"):
        grpo(
            model,
            vocabulary,
            tokenizer,
            toy_data,
            tmp_path,
            [exact_reward],
            per_device_train_batch_size=512,
            prompts=63,
        )
    rollouts, dataset = SidRollouts(vocabulary, tokenizer), next_item_prompts([np.arange(9)], vocabulary)
    for target in (-1, 24):
        wrong = dataset.map(lambda row, target=target: {"target": target})
        arguments = GRPOConfig(str(tmp_path), num_generations=8, per_device_train_batch_size=64, **COMMON)
        with pytest.raises(ValueError, match=f"from {target} to {target} and a catalogue of 24"):
            SidGrpoTrainer(
                model, [exact_reward], arguments, rollouts=rollouts, train_dataset=wrong, processing_class=tokenizer
            )
    hybrid, vocabulary = adapter(toy_sids, tokenizer, vectors=True)
    with pytest.raises(ValueError, match="prompts without vectors"):
        grpo(hybrid, vocabulary, tokenizer, toy_data, tmp_path, [exact_reward], vectors=False).train()


def drawn(trainer):
    """A batch of eight groups as the first step would have it."""
    trainer.model.train()
    return trainer._generate_and_score_completions([trainer.train_dataset[k // 8] for k in range(64)])


def test_a_target_that_was_put_in_is_weighed_by_its_probability(toy_data, toy_sids, tokenizer, tmp_path):
    """An injected code has `-A` times the gradient of its probability, a drawn one that of its logarithm."""
    model, vocabulary = adapter(toy_sids, tokenizer)
    trainer = grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [exact_reward], inject=True, loss_type="grpo")
    inputs = drawn(trainer)
    targets = np.repeat([trainer.train_dataset[k]["target"] for k in range(8)], 8)
    items = vocabulary.items(inputs["completion_ids"].numpy())
    assert all((items == targets).reshape(8, 8).any(axis=1)), "no group is without its target"
    assert (inputs["advantages"] != 0).all() and trainer._metrics["train"]["zero_advantage"] == [0.0]
    put = (inputs["old_per_token_logps"] == 0).all(dim=1)
    assert 0 < put.sum() < 8 and (items[put] == targets[put]).all()
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    scored, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 2)
    weight = torch.where(put[:, None], scored.exp(), scored)
    expected = torch.autograd.grad(-(inputs["advantages"][:, None] * weight).mean(), [*trained(model)])
    trainer.current_gradient_accumulation_steps = 1
    found = torch.autograd.grad(trainer.compute_loss(trainer.model, inputs), [*trained(model)])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def trained(model):
    return (each for each in model.parameters() if each.requires_grad)


def test_codes_that_were_right_are_not_punished(toy_data, toy_sids, tokenizer, tmp_path):
    model, vocabulary = adapter(toy_sids, tokenizer)
    trainer = grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [exact_reward], mask_target_prefix=True)
    inputs = drawn(trainer)
    targets = np.repeat([trainer.train_dataset[k]["target"] for k in range(8)], 8)
    codes, wanted = toy_sids.codes[vocabulary.items(inputs["completion_ids"].numpy())], toy_sids.codes[targets]
    first, hit = (codes[:, 0] == wanted[:, 0]), (codes == wanted).all(axis=1)
    advantages = inputs["advantages"].numpy()
    lost = (advantages[:, 1] < 0) & first
    assert lost.any() and (advantages[lost, 0] == 0).all(), "the first code was right"
    assert (advantages[hit, 0] == advantages[hit, 1]).all() and (advantages[hit] >= 0).all()
    assert (advantages[~first & ~hit, 0] == advantages[~first & ~hit, 1]).all()
    trainer.train()


def test_groups_without_a_signal_are_drawn_anew(toy_data, toy_sids, tokenizer, tmp_path):
    calls = []

    def slow(items, group, **columns):
        """One reward for all at first; at the second draw for all but the second of the groups that are left."""
        calls.append(len(items))
        return [float(len(calls) > 2 or (len(calls) == 2 and name == 1)) * k for k, name in enumerate(group)]

    model, vocabulary = adapter(toy_sids, tokenizer)
    trainer = grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [slow], resample=2)
    inputs = drawn(trainer)
    assert calls == [64, 64, 56], "all eight, again all eight, then those that still have one reward"
    assert inputs["advantages"].view(8, 8).any(dim=1).all() and trainer._metrics["train"]["zero_advantage"] == [0.0]
    # What stands in a row belongs together: TRL's own loss scores it as it was drawn.
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    scored, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 2)
    torch.testing.assert_close(scored, inputs["sampling_per_token_logps"], atol=1e-5, rtol=0)
    calls.clear()
    trainer.resample = 0
    assert (drawn(trainer)["advantages"] == 0).all() and calls == [64]


def test_nothing_is_learnt_from_items_that_were_seen(toy_data, toy_sids, tokenizer, tmp_path):
    def by_number(items, **columns):
        return [float(item) for item in items]

    model, vocabulary = adapter(toy_sids, tokenizer)
    trainer = grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [by_number, exact_reward], filter_seen=True)
    inputs = drawn(trainer)
    items = vocabulary.items(inputs["completion_ids"].numpy()).reshape(8, 8)
    rows = [trainer.train_dataset[k] for k in range(8)]
    seen = np.array([[item in row["history"] for item in mine] for mine, row in zip(items, rows, strict=True)])
    hits = items == np.array([row["target"] for row in rows])[:, None]
    advantages = inputs["advantages"].view(8, 8).numpy()
    assert seen.any() and np.abs(advantages[seen]).max() < 1e-5
    for mine, gone, hit, found in zip(items, seen, hits, advantages, strict=True):
        reward = (mine + hit)[~gone]
        if len(reward) > 1:
            centred = reward - reward.mean()
            assert np.allclose(centred / np.abs(centred).max(), found[~gone] / np.abs(found).max(), atol=1e-4)


def test_an_item_of_the_history_is_a_valid_answer(toy_data, toy_sids, tokenizer, tmp_path):
    """Validity is learnt from every free answer, and from its first wrong token alone where it is no item."""
    model, vocabulary = adapter(toy_sids, tokenizer)
    rewards, shares = [validity_reward], {"samples": 1, "unconstrained": 1}
    trainer = grpo(model, vocabulary, tokenizer, toy_data, tmp_path, rewards, shares, filter_seen=True)
    inputs = drawn(trainer)
    items = vocabulary.items(inputs["completion_ids"].numpy())
    assert (items.reshape(8, 8)[:, :4] >= 0).all() and trainer._metrics["train"]["unconstrained_validity"] == [
        (items.reshape(8, 8)[:, 4:] >= 0).mean()
    ]
    right, signs = torch.from_numpy(items >= 0)[:, None], inputs["advantages"].sign()
    expected = torch.where(right, 1, -trainer.rollouts.advantage_mask(inputs["completion_ids"]).int())
    some = inputs["advantages"].view(8, 16).any(dim=1).repeat_interleave(8)
    assert some.any() and not right.all() and (signs == expected)[some].all()
    trainer.train()


def test_lists_are_judged_as_they_are_shown(toy_data, toy_sids, tokenizer, tmp_path):
    model, vocabulary = adapter(toy_sids, tokenizer)
    how = {"length": 3, "loss_type": "grpo", "scale_rewards": "none"}
    trainer = grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [list_ndcg_reward], filter_seen=True, **how)
    inputs = drawn(trainer)
    lists = vocabulary.items(inputs["completion_ids"].view(64, 3, 2).numpy()).tolist()
    rows = [trainer.train_dataset[k // 8] for k in range(64)]
    assert all(row["following"][0] == row["target"] and len(row["following"]) <= 3 for row in rows)
    shown = [[item for item in mine if item not in row["history"]] for mine, row in zip(lists, rows, strict=True)]
    assert any(len(mine) < 3 for mine in shown)
    shown = [mine + [-1] * (3 - len(mine)) for mine in shown]
    worth = torch.tensor(list_ndcg(shown, [row["following"] for row in rows])).view(8, 8)
    centred = (worth - worth.mean(dim=1, keepdim=True)).flatten().float()
    torch.testing.assert_close(inputs["advantages"], centred, atol=1e-5, rtol=1e-4)
    trainer.train()
    with pytest.raises(ValueError, match="mask_target_prefix=True with list_length=3"):
        grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [list_ndcg_reward], length=3, mask_target_prefix=True)


def test_settings_that_need_targets_say_so(toy_data, toy_sids, tokenizer, tmp_path):
    model, vocabulary = adapter(toy_sids, tokenizer)
    arguments = GRPOConfig(str(tmp_path), num_generations=8, per_device_train_batch_size=64, **COMMON)
    dataset = next_item_prompts(toy_data.training_sequences(), vocabulary).remove_columns("target")
    with pytest.raises(ValueError, match="settings that read 'target'"):
        SidGrpoTrainer(
            model,
            [validity_reward],
            arguments,
            rollouts=SidRollouts(vocabulary, tokenizer),
            mask_target_prefix=True,
            processing_class=tokenizer,
            train_dataset=dataset,
        )
    with pytest.raises(ValueError, match="got resample=-1"):
        grpo(model, vocabulary, tokenizer, toy_data, tmp_path, [exact_reward], resample=-1)
