"""`SidSftTrainer`: both losses against arithmetic, what trains and what does not, resuming, and a toy world learnt."""

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from chat_templates import MISTRAL, QWEN3
from conftest import make_model, make_tokenizer
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import BitsAndBytesConfig
from trl import ModelConfig, SFTConfig

from genrec_hf import Recommender, SidVocabulary, load_recommender
from genrec_hf.evaluation import Popularity, evaluate_recommendations
from genrec_hf.hub import save_trained
from genrec_hf.models import load_for_training, start_adapter
from genrec_hf.tasks import (
    GROUNDING,
    Mixture,
    dense_dataset,
    encode_prompt,
    make_sources,
    next_item_prompt,
)
from genrec_hf.training.sft import SidSftTrainer, _refuse_fsdp

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: pip install genrec_hf[quantization]"
)
FAMILIES = [("llama", True), ("llama", False), ("qwen2", True), ("qwen3", False)]


def world(sids, family="llama", tied=True, markers=False, rank=4):
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = make_model(family, tied)
    vocabulary = SidVocabulary(sids, markers=markers).extend(tokenizer, model, init="random")
    return start_adapter(model, vocabulary, LoraConfig(r=rank, lora_alpha=2 * rank)), tokenizer, vocabulary


def quantized_world(sids, base, tied=True, **settings):
    """As a recipe loads it: linear layers in 4 bits. Those run on a CPU in multiples of 64 columns."""
    if not (base / "adapter_config.json").exists():
        make_model(tied=tied, width=64).save_pretrained(base)
        make_tokenizer().save_pretrained(base)
    vocabulary = SidVocabulary(sids)
    settings = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0, "load_in_4bit": True, **settings}
    model, tokenizer = load_for_training(ModelConfig(str(base), **settings), vocabulary, init="random")
    return model, tokenizer, vocabulary


def make_trainer(
    model,
    tokenizer,
    vocabulary,
    dataset,
    output_dir,
    normalization="full",
    vocabulary_fraction=1.0,
    eval_dataset=None,
    **settings,
):
    settings = {
        "per_device_train_batch_size": 8,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "bf16": False,
        "activation_checkpointing": False,
        **settings,
    }
    arguments = SFTConfig(
        output_dir=str(output_dir),
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        seed=0,
        **settings,
    )
    return SidSftTrainer(
        model,
        arguments,
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        vocabulary=vocabulary,
        normalization=normalization,
        vocabulary_fraction=vocabulary_fraction,
    )


def histories(data):
    """All that come before a training event."""
    return [sequence[:stop] for sequence in data.training_sequences() for stop in range(1, len(sequence))]


def parameters(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def check_what_changed(model, before, vocabulary, tied):
    """LoRA on every linear layer and every SID row, in the head too where it is untied, and nothing else."""
    meant = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    seen = set()
    for name, parameter in model.named_parameters():
        changed = ~torch.isclose(parameter, before[name], rtol=0, atol=0)
        if "trainable_tokens_delta" in name:
            assert changed.any(dim=1).all(), name
            assert parameter.shape == (len(vocabulary.tokens), model.config.hidden_size)
            seen.add(name.split(".token_adapter")[0].rsplit(".", 1)[-1])
        elif ".lora_" in name:
            assert changed.any() and parameter.requires_grad, name
            seen.add(name.split(".lora_")[0].rsplit(".", 1)[-1])
        else:
            assert not changed.any() and not parameter.requires_grad, name
    assert seen == meant | ({"embed_tokens"} if tied else {"embed_tokens", "lm_head"})


@pytest.mark.parametrize(("family", "tied"), FAMILIES)
@pytest.mark.parametrize("normalization", ["full", "level"])
def test_every_parameter_meant_to_train_changed_and_no_other(
    toy_data, toy_sids, tmp_path, family, tied, normalization
):
    model, tokenizer, vocabulary = world(toy_sids, family, tied)
    dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    before = parameters(model)
    make_trainer(
        model, tokenizer, vocabulary, dataset, tmp_path, normalization, per_device_train_batch_size=60
    ).train()
    check_what_changed(model, before, vocabulary, tied)


def mixed_batch(trainer):
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


@pytest.mark.parametrize(("family", "tied"), FAMILIES)
@pytest.mark.parametrize("normalization", ["full", "level"])
def test_loss_equals_arithmetic_on_the_plain_logits(toy_data, toy_sids, tmp_path, family, tied, normalization):
    # Grounding rows: targets are text, SIDs and the end token.
    model, tokenizer, vocabulary = world(toy_sids, family, tied)
    dataset = Mixture(GROUNDING, make_sources(toy_data, vocabulary, tokenizer)).dataset()
    trainer = make_trainer(
        model, tokenizer, vocabulary, dataset, tmp_path, normalization, per_device_train_batch_size=16
    )
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
        for ids in vocabulary.level_token_ids if normalization == "level" else []:
            if target in torch.tensor(ids):
                rivals = torch.tensor(ids)
        costs.append((here[rivals].logsumexp(dim=0) - here[target]).item())
    assert found == pytest.approx(np.mean(costs), rel=1e-5)
    if normalization == "full":
        assert found == pytest.approx(plain.loss.item(), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_share_of_the_sids_learns_against_words(toy_data, toy_sids, tmp_path, family):
    """In expectation loss and gradient are those of the whole vocabulary; exactly those where it does not train."""
    found = {}
    for share in (1.0, 0.25):
        model, tokenizer, vocabulary = world(toy_sids, family, tied=family == "llama")
        dataset = Mixture(GROUNDING, make_sources(toy_data, vocabulary, tokenizer)).dataset()
        settings = {"vocabulary_fraction": share, "per_device_train_batch_size": 16}
        trainer = make_trainer(model, tokenizer, vocabulary, dataset, tmp_path, **settings)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        batch = mixed_batch(trainer)
        model.eval()
        loss = trainer.compute_loss(model, dict(batch))
        exact = [loss.detach(), *torch.autograd.grad(loss, trained)]
        model.train()
        mean = [torch.zeros_like(each) for each in exact]
        torch.manual_seed(0)
        for _ in range(1 if share == 1 else 400):
            loss = trainer.compute_loss(model, dict(batch))
            for total, part in zip(mean, [loss.detach(), *torch.autograd.grad(loss, trained)], strict=True):
                total += part / (1 if share == 1 else 400)
        found[share] = exact, mean
    for one, other in zip(found[1.0][0], found[0.25][0], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    for one, other in zip(found[1.0][1], found[0.25][1], strict=True):
        assert (one - other).norm() < 0.1 * one.norm() + 1e-6


@pytest.mark.parametrize(("normalization", "share"), [("full", 0.0), ("full", 1.5), ("level", 0.5)])
def test_a_share_of_nothing_is_refused(toy_data, toy_sids, tmp_path, normalization, share):
    model, tokenizer, vocabulary = world(toy_sids)
    dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    with pytest.raises(ValueError, match=f"got vocabulary_fraction={share} with normalization='{normalization}'"):
        make_trainer(model, tokenizer, vocabulary, dataset, tmp_path, normalization, vocabulary_fraction=share)


@pytest.mark.parametrize("normalization", ["full", "level"])
def test_the_loss_over_a_sharded_head_is_the_same(toy_data, toy_sids, tmp_path, normalization, monkeypatch):
    found = []
    for sharded in (False, True):
        monkeypatch.setattr("genrec_hf.training.sft.is_deepspeed_zero3_enabled", lambda sharded=sharded: sharded)
        model, tokenizer, vocabulary = world(toy_sids, tied=False)
        dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
        trainer = make_trainer(model, tokenizer, vocabulary, dataset, tmp_path, normalization)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        calls = []
        model.get_base_model().get_output_embeddings().register_forward_hook(lambda *_, calls=calls: calls.append(1))
        loss = trainer.compute_loss(model, dict(mixed_batch(trainer)))
        # No target is text, and a head in shards is called for text all the same, or other processes would wait.
        assert len(calls) == {"full": 0, "level": 2}[normalization] + sharded
        found.append([loss, *torch.autograd.grad(loss, trained)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("fsdp2", "tied"), [(True, True), (False, True), (False, False)])
def test_fsdp_is_refused_where_rows_do_not_train(fsdp2, tied):
    accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP, is_fsdp2=fsdp2)
    with pytest.raises(ValueError, match=f"got FSDP{1 + fsdp2} and tie_word_embeddings={tied}: .*zero3"):
        _refuse_fsdp(accelerator, make_model(tied=tied))
    _refuse_fsdp(SimpleNamespace(distributed_type=DistributedType.FSDP, is_fsdp2=True), make_model(tied=False))


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


@pytest.mark.parametrize(("normalization", "tied"), [("full", True), ("level", False)])
def test_a_resumed_run_equals_an_uninterrupted_one(toy_data, toy_sids, tmp_path, normalization, tied):
    states = {}
    for name, resume in (("whole", None), ("again", tmp_path / "whole" / "checkpoint-3")):
        model, tokenizer, vocabulary = world(toy_sids, tied=tied)
        dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
        trainer = make_trainer(model, tokenizer, vocabulary, dataset, tmp_path / name, normalization, max_steps=6)
        trainer.args.save_strategy, trainer.args.save_steps = "steps", 3
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        assert trainer.state.global_step == 6
        states[name] = {key: value.detach().clone() for key, value in model.named_parameters() if value.requires_grad}
    for key, value in states["whole"].items():
        assert torch.equal(value, states["again"][key]), key
    saved = load_file(tmp_path / "whole" / "checkpoint-6" / "adapter_model.safetensors")
    assert sum(value.numel() for value in saved.values()) == sum(value.numel() for value in states["whole"].values())


# Memory savers: a quantized base, activation checkpointing, bfloat16


@needs_bitsandbytes
@pytest.mark.parametrize(
    ("tied", "normalization"), [(True, "full"), (True, "level"), (False, "full"), (False, "level")]
)
def test_on_a_quantized_base_lora_and_sid_rows_train_in_float32(toy_data, toy_sids, tmp_path, tied, normalization):
    model, tokenizer, vocabulary = quantized_world(toy_sids, tmp_path / "base", tied)
    layers = {type(part).__name__ for name, part in model.named_modules() if name.endswith("proj.base_layer")}
    assert layers == {"Linear4bit"}
    dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    before = parameters(model)
    make_trainer(
        model,
        tokenizer,
        vocabulary,
        dataset,
        tmp_path,
        normalization,
        per_device_train_batch_size=60,
        learning_rate=1e-5,
    ).train()
    check_what_changed(model, before, vocabulary, tied)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32, name
            # Three steps of Adam; rounding a value of .1 to bfloat16 would move it by up to 2e-4.
            assert (parameter - before[name]).abs().max() < 3.1e-5, name
        else:
            is_linear = name.endswith("proj.base_layer.weight")
            assert parameter.dtype == (torch.uint8 if is_linear else torch.float32), name


@needs_bitsandbytes
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_quantized_run_loads_as_it_was_and_goes_on_training(toy_data, toy_sids, tmp_path, tied):
    model, tokenizer, vocabulary = quantized_world(toy_sids, tmp_path / "base", tied)
    dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
    trainer = make_trainer(model, tokenizer, vocabulary, dataset, tmp_path / "out")
    trainer.train()
    save_trained(trainer, toy_sids, max_history=5, normalization="full")
    ids = torch.tensor([[5, 6, 7, *vocabulary.all_token_ids]])
    with torch.no_grad():
        expected = model.eval()(ids).logits
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        exact = load_recommender(tmp_path / "out", quantization_config=quantization)
        plain = load_recommender(tmp_path / "out")
        assert torch.equal(exact.model(ids).logits, expected)
        assert exact.network.is_loaded_in_4bit and not hasattr(plain.network, "is_loaded_in_4bit")
        assert {parameter.dtype for parameter in plain.model.parameters()} == {torch.float32}
        # Four bits are a coarse grid: near, not equal.
        assert 0 < (plain.model(ids).logits - expected).abs().max() < 0.2 * expected.abs().max()
    assert len(plain.recommend([["i0", "i1"]], k=4)[0]) == 4
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| Base model in training | nf4; loaded unquantized unless `quantization_config` is given |" in card

    again, _, vocabulary = quantized_world(toy_sids, tmp_path / "out")
    before = parameters(again)
    ended = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert again.is_loaded_in_4bit and ended.keys() == {n for n, p in again.named_parameters() if p.requires_grad}
    assert all(torch.equal(before[name], value) for name, value in ended.items())
    make_trainer(again, tokenizer, vocabulary, dataset, tmp_path, per_device_train_batch_size=60).train()
    check_what_changed(again, before, vocabulary, tied)


@pytest.mark.parametrize(("normalization", "tied"), [("full", True), ("level", False)])
@pytest.mark.parametrize(
    "quantized", [False, pytest.param(True, marks=needs_bitsandbytes)], ids=["float32", "quantized"]
)
def test_activation_checkpointing_changes_no_result(toy_data, toy_sids, tmp_path, normalization, tied, quantized):
    ended, losses = [], []
    for checkpointing in (False, True):
        model, tokenizer, vocabulary = (
            quantized_world(toy_sids, tmp_path / "base", tied) if quantized else world(toy_sids, tied=tied)
        )
        dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
        before = parameters(model)
        trainer = make_trainer(
            model,
            tokenizer,
            vocabulary,
            dataset,
            tmp_path,
            normalization,
            per_device_train_batch_size=60,
            activation_checkpointing=checkpointing,
        )
        losses.append(trainer.train().training_loss)
        assert trainer.model.is_activation_checkpointing is checkpointing
        check_what_changed(model, before, vocabulary, tied)
        ended.append(parameters(model))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for name, value in ended[0].items():
        torch.testing.assert_close(ended[1][name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(("normalization", "tied"), [("full", True), ("level", False)])
def test_bfloat16_trains_the_same_parameters_near_the_same_loss(toy_data, toy_sids, tmp_path, normalization, tied):
    losses = []
    for bf16, checkpointing in ((False, False), (True, False), (True, True)):
        model, tokenizer, vocabulary = world(toy_sids, tied=tied)
        dataset = dense_dataset(toy_data.training_sequences(), vocabulary, tokenizer)
        before = parameters(model)
        trainer = make_trainer(
            model, tokenizer, vocabulary, dataset, tmp_path, normalization, per_device_train_batch_size=60, bf16=bf16,
            activation_checkpointing=checkpointing,
        )  # fmt: skip
        losses.append(trainer.train().training_loss)
        check_what_changed(model, before, vocabulary, tied)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert losses[1] == pytest.approx(losses[0], rel=1e-2) and losses[1] != losses[0]
    assert losses[2] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("markers", [False, True])
def test_one_target_training_feeds_the_tokens_that_evaluation_feeds(toy_data, toy_sids, tmp_path, markers):
    model, tokenizer, vocabulary = world(toy_sids, markers=markers)
    rows = Mixture(["next_item"], make_sources(toy_data, vocabulary, tokenizer)).dataset()
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


@pytest.mark.parametrize(
    ("template", "markers", "stream"),
    [(QWEN3, False, False), (QWEN3, True, True), (MISTRAL, True, False), (MISTRAL, False, True)],
)
def test_turns_are_trained_in_the_tokens_that_are_asked(toy_data, toy_sids, tmp_path, template, markers, stream):
    model, tokenizer, vocabulary = world(toy_sids, markers=markers)
    tokenizer.chat_template = template
    mixture = Mixture(["next_item"], make_sources(toy_data, vocabulary, tokenizer), form="chat")
    rows = mixture.stream() if stream else mixture.dataset()
    trainer = make_trainer(
        model, tokenizer, vocabulary, rows, tmp_path, shuffle_dataset=False, eval_dataset={"one": rows}
    )
    recommender = Recommender(model, tokenizer, toy_sids, markers=markers, form="chat")
    asked = {tuple(recommender._prompt(np.array(history), None)) for history in histories(toy_data)}
    for dataset in (trainer.train_dataset, trainer.eval_dataset["one"]):
        for row, example in zip(dataset, mixture, strict=True):
            prompt = tuple(row["input_ids"][: row["labels"].count(-100)])
            assert prompt in asked
            sid = vocabulary.token_ids([example["target"]])[0].tolist()[int(markers) :]
            assert row["input_ids"][len(prompt) :][: len(sid)] == row["labels"][len(prompt) :][: len(sid)] == sid


@pytest.mark.parametrize(
    ("name", "value"), [("completion_only_loss", False), ("chat_template_path", "other"), ("eos_token", "<|im_end|>")]
)
def test_settings_that_the_encoding_of_prompts_does_not_read_are_refused(toy_sids, tmp_path, name, value):
    model, tokenizer, vocabulary = world(toy_sids)
    rows = Dataset.from_list([{"prompt": "Who?", "completion": " You"}])
    with pytest.raises(ValueError, match=f"got {name}={value!r} with prompts and completions"):
        make_trainer(model, tokenizer, vocabulary, rows, tmp_path, **{name: value})


def test_what_is_learnt_in_turns_is_asked_without_the_thoughts_of_other_prompts(toy_data, toy_sids, tmp_path):
    model, tokenizer, vocabulary = world(toy_sids, rank=16)
    # Nothing stands between question and answer: two random layers learn to look further back in minutes only.
    tokenizer.chat_template = (
        "{% for turn in messages %}{{ turn.content }}{{ '<|im_end|>' if turn.role == 'assistant' }}{% endfor %}"
        "{{ '<|im_start|><think>' if add_generation_prompt }}"
    )
    rows = Mixture(["next_item"], make_sources(toy_data, vocabulary, tokenizer), form="chat").dataset()
    make_trainer(
        model, tokenizer, vocabulary, rows, tmp_path, "level", max_steps=80, per_device_train_batch_size=30,
        learning_rate=5e-3, lr_scheduler_type="cosine", warmup_steps=10,
    ).train()  # fmt: skip
    cases = toy_data.cases("test")
    recommender = Recommender(model, tokenizer, toy_sids, max_history=2, normalization="level", form="chat")
    ranked = recommender.rank(cases.histories, k=1).items[:, 0]
    assert (ranked == cases.targets).mean() > 0.6


@pytest.mark.parametrize("normalization", ["full", "level"])
def test_the_toy_world_is_learnt(toy_data, toy_sids, tmp_path, normalization):
    model, tokenizer, vocabulary = world(toy_sids, rank=16)
    sequences = toy_data.training_sequences()
    dataset = dense_dataset(sequences, vocabulary, tokenizer)
    make_trainer(
        model, tokenizer, vocabulary, dataset, tmp_path, normalization, max_steps=100, per_device_train_batch_size=30,
        learning_rate=5e-3, lr_scheduler_type="cosine", warmup_steps=10,
    ).train()  # fmt: skip
    cases = toy_data.cases("test")
    # A random base knows nothing of longer prompts than it was trained on: training histories hold two items at most.
    recommender = Recommender(model, tokenizer, toy_sids, max_history=2, normalization=normalization)
    ranked = {
        "model": recommender.rank(cases.histories, k=5).items,
        "popularity": Popularity(sequences, len(toy_sids)).rank(cases.histories, k=5).items,
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
    with pytest.raises(ValueError, match="got normalization='trie'; use one of full, level"):
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
