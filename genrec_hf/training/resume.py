"""Goes on with an interrupted run, and refuses to go on with another one's checkpoints."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from genrec_hf.semantic_ids import SemanticIds

SETTINGS_FILE = "run_settings.json"
# What decides the course of a run; everything else (logging, saving, devices) may change between start and rerun.
_TRAINING = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "seed",
)


def checkpoint_to_resume(training: TrainingArguments, semantic_ids: SemanticIds, *arguments: Any) -> str | None:
    """The last checkpoint of the same run in `output_dir`, for `trainer.train(resume_from_checkpoint=...)`.

    The settings of a run are written down when it starts. A rerun with equal settings goes on where it stopped; one
    with other settings would train half a run with each, so it is refused.

    Args:
        training (`TrainingArguments`): of the run.
        semantic_ids (`SemanticIds`): that the run trains on.
        arguments: further dataclasses that decide what the run computes.

    Returns:
        `str` or `None`: a checkpoint folder; `None` when there is none yet.

    Raises:
        ValueError: when the checkpoints there were made with other settings.
    """
    output_dir = Path(training.output_dir)
    file = output_dir / SETTINGS_FILE
    chosen: dict[str, Any] = {"semantic_ids": semantic_ids.fingerprint}
    chosen |= {name: getattr(training, name) for name in _TRAINING}
    for each in arguments:
        chosen |= asdict(each)
    ours = json.loads(json.dumps(chosen, default=str))
    checkpoint = get_last_checkpoint(str(output_dir)) if output_dir.is_dir() else None
    if checkpoint is not None and file.is_file():
        there = json.loads(file.read_text(encoding="utf-8"))
        differing = [key for key in {**there, **ours} if there.get(key) != ours.get(key)]
        if differing:
            key = differing[0]
            raise ValueError(
                f"{output_dir} holds checkpoints of a run with {key}={there.get(key)!r}, and this one has "
                f"{ours.get(key)!r}: going on would mix the two; choose another output_dir or delete that one"
            )
    output_dir.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(ours, indent=2), encoding="utf-8")
    return checkpoint
