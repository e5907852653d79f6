"""Training LLaRA: the loss by hand, the curriculum as it is realised, prompts without vectors, a toy world learnt."""

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from peft import LoraConfig
from trl import SFTConfig

from genrec_hf import Recommender, SidVocabulary
from genrec_hf.models import LlaraForCausalLM, start_adapter
from genrec_hf.tasks import dense_dataset
from genrec_hf.training.llara_training import LlaraSftTrainer, remove_vectors

VECTORS = np.random.default_rng(0).normal(size=(24, 6))


def make_trainer(toy_data, toy_sids, folder, inner=None, vectors=VECTORS, passes=1, **own):
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    inner = make_model() if inner is None else inner
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer, inner, init="random")
    model = LlaraForCausalLM.from_language_model(inner, vectors)
    first = model.config.first_vector
    settings = {"per_device_train_batch_size": 8, "max_steps": 3, "learning_rate": 1e-2, "logging_steps": 1}
    settings |= {name: own.pop(name) for name in list(own) if name in SFTConfig.__dataclass_fields__}
    arguments = SFTConfig(
        str(folder),
        report_to="none",
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        disable_tqdm=True,
        save_strategy="no",
        **{"max_length": None, **settings},
    )
    sequences = toy_data.training_sequences()
    dataset = dense_dataset(sequences, vocabulary, tokenizer, max_history=40, passes=passes, first_vector=first)
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0)
    return LlaraSftTrainer(
        start_adapter(model, vocabulary, lora),
        arguments,
        train_dataset=dataset,
        processing_class=tokenizer,
        vocabulary=vocabulary,
        **own,
    )


def test_a_batch_without_vectors_is_that_of_prompts_that_never_had_any(toy_data, toy_sids, tmp_path):
    trainer = make_trainer(toy_data, toy_sids, tmp_path)
    first = trainer.model.get_base_model().config.first_vector
    rows = [dict(row) for row in trainer.train_dataset.select(range(4))]
    batch = trainer.data_collator(rows)
    without = torch.tensor([True, False, True, False])
    found = remove_vectors(batch, first, without)
    expected = []
    for row, bare in zip(rows, without.tolist(), strict=True):
        kept = [place for place, token in enumerate(row["input_ids"]) if token < first or not bare]
        expected.append({name: [row[name][place] for place in kept] for name in ("input_ids", "labels")})
    assert any(token >= first for token in expected[1]["input_ids"]) and expected[0] != rows[0]
    for row, ids in enumerate(found["input_ids"]):
        length = len(expected[row]["input_ids"])
        assert ids[:length].tolist() == expected[row]["input_ids"]
        assert found["labels"][row, :length].tolist() == expected[row]["labels"]
        assert found["attention_mask"][row].tolist() == [1] * length + [0] * (len(ids) - length)
        assert (found["labels"][row, length:] == -100).all()
    everyone = remove_vectors(batch, first, torch.ones(4, dtype=torch.bool))
    assert everyone["input_ids"].shape[1] == max(len(row["input_ids"]) for row in expected[::2])


@pytest.mark.parametrize("curriculum", [0.0, 0.5, 1.0])
def test_the_realised_share_of_hybrid_prompts_rises_over_the_whole_run(
    curriculum, toy_data, toy_sids, tmp_path, monkeypatch
):
    shares = []
    trainer = make_trainer(
        toy_data, toy_sids, tmp_path, max_steps=40, curriculum=curriculum, per_device_train_batch_size=30
    )
    first, before = trainer.model.get_base_model().config.first_vector, LlaraForCausalLM.embed

    def embed(self, input_ids):
        shares.append((trainer.state.global_step, (input_ids >= first).any(dim=1).float().mean().item()))
        return before(self, input_ids)

    monkeypatch.setattr(LlaraForCausalLM, "embed", embed)
    trainer.train()
    steps, found = np.array(shares).T
    wanted = np.ones(40) if not curriculum else np.minimum(1, np.arange(40) / (40 * curriculum))
    assert steps.tolist() == list(range(40))
    assert np.abs(found - wanted).max() < 0.35 and np.abs(found - wanted).mean() < 0.08
    if curriculum:
        assert found[0] == 0 and found[:13].mean() < found[13:26].mean() <= found[26:].mean()
    assert trainer.hybrid_share == 1


def test_the_same_examples_are_hybrid_when_a_step_is_taken_again(toy_data, toy_sids, tmp_path):
    trainer = make_trainer(toy_data, toy_sids, tmp_path, curriculum=1.0)
    trainer.state.max_steps, first = 10, trainer.model.get_base_model().config.first_vector
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset.select(range(8))])
    drawn = []
    for step in (4, 5, 4):
        trainer.state.global_step = step
        drawn.append(trainer._apply_curriculum(batch, first)["input_ids"])
    assert torch.equal(drawn[0], drawn[2]) and not (
        drawn[0].shape == drawn[1].shape and torch.equal(drawn[0], drawn[1])
    )


def test_every_weight_of_a_whole_model_trains_without_an_adapter(toy_data, toy_sids, tmp_path):
    adapted = make_trainer(toy_data, toy_sids, tmp_path, curriculum=0.5)
    model = LlaraForCausalLM.from_language_model(make_model(vocabulary=340), VECTORS, vector_dropout=0.5)
    trainer = LlaraSftTrainer(
        model,
        adapted.args,
        train_dataset=adapted.train_dataset,
        processing_class=adapted.processing_class,
        vocabulary=SidVocabulary(toy_sids).bind(adapted.processing_class),
        curriculum=0.5,
    )
    model.config.first_vector = adapted.model.get_base_model().config.first_vector
    before = {name: each.clone() for name, each in model.named_parameters()}
    trainer.train()
    assert not [name for name, each in model.named_parameters() if torch.equal(each, before[name])]


@pytest.mark.parametrize("normalization", ["full", "level"])
def test_the_loss_is_next_items_plus_the_weighted_alignment(normalization, toy_data, toy_sids, tmp_path):
    plain = make_trainer(toy_data, toy_sids, tmp_path, normalization=normalization)
    text = plain.model.get_base_model().text_vectors([[4, item + 5] for item in range(24)])
    text[3] = 0  # an item without text
    aligned = make_trainer(toy_data, toy_sids, tmp_path, normalization=normalization, alignment=0.5, text_vectors=text)
    batch = plain.data_collator([dict(row) for row in plain.train_dataset.select(range(4))])
    for trainer in (plain, aligned):
        trainer.model.eval()
    difference = aligned.compute_loss(aligned.model, batch) - plain.compute_loss(plain.model, batch)
    network = aligned.model.get_base_model()
    torch.testing.assert_close(difference, 0.5 * network.alignment(batch["input_ids"], text), atol=1e-5, rtol=1e-4)


def test_accumulated_batches_add_up_to_one(toy_data, toy_sids, tmp_path):
    text = torch.randn(24, 32)
    common = {"alignment": 0.3, "text_vectors": text, "max_steps": 1, "learning_rate": 1e-3}
    losses = []
    for batch, steps in ((8, 1), (4, 2)):
        trainer = make_trainer(
            toy_data,
            toy_sids,
            tmp_path,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            **common,
        )
        trainer.model.get_base_model().config.vector_dropout = 0.0
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    # Each batch has its own mean over items; the batches of the toy hold nearly the same ones.
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_the_toy_world_is_learnt(toy_data, toy_sids, tmp_path):
    """From text to hybrid prompts; every parameter that is to be trained changes, and no other."""
    trainer = make_trainer(
        toy_data, toy_sids, tmp_path, vectors=np.eye(24), normalization="level", max_steps=150, learning_rate=5e-3,
        lr_scheduler_type="cosine", curriculum=0.3,
    )  # fmt: skip
    before = {name: each.clone() for name, each in trainer.model.named_parameters()}
    trainer.train()
    for name, each in trainer.model.named_parameters():
        assert (not torch.equal(each, before[name])) == each.requires_grad, name
    cases = toy_data.cases("test")
    # A random base knows nothing of longer prompts than it was trained on: training histories hold two items at most.
    recommender = Recommender(trainer.model, trainer.processing_class, toy_sids, max_history=2, normalization="level")
    assert (recommender.rank(cases.histories, 1).items[:, 0] == cases.targets).mean() > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"curriculum": 1.5}, "got curriculum=1.5"),
        ({"alignment": -1.0}, "alignment=-1.0"),
        ({"alignment": 1.0}, "without text_vectors"),
        ({"curriculum": 0.5, "packing": True}, "got curriculum=0.5 with packing=True"),
        ({"max_length": 20}, r"an example of \d+ tokens, which does not fit into 20"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message, toy_data, toy_sids, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(toy_data, toy_sids, tmp_path, **settings)


def test_a_model_without_vectors_is_refused(toy_data, toy_sids, tmp_path):
    vocabulary = SidVocabulary(toy_sids).extend(make_tokenizer(), model := make_model(), init="random")
    with pytest.raises(ValueError, match="got a LlamaForCausalLM, which reads no vectors"):
        LlaraSftTrainer(start_adapter(model, vocabulary, LoraConfig()), None, vocabulary=vocabulary)
