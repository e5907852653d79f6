"""Training settings: TRL's configs with defaults that train, and without the options that would do nothing."""

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
    """`SFTConfig` for a LoRA adapter and new rows of the embedding, which start from nothing.

    TRL's learning rate is one for the weights of a whole model. `use_cpu`, `bf16` and `activation_checkpointing`
    follow the device: bfloat16 on a GPU that has it and float32 elsewhere, activations kept on a CPU, where memory is
    not what is short. Options that the recipes would ignore are refused, see `refused_options.SFT`.
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Steps until the peak; below 1 a share of the run."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Examples a step and device."})
    activation_checkpointing: bool | None = field(
        default=None, metadata={"help": "Compute activations twice and keep few; true on a GPU if not set."}
    )
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "The former name of activation_checkpointing."}
    )

    def __post_init__(self) -> None:
        refuse_options(self, refused_options.SFT)
        _fit_to_device(self)
        if self.activation_checkpointing is None:
            self.activation_checkpointing = not self.use_cpu
        if self.activation_offloading and self.use_cpu:
            raise ValueError("got activation_offloading=True on a CPU, where activations are already; leave it out")
        super().__post_init__()


@dataclass
class GrpoTrainingArguments(GRPOConfig):
    """`GRPOConfig` for an adapter that SFT has trained and items as completions.

    TRL's learning rate is one for the weights of a whole model, and its batch holds one prompt; a completion of a few
    tokens leaves room for more. Precision follows the device, see `SftTrainingArguments`; dropout is off and
    activations are kept, which the trainer needs. What it would ignore is refused, see `refused_options.GRPO`.
    """

    refused: ClassVar = refused_options.GRPO

    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="constant_with_warmup", metadata={"help": "Schedule of the learning rate."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Steps until the peak; below 1 a share of the run."})
    per_device_train_batch_size: int = field(
        default=128, metadata={"help": "Completions a step and device, a multiple of num_generations."}
    )
    num_generations: int = field(default=16, metadata={"help": "Completions of a prompt."})
    beta: float = field(default=0.1, metadata={"help": "Weight of the KL divergence from the model as it was."})
    disable_dropout: bool = field(default=True, metadata={"help": "What scores a completion is what drew it."})
    activation_checkpointing: bool | None = field(
        default=False, metadata={"help": "Off: it would drop the cache that a group shares."}
    )
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "The former name of activation_checkpointing."}
    )

    def __post_init__(self) -> None:
        refuse_options(self, self.refused)
        _fit_to_device(self)
        super().__post_init__()


@dataclass
class DpoTrainingArguments(GrpoTrainingArguments):
    """`GrpoTrainingArguments` for preferences: `beta` as in S-DPO (arXiv:2406.09215), and what is GRPO's refused."""

    refused: ClassVar = refused_options.DPO

    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    num_generations: int = field(default=16, metadata={"help": "Items of a group, the target among them; 2 is DPO."})
    beta: float = field(default=1.0, metadata={"help": "Inverse temperature of the preference."})


@dataclass
class ModelArguments(ModelConfig):
    """`ModelConfig` with LoRA on. Settings of a new adapter are refused where an adapter goes on with its own."""

    use_peft: bool = field(default=True, metadata={"help": "Train a LoRA adapter and the rows of the SID tokens."})

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_options(self, refused_options.MODEL)
        if not self.load_in_4bit:
            refuse_options(self, refused_options.FOUR_BIT)
        if not self.use_peft:
            refuse_options(self, dict.fromkeys(refused_options.LORA, "use_peft is false, so no adapter trains"))
        folder = Path(self.model_name_or_path or "")
        if self.model_name_or_path and folder.is_dir():
            refuse_options(self, {"model_revision": f"{self.model_name_or_path} is a folder, which has no revisions"})
            self._refuse_other_adapter(folder / ADAPTER_CONFIG)

    def _refuse_other_adapter(self, file: Path) -> None:
        if not file.is_file():
            return
        there = read_json(file)
        reason = "{} goes on with its own {}={!r}; merge_adapter.py makes a base of it, on which a new one can start"
        for name, key in refused_options.LORA.items():
            wanted, own = getattr(self, name), there.get(key)
            if wanted != own and not (isinstance(wanted, list) and sorted(wanted) == sorted(own or [])):
                refuse_options(self, {name: reason.format(self.model_name_or_path, key, own)})


def _fit_to_device(training: TrainingArguments) -> None:
    """Settle `use_cpu`, and `bf16` where it was not set."""
    no_device = not torch.accelerator.is_available()
    training.use_cpu = training.use_cpu or no_device or parse_flag_from_env("ACCELERATE_USE_CPU")
    if training.bf16 is None:
        training.bf16 = not training.use_cpu and not training.fp16 and is_torch_bf16_gpu_available()
    if training.bf16 and training.use_cpu and not cpu_has_bfloat16():
        logger.warning_once(
            "bf16=True on a processor without instructions for bfloat16, where a step takes many times as long as in "
            "float32: set bf16: false"
        )


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 by instructions of its own; otherwise it is emulated, slowly."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
