"""Goes on with an interrupted run, and refuses to go on with another one's checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from genrec_hf.semantic_ids import SemanticIds

SETTINGS_FILE = "run_settings.json"
# What decides the course of a run, of any of TRL's trainers; everything else (logging, saving, the kind of device) may
# change between start and rerun.
_TRAINING = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "num_train_epochs",
    "train_sampling_strategy",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "optim",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
    "max_length",
    "packing",
    "loss_type",
    "beta",
    "temperature",
    "num_generations",
)
# Arguments of recipes that only look on.
_FREE = ("watch_steps",)


def checkpoint_to_resume(
    training: TrainingArguments,
    semantic_ids: SemanticIds | None,
    *arguments: Any,
    dataset: Mapping[str, Any] | None = None,
) -> str | None:
    """The last checkpoint of the same run in `output_dir`, for `trainer.train(resume_from_checkpoint=...)`.

    The settings of a run are written down when it starts. A rerun with equal settings goes on where it stopped; one
    with other settings would train half a run with each, so it is refused.

    Args:
        training (`TrainingArguments`): of the run.
        semantic_ids (`SemanticIds`, *optional*): that the run trains on; `None` where it does not.
        arguments: further dataclasses that decide what the run computes.
        dataset (`Mapping`, *optional*): `InteractionData.info`, whose `fingerprint` is compared.

    Returns:
        `str` or `None`: a checkpoint folder; `None` when no whole one is there yet.

    Raises:
        ValueError: when the checkpoints there were made with other settings, or nothing says with which.
    """
    output_dir = Path(str(training.output_dir))
    file = output_dir / SETTINGS_FILE
    sids = None if semantic_ids is None else semantic_ids.fingerprint
    chosen: dict[str, Any] = {"dataset": (dataset or {}).get("fingerprint"), "semantic_ids": sids}
    chosen |= {name: getattr(training, name) for name in _TRAINING if hasattr(training, name)}
    for each in arguments:
        chosen |= {name: value for name, value in asdict(each).items() if name not in _FREE}
    ours = json.loads(json.dumps(chosen, default=str))
    checkpoint = _last_whole_checkpoint(output_dir)
    if checkpoint is None:
        # One process writes, or another could read half a file.
        if training.process_index == 0:
            output_dir.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(ours, indent=2), encoding="utf-8")
        return None
    if not file.is_file():
        raise ValueError(
            f"{output_dir} holds checkpoints and no {SETTINGS_FILE}, so nothing says what they were trained with; "
            "choose another output_dir or delete that one"
        )
    there = json.loads(file.read_text(encoding="utf-8"))
    differing = [key for key in {**there, **ours} if there.get(key) != ours.get(key)]
    if differing:
        key = differing[0]
        raise ValueError(
            f"{output_dir} holds checkpoints of a run with {key}={there.get(key)!r}, and this one has "
            f"{ours.get(key)!r}: going on would mix the two; choose another output_dir or delete that one"
        )
    return str(checkpoint)


def _last_whole_checkpoint(output_dir: Path) -> Path | None:
    # The trainer writes its state last, so a folder without it is of a run that ended while it saved.
    folders = [file.parent for file in output_dir.glob("checkpoint-*/trainer_state.json")]
    steps = {int(folder.name.split("-")[1]): folder for folder in folders if folder.name.split("-")[1].isdigit()}
    return steps[max(steps)] if steps else None
