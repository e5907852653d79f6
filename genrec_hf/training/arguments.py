"""Training settings: TRL's configs with other defaults, refusing the options that have no effect in a recipe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available, logging
from trl import GRPOConfig, ModelConfig, SFTConfig

from genrec_hf.models.checkpoints import ADAPTER_CONFIG
from genrec_hf.repositories import read_json
from genrec_hf.training import refused_options
from genrec_hf.training.refused_options import refuse_options

logger = logging.get_logger(__name__)


@dataclass
class SftTrainingArguments(SFTConfig):
    """`SFTConfig` with defaults for a new LoRA adapter and new rows of the embedding.

    TRL's default learning rate is meant for all weights of a model; this one is higher. `use_cpu`, `bf16` and
    `activation_checkpointing` follow the device: bfloat16 on a GPU that supports it and float32 elsewhere, no
    checkpointing on a CPU, where memory is not scarce. Options without effect are refused, see
    `refused_options.SFT`.

    Raises:
        ValueError: an option of `refused_options.SFT` is set, or `activation_offloading` on a CPU.
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(
        default=0.03, metadata={"help": "Number of warmup steps; a value below 1 is a fraction of all steps."}
    )
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Number of examples per device and step."})
    activation_checkpointing: bool | None = field(
        default=None,
        metadata={
            "help": "Recompute activations in the backward pass to save memory; by default on a GPU and not on a CPU."
        },
    )
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Former name of activation_checkpointing; refused."}
    )

    def __post_init__(self) -> None:
        refuse_options(self, refused_options.SFT)
        _fit_to_device(self)
        if self.activation_checkpointing is None:
            self.activation_checkpointing = not self.use_cpu
        if self.activation_offloading and self.use_cpu:
            raise ValueError("got activation_offloading=True on a CPU, where activations already are: leave it out")
        super().__post_init__()


@dataclass
class GrpoTrainingArguments(GRPOConfig):
    """`GRPOConfig` with defaults for an adapter that was trained by SFT and for completions that are items.

    TRL's default learning rate is meant for all weights of a model, and its batch holds one prompt; completions of a
    few tokens allow larger batches. Precision follows the device, see `SftTrainingArguments`; dropout and activation
    checkpointing are off, as the trainer requires. Options without effect are refused, see `refused_options.GRPO`.

    Raises:
        ValueError: an option of `refused_options.GRPO` is set.
    """

    refused: ClassVar = refused_options.GRPO

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="constant_with_warmup", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(
        default=0.03, metadata={"help": "Number of warmup steps; a value below 1 is a fraction of all steps."}
    )
    per_device_train_batch_size: int = field(
        default=128, metadata={"help": "Number of completions per device and step, a multiple of num_generations."}
    )
    num_generations: int = field(default=16, metadata={"help": "Number of completions per prompt."})
    beta: float = field(default=0.1, metadata={"help": "Weight of the KL divergence from the initial model."})
    disable_dropout: bool = field(
        default=True, metadata={"help": "Dropout is always off, so that completions are scored as they were sampled."}
    )
    activation_checkpointing: bool | None = field(
        default=False, metadata={"help": "Always off: it would drop the prompt cache that a group shares."}
    )
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Former name of activation_checkpointing; refused."}
    )

    def __post_init__(self) -> None:
        refuse_options(self, self.refused)
        _fit_to_device(self)
        super().__post_init__()


@dataclass
class DpoTrainingArguments(GrpoTrainingArguments):
    """`GrpoTrainingArguments` for DPO and S-DPO (arXiv:2406.09215), whose `beta` it has; options of GRPO are refused.

    Raises:
        ValueError: an option of `refused_options.DPO` is set.
    """

    refused: ClassVar = refused_options.DPO

    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    num_generations: int = field(
        default=16, metadata={"help": "Number of items per group, the target included; 2 is DPO, more is S-DPO."}
    )
    beta: float = field(default=1.0, metadata={"help": "Factor on the log-ratios to the reference model."})


@dataclass
class ModelArguments(ModelConfig):
    """`ModelConfig` with LoRA on. Settings of a new adapter are refused where an existing adapter is continued.

    Raises:
        ValueError: an option of `refused_options` for models is set that has no effect with the others, or differs
            from the adapter that is continued.
    """

    use_peft: bool = field(default=True, metadata={"help": "Train a LoRA adapter and the rows of the SID tokens."})

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_options(self, refused_options.MODEL)
        if not self.load_in_4bit:
            refuse_options(self, refused_options.FOUR_BIT)
        if not self.use_peft:
            refuse_options(
                self, dict.fromkeys(refused_options.LORA, "no adapter trains with use_peft: false; leave it out")
            )
        folder = Path(self.model_name_or_path or "")
        if self.model_name_or_path and folder.is_dir():
            refuse_options(
                self,
                {"model_revision": f"{self.model_name_or_path} is a local folder without revisions; leave it out"},
            )
            self._refuse_other_adapter(folder / ADAPTER_CONFIG)

    def _refuse_other_adapter(self, file: Path) -> None:
        if not file.is_file():
            return
        adapter_config = read_json(file)
        reason = "the adapter in {} keeps its {}={!r}; leave it out, or merge the adapter first with merge_adapter.py"
        for name, key in refused_options.LORA.items():
            value, saved = getattr(self, name), adapter_config.get(key)
            if value != saved and not (isinstance(value, list) and sorted(value) == sorted(saved or [])):
                refuse_options(self, {name: reason.format(self.model_name_or_path, key, saved)})


def _fit_to_device(training: TrainingArguments) -> None:
    """Set `use_cpu`, and `bf16` where it was not given, to what the device supports."""
    no_device = not torch.accelerator.is_available()
    training.use_cpu = training.use_cpu or no_device or parse_flag_from_env("ACCELERATE_USE_CPU")
    if training.bf16 is None:
        training.bf16 = not training.use_cpu and not training.fp16 and is_torch_bf16_gpu_available()
    if training.bf16 and training.use_cpu and not cpu_has_bfloat16():
        logger.warning_once(
            "got bf16=True on a CPU without bfloat16 instructions, where a step takes many times as long as in "
            "float32: set bf16: false"
        )


def cpu_has_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16; without them it is emulated, slowly."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
