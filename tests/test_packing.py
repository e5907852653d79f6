"""Packed users do not see each other: logits, loss and gradients are those of the rows alone."""

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from datasets import Dataset
from peft import LoraConfig
from test_sft import make_trainer
from transformers import AttentionInterface
from trl import ModelConfig

from genrec_hf import SidVocabulary
from genrec_hf.models import load_for_training, start_adapter
from genrec_hf.tasks import GROUNDING, Mixture, make_sources, pretraining_dataset

KINDS = [(family, attention) for family in ("llama", "qwen2") for attention in ("sdpa", "eager")]


def world(data, sids, family="llama", attention="sdpa", tied=True):
    """A model in which attention matters, moved away from the LoRA that adds nothing."""
    tokenizer, model = make_tokenizer(), make_model(family, tied)
    model.set_attn_implementation(attention)
    vocabulary = SidVocabulary(sids).extend(tokenizer, model, init="random")
    model = start_adapter(model, vocabulary, LoraConfig(r=4))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval(), tokenizer, vocabulary, pretraining_dataset(data, vocabulary, tokenizer, max_length=128)


def packed_trainer(model, tokenizer, vocabulary, dataset, output_dir, normalization="full", **settings):
    settings = {"packing": True, "max_length": 128, "per_device_train_batch_size": 2, **settings}
    return make_trainer(model, tokenizer, vocabulary, dataset, output_dir, normalization, **settings)


def packed_batch(trainer):
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    assert len(starts) > 4, "several examples share a row"
    return batch, [slice(*ends) for ends in zip(starts, [*starts[1:], batch["input_ids"].shape[1]], strict=True)]


@torch.no_grad()
def packed_logits(model, batch):
    return model(**{key: value for key, value in batch.items() if key != "labels"}, use_cache=False).logits[0]


@pytest.mark.parametrize(("family", "attention"), KINDS)
def test_packed_logits_are_those_of_the_rows_alone(toy_data, toy_sids, tmp_path, family, attention):
    model, tokenizer, vocabulary, dataset = world(toy_data, toy_sids, family, attention)
    batch, parts = packed_batch(packed_trainer(model, tokenizer, vocabulary, dataset, tmp_path))
    known = {tuple(row) for row in dataset["input_ids"]}
    found = packed_logits(model, batch)
    for part in parts:
        alone = batch["input_ids"][:, part]
        assert tuple(alone[0].tolist()) in known, "nobody was cut"
        with torch.no_grad():
            torch.testing.assert_close(found[part], model(input_ids=alone).logits[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("family", "attention"), KINDS)
def test_another_neighbour_changes_nothing(toy_data, toy_sids, tmp_path, family, attention):
    model, tokenizer, vocabulary, dataset = world(toy_data, toy_sids, family, attention)
    batch, parts = packed_batch(packed_trainer(model, tokenizer, vocabulary, dataset, tmp_path))
    before = packed_logits(model, batch)
    for number in (0, 2):
        other = {**batch, "input_ids": batch["input_ids"].clone()}
        other["input_ids"][:, parts[number]] = 7
        after = packed_logits(model, other)
        changed = (after != before).any(dim=1)
        assert changed[parts[number]].all()
        changed[parts[number]] = False
        assert not changed.any()


@pytest.mark.parametrize(("family", "attention"), KINDS)
@pytest.mark.parametrize("normalization", ["full", "level"])
def test_packed_loss_and_gradient_are_those_of_the_rows_alone(
    toy_data, toy_sids, tmp_path, family, attention, normalization
):
    model, tokenizer, vocabulary, dataset = world(toy_data, toy_sids, family, attention)
    trainer = packed_trainer(model, tokenizer, vocabulary, dataset, tmp_path, normalization)
    batch, parts = packed_batch(trainer)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = trainer.compute_loss(model, dict(batch))
    costs = []
    for part in parts:
        ids = batch["input_ids"][0, part]
        logits = model(input_ids=ids[None]).logits[0, :-1]
        for here, target in zip(logits, ids[1:], strict=True):
            rivals = torch.arange(len(here))
            for codes in map(torch.tensor, vocabulary.level_token_ids if normalization == "level" else []):
                rivals = codes if target in codes else rivals
            costs.append(here[rivals].logsumexp(dim=0) - here[target])
    assert len(costs) == batch["input_ids"].shape[1] - len(parts), "all but the first token of each"
    expected = torch.stack(costs).mean()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    gradients = (torch.autograd.grad(loss, trained) for loss in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_every_example_is_packed_once_and_whole(toy_data, toy_sids, tmp_path):
    model, tokenizer, vocabulary, dataset = world(toy_data, toy_sids)
    packed = packed_trainer(model, tokenizer, vocabulary, dataset, tmp_path).train_dataset
    found = []
    for row in packed:
        ends = np.cumsum(row["seq_lengths"])
        assert ends[-1] == len(row["input_ids"]) <= 128
        found += [part.tolist() for part in np.split(np.array(row["input_ids"]), ends[:-1])]
    assert sorted(found) == sorted(dataset["input_ids"]) and len(packed) < len(dataset) / 2


def blind(module, query, key, value, attention_mask, **kwargs):
    """What an attention without a mask function gets: causal over the whole row."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, None, **kwargs)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_attention_across_users_is_refused_before_the_first_step(toy_data, toy_sids, tmp_path, family):
    AttentionInterface.register("blind", blind)
    model, tokenizer, vocabulary, dataset = world(toy_data, toy_sids, family, "blind")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = packed_trainer(model, tokenizer, vocabulary, dataset, tmp_path)
    with pytest.raises(ValueError, match="attn_implementation='blind', with which packed examples of this model"):
        trainer.train()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_what_packing_would_break_is_refused(toy_data, toy_sids, tmp_path):
    model, tokenizer, vocabulary, dataset = world(toy_data, toy_sids)
    text = Mixture(GROUNDING, make_sources(toy_data, vocabulary, tokenizer)).dataset()
    long = Dataset.from_dict({"input_ids": [[5] * 20]})
    for given, settings, message in [
        (dataset, {"packing_strategy": "wrapped"}, "packing_strategy='wrapped'.*use 'bfd'"),
        (dataset, {"packing_strategy": "bfd_split"}, "packing_strategy='bfd_split'"),
        (dataset, {"max_length": None}, "packing=True with max_length=None"),
        (text, {}, "examples that are text"),
        (long, {"max_length": 19}, "an example of 20 tokens, which does not fit into 19"),
    ]:
        with pytest.raises(ValueError, match=message):
            packed_trainer(model, tokenizer, vocabulary, given, tmp_path, **settings)


@pytest.mark.parametrize("stage", ["rows", "lora", "full"])
def test_a_stage_changes_what_it_names_and_a_resumed_run_equals_a_whole_one(toy_data, toy_sids, tmp_path, stage):
    make_model(tied=False).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    settings = ModelConfig(model_name_or_path=str(tmp_path / "base"), use_peft=stage != "full", lora_r=4)
    settings.dtype = "float32"
    ends = {}
    for name, resume in (("whole", None), ("again", str(tmp_path / "whole" / "checkpoint-3"))):
        vocabulary = SidVocabulary(toy_sids)
        torch.manual_seed(0)
        model, tokenizer = load_for_training(settings, vocabulary, init="mean", stage=stage)
        dataset = pretraining_dataset(toy_data, vocabulary, tokenizer, max_length=128)
        before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
        trainer = packed_trainer(model, tokenizer, vocabulary, dataset, tmp_path / name, "level", max_steps=6)
        trainer.args.save_strategy, trainer.args.save_steps = "steps", 3
        trainer.train(resume_from_checkpoint=resume)
        assert trainer.state.global_step == 6 and model.training
        ends[name] = {key: parameter.detach() for key, parameter in model.named_parameters()}
        changed = {key for key in before if not torch.equal(before[key], ends[name][key])}
        meant = {"rows": ["trainable_tokens_delta"], "lora": ["trainable_tokens_delta", ".lora_"], "full": [""]}[stage]
        assert changed == {key for key in before if any(part in key for part in meant)}
    assert all(torch.equal(value, ends["again"][key]) for key, value in ends["whole"].items())
