"""The defaults that recipes train with, on a CPU and on a GPU, and what committed configs make of them."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
from test_configs import CONFIGS, arguments_of, short
from transformers import TrainingArguments
from trl import GRPOConfig, ModelConfig, SFTConfig

from genrec_hf.command_line import read_arguments
from genrec_hf.training import arguments
from genrec_hf.training.arguments import (
    DpoTrainingArguments,
    GrpoTrainingArguments,
    ModelArguments,
    SftTrainingArguments,
)

TRLS_OWN = {
    SftTrainingArguments: SFTConfig,
    GrpoTrainingArguments: GRPOConfig,
    DpoTrainingArguments: GRPOConfig,
    ModelArguments: ModelConfig,
}


def values(settings):
    return settings.to_dict() if isinstance(settings, TrainingArguments) else asdict(settings)


@pytest.mark.parametrize("path", CONFIGS, ids=short)
def test_a_committed_config_says_all_that_our_defaults_change(path):
    kinds = arguments_of(path.stem)
    given = ["--config", str(path), *(["--use_cpu", "true"] if len(kinds) > 1 else [])]
    ours = read_arguments(kinds, given)
    for one, other in zip(ours, read_arguments([TRLS_OWN.get(kind, kind) for kind in kinds], given), strict=True):
        differing = {name for name, value in values(other).items() if values(one)[name] != value}
        # Which the trainer turned on in any case.
        assert differing == ({"disable_dropout"} if isinstance(one, GRPOConfig) else set())


@pytest.mark.parametrize(
    ("device", "bfloat16", "environment", "given", "expected"),
    [
        (False, False, "", {}, (True, False)),
        (False, False, "", {"bf16": True}, (True, True)),
        (True, True, "", {}, (False, True)),
        (True, True, "", {"fp16": True}, (False, False)),
        (True, True, "", {"bf16": False}, (False, False)),
        (True, False, "", {}, (False, False)),
        (True, True, "true", {}, (True, False)),
        (True, True, "", {"use_cpu": True}, (True, False)),
    ],
)
def test_precision_follows_the_device(device, bfloat16, environment, given, expected, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: device)
    monkeypatch.setattr(arguments, "is_torch_bf16_gpu_available", lambda: bfloat16)
    monkeypatch.setenv("ACCELERATE_USE_CPU", environment or "false")
    training = SimpleNamespace(**{"use_cpu": False, "bf16": None, "fp16": False, **given})
    arguments._fit_to_device(training)
    assert (training.use_cpu, training.bf16) == expected


def test_defaults_on_a_cpu(tmp_path):
    sft, grpo, dpo = (
        kind(str(tmp_path), use_cpu=True)
        for kind in (SftTrainingArguments, GrpoTrainingArguments, DpoTrainingArguments)
    )
    for training, rate in ((sft, 1e-3), (grpo, 1e-5), (dpo, 5e-5)):
        assert training.learning_rate == rate and training.get_warmup_steps(100) == 3
        assert not training.bf16 and not training.activation_checkpointing and not training.gradient_checkpointing
    assert (grpo.beta, dpo.beta, dpo.steps_per_generation) == (0.1, 1.0, 1)
    assert grpo.per_device_train_batch_size % grpo.num_generations == 0
    assert ModelArguments("base").use_peft
    assert SftTrainingArguments(str(tmp_path), use_cpu=True, activation_checkpointing=True).gradient_checkpointing
    with pytest.raises(ValueError, match="got activation_offloading=True on a CPU"):
        SftTrainingArguments(str(tmp_path), use_cpu=True, activation_offloading=True)


@pytest.mark.parametrize(("capabilities", "warned"), [({"avx512_bf16": True}, 0), ({"avx2": True}, 1), ({}, 1)])
def test_bfloat16_without_instructions_for_it_is_told(tmp_path, monkeypatch, capabilities, warned):
    told = []
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    monkeypatch.setattr(arguments.logger, "warning_once", told.append)
    for bf16 in (None, False, True):
        SftTrainingArguments(str(tmp_path), use_cpu=True, bf16=bf16, report_to="none")
    assert len(told) == warned and all("set bf16: false" in message for message in told)
