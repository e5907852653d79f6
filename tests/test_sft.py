"""`SidSftTrainer`: both losses against arithmetic, what trains and what does not, resuming, and a toy world learnt."""

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from torch.nn import functional as F
from trl import SFTConfig

from genrec_hf import Recommender, SidVocabulary
from genrec_hf.evaluation import Popularity, evaluate_recommendations
from genrec_hf.models import start_adapter
from genrec_hf.tasks import dense_dataset, encode_prompt, grounding_dataset, next_item_dataset, next_item_prompt
from genrec_hf.training.sft import SidSftTrainer

FAMILIES = [("llama", True), ("llama", False), ("qwen2", True), ("qwen3", False)]


def world(sids, family="llama", tied=True, markers=False, rank=4):
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = make_model(family, tied)
    vocabulary = SidVocabulary(sids, markers=markers).extend(tokenizer, model, init="random")
    return start_adapter(model, vocabulary, LoraConfig(r=rank, lora_alpha=2 * rank)), tokenizer, vocabulary


def make_trainer(model, tokenizer, vocabulary, dataset, output_dir, score="full", **settings):
    settings = {"per_device_train_batch_size": 8, "max_steps": 3, "learning_rate": 1e-2, **settings}
    arguments = SFTConfig(
        output_dir=str(output_dir), use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True,
        activation_checkpointing=False, logging_strategy="no", seed=0, **settings,
    )  # fmt: skip
    return SidSftTrainer(
        model, arguments, train_dataset=dataset, processing_class=tokenizer, vocabulary=vocabulary, score=score
    )


@pytest.mark.parametrize(("family", "tied"), FAMILIES)
@pytest.mark.parametrize("score", ["full", "level"])
def test_every_parameter_meant_to_train_changed_and_no_other(toy_data, toy_sids, tmp_path, family, tied, score):
    model, tokenizer, vocabulary = world(toy_sids, family, tied)
    dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    make_trainer(model, tokenizer, vocabulary, dataset, tmp_path, score, per_device_train_batch_size=60).train()
    meant = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    seen = set()
    for name, parameter in model.named_parameters():
        changed = ~torch.isclose(parameter, before[name], rtol=0, atol=0)
        if "trainable_tokens_delta" in name:
            assert changed.any(dim=1).all(), name
            assert parameter.shape == (len(vocabulary.tokens), 32)
            seen.add(name.split(".token_adapter")[0].rsplit(".", 1)[-1])
        elif ".lora_" in name:
            assert changed.any() and parameter.requires_grad, name
            seen.add(name.split(".lora_")[0].rsplit(".", 1)[-1])
        else:
            assert not changed.any() and not parameter.requires_grad, name
    assert seen == meant | ({"embed_tokens"} if tied else {"embed_tokens", "lm_head"})


def mixed_batch(trainer):
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


@pytest.mark.parametrize(("family", "tied"), FAMILIES)
@pytest.mark.parametrize("score", ["full", "level"])
def test_loss_equals_arithmetic_on_the_plain_logits(toy_data, toy_sids, tmp_path, family, tied, score):
    # Grounding rows: targets are text, SIDs and the end token.
    model, tokenizer, vocabulary = world(toy_sids, family, tied)
    dataset = grounding_dataset(toy_data, vocabulary, tokenizer)
    trainer = make_trainer(model, tokenizer, vocabulary, dataset, tmp_path, score, per_device_train_batch_size=16)
    trainer.train()
    model.eval()
    batch = mixed_batch(trainer)
    assert (batch["attention_mask"] == 0).any()
    with torch.no_grad():
        found = trainer.compute_loss(model, dict(batch)).item()
        plain = model(**{key: batch[key] for key in ("input_ids", "attention_mask", "labels")})
    logits, labels = plain.logits[:, :-1].double(), batch["labels"][:, 1:]
    costs = []
    for row, position in (labels != -100).nonzero().tolist():
        target, here = labels[row, position], logits[row, position]
        rivals = torch.arange(len(here))
        for ids in vocabulary.level_token_ids if score == "level" else []:
            if target in torch.tensor(ids):
                rivals = torch.tensor(ids)
        costs.append((here[rivals].logsumexp(dim=0) - here[target]).item())
    assert found == pytest.approx(np.mean(costs), rel=1e-5)
    if score == "full":
        assert found == pytest.approx(plain.loss.item(), rel=1e-5)


def test_level_metrics_and_empty_batches(toy_data, toy_sids, tmp_path):
    model, tokenizer, vocabulary = world(toy_sids)
    dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    trainer = make_trainer(model, tokenizer, vocabulary, dataset, tmp_path, "level")
    model.eval()
    batch = mixed_batch(trainer)
    with torch.no_grad():
        output = model(**batch, fused_lm_head=True)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    row, position = (output.label_mask.nonzero()[0]).tolist()
    ids = torch.tensor(vocabulary.level_token_ids[0])
    share = logits[row, position, ids].softmax(dim=0)
    assert output.entropy[row, position].item() == pytest.approx(-(share * share.log()).sum().item(), rel=1e-4)
    target = batch["labels"][row, position + 1]
    assert output.is_top1[row, position].item() == float(ids[share.argmax()] == target)
    assert (output.log_probs[~output.label_mask] == 0).all()
    nothing = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    model.train()
    loss = model(**nothing, fused_lm_head=True).loss
    loss.backward()
    assert loss.item() == 0


def test_the_gradient_of_the_level_loss_is_that_of_the_hand_computed_one(toy_data, toy_sids, tmp_path):
    model, tokenizer, vocabulary = world(toy_sids, tied=False)
    dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    trainer = make_trainer(model, tokenizer, vocabulary, dataset, tmp_path, "level")
    batch = mixed_batch(trainer)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(trainer.compute_loss(model, dict(batch)), trained)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels, loss = batch["labels"][:, 1:], 0
    for ids in map(torch.tensor, vocabulary.level_token_ids):
        row, position = torch.isin(labels, ids).nonzero(as_tuple=True)
        wanted = (labels[row, position][:, None] == ids).int().argmax(dim=1)
        loss = loss + F.cross_entropy(logits[row, position][:, ids], wanted, reduction="sum")
    for one, other in zip(found, torch.autograd.grad(loss / (labels != -100).sum(), trained), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("score", "tied"), [("full", True), ("level", False)])
def test_a_resumed_run_equals_an_uninterrupted_one(toy_data, toy_sids, tmp_path, score, tied):
    states = {}
    for name, resume in (("whole", None), ("again", tmp_path / "whole" / "checkpoint-3")):
        model, tokenizer, vocabulary = world(toy_sids, tied=tied)
        dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
        trainer = make_trainer(model, tokenizer, vocabulary, dataset, tmp_path / name, score, max_steps=6)
        trainer.args.save_strategy, trainer.args.save_steps = "steps", 3
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        assert trainer.state.global_step == 6
        states[name] = {key: value.detach().clone() for key, value in model.named_parameters() if value.requires_grad}
    for key, value in states["whole"].items():
        assert torch.equal(value, states["again"][key]), key
    saved = load_file(tmp_path / "whole" / "checkpoint-6" / "adapter_model.safetensors")
    assert sum(value.numel() for value in saved.values()) == sum(value.numel() for value in states["whole"].values())


@pytest.mark.parametrize("markers", [False, True])
def test_one_target_training_feeds_the_tokens_that_evaluation_feeds(toy_data, toy_sids, tmp_path, markers):
    model, tokenizer, vocabulary = world(toy_sids, markers=markers)
    rows = next_item_dataset(toy_data.training_sequences(), vocabulary)
    trainer = make_trainer(model, tokenizer, vocabulary, rows, tmp_path, shuffle_dataset=False)
    recommender = Recommender(model, tokenizer, toy_sids, markers=markers)
    by_prompt = {}
    for sequence in toy_data.training_sequences():
        for stop in range(1, len(sequence)):
            by_prompt[next_item_prompt(sequence[:stop], vocabulary)] = sequence[:stop]
    for raw, row in zip(rows, trainer.train_dataset, strict=True):
        labels = row["labels"]
        prompt = row["input_ids"][: labels.count(-100)]
        assert prompt == encode_prompt(raw["prompt"], tokenizer) == recommender._prompt(by_prompt[raw["prompt"]], None)
        target = vocabulary.token_ids([raw["target"]])[0].tolist()[int(markers) :]
        assert row["input_ids"][len(prompt) :] == [*target, tokenizer.eos_token_id] == labels[len(prompt) :]


@pytest.mark.parametrize("score", ["full", "level"])
def test_the_toy_world_is_learnt(toy_data, toy_sids, tmp_path, score):
    model, tokenizer, vocabulary = world(toy_sids, rank=16)
    sequences = toy_data.training_sequences()
    dataset = dense_dataset(sequences, vocabulary, tokenizer)
    make_trainer(
        model, tokenizer, vocabulary, dataset, tmp_path, score, max_steps=100, per_device_train_batch_size=30,
        learning_rate=5e-3, lr_scheduler_type="cosine", warmup_steps=10,
    ).train()  # fmt: skip
    cases = toy_data.cases("test")
    # A random base knows nothing of longer prompts than it was trained on: training histories hold two items at most.
    recommender = Recommender(model, tokenizer, toy_sids, max_history=2, score=score)
    ranked = {
        "model": recommender.rank(cases.histories, k=5),
        "popularity": Popularity(sequences, len(toy_sids)).recommend(cases.histories, k=5),
    }
    row = {
        name: evaluate_recommendations(r, cases.users, cases.targets, items=len(toy_sids), ks=[1, 5])
        for name, r in ranked.items()
    }
    assert row["model"]["recall@1"] > 0.8 > 0.3 > row["popularity"]["recall@1"]
    assert row["model"]["recall@5"] > 0.9 > 0.5 > row["popularity"]["recall@5"]
    assert row["model"]["invalid_rate"] == row["model"]["duplicate_rate"] == 0


def test_what_the_trainer_cannot_do_raises(toy_sids, tmp_path):
    model, tokenizer, vocabulary = world(toy_sids)
    dataset = Dataset.from_dict({"input_ids": [[5, 6]], "labels": [[-100, 6]]})
    with pytest.raises(ValueError, match="score='trie'"):
        make_trainer(model, tokenizer, vocabulary, dataset, tmp_path, "trie")
    for name in ("logit_scale", "logits_scaling"):
        model, tokenizer, vocabulary = world(toy_sids)
        setattr(model.config, name, 0.5)
        with pytest.raises(ValueError, match=f"scales its logits .*{name}.*0.5"):
            make_trainer(model, tokenizer, vocabulary, dataset, tmp_path, "level")


def test_an_example_longer_than_max_length_is_refused_instead_of_cut(toy_data, toy_sids, tmp_path):
    model, tokenizer, vocabulary = world(toy_sids)
    dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    with pytest.raises(ValueError, match="does not fit into 5"):
        make_trainer(model, tokenizer, vocabulary, dataset, tmp_path, max_length=5)
