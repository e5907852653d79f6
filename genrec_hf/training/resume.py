"""`Run`: resumes an interrupted training run, recognizes a finished one, and refuses to mix two runs."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy

from genrec_hf.directories import lock_directory, refuse_foreign, write_text
from genrec_hf.hub import base_of
from genrec_hf.internals.trainer import take_no_step_at_the_end
from genrec_hf.semantic_ids import SemanticIds

SETTINGS_FILE = "run_settings.json"
# Training arguments that decide what a run computes, of any of TRL's trainers; all others (logging, saving, the kind
# of device) may change between start and rerun.
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
_LENGTH = {"max_steps", "num_train_epochs"}
# Arguments of recipes that do not change what is computed.
_FREE = ("validation_steps",)
# Key of the settings file that is written with the result of a run, and the files of a result.
_FINISHED, _RESULTS = "finished", ("genrec_hf.json", "config.json")
# Optimizer states of the Trainer and FSDP, and of DeepSpeed.
_OPTIMIZER_FILES = ("*optimizer*", "global_step*")


class Run:
    """Training run in an `output_dir`: new, interrupted, or finished.

    The settings of a run are saved when it starts. A rerun with the same settings resumes from the last complete
    checkpoint, and one with more steps or epochs resumes from the end. A rerun with other settings is refused before
    anything is trained, because its result would mix two runs.

    Args:
        training (`TrainingArguments`): of the run; `resume_from_checkpoint` selects one of its checkpoints. Its
            `hub_strategy` is set to `"end"`.
        semantic_ids (`SemanticIds`, *optional*): the semantic ids that the run trains on; `None` if it uses none.
        arguments: further dataclasses that decide what the run computes.
        dataset (`Mapping`, *optional*): `InteractionData.info`, whose `fingerprint` is compared.

    Attributes:
        checkpoint (`str` or `None`): the folder to resume from; `None` if there is no complete checkpoint.

    Raises:
        ValueError: `output_dir` is the model that the run starts from, or its base; it holds checkpoints or the result
            of a run with other or unknown settings; a run with these settings could not be resumed exactly; or a
            setting has no effect.
    """

    def __init__(
        self,
        training: TrainingArguments,
        semantic_ids: SemanticIds | None,
        *arguments: Any,
        dataset: Mapping[str, Any] | None = None,
    ) -> None:
        _check_settings(training)
        # Pushes of the Trainer would upload unfinished weights, pickles and the lock file; recipes push the result.
        training.hub_strategy = HubStrategy.END
        self.training, self.output_dir = training, Path(str(training.output_dir))
        models = [name for group in arguments if (name := getattr(group, "model_name_or_path", None))]
        refuse_foreign(str(training.output_dir), sources=[*models, *map(base_of, models)])
        fingerprint = None if semantic_ids is None else semantic_ids.fingerprint
        settings: dict[str, Any] = {"dataset": (dataset or {}).get("fingerprint"), "semantic_ids": fingerprint}
        settings |= {name: getattr(training, name) for name in _TRAINING if hasattr(training, name)}
        for group in arguments:
            settings |= {name: value for name, value in asdict(group).items() if name not in _FREE}
        self.settings: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        file = self.output_dir / SETTINGS_FILE
        written: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        saved_settings = {name: value for name, value in written.items() if name != _FINISHED}
        has_result = any((self.output_dir / name).is_file() for name in _RESULTS)
        # `{"steps": 400, "planned": 400}` when the run is done.
        self._result: dict[str, int] | None = written.get(_FINISHED) if has_result else None
        self.checkpoint = self._choose_checkpoint()
        if self.checkpoint is not None and not saved_settings:
            raise ValueError(
                f"{self.output_dir} holds checkpoints and no {SETTINGS_FILE}, so the settings that they were trained "
                "with are unknown: choose another output_dir or delete that one"
            )
        if self.checkpoint is not None or self._result is not None:
            self._compare(saved_settings)
        if self._result is None and self.checkpoint is not None:
            _check_optimizer_state(Path(self.checkpoint))

    def is_finished(self) -> bool:
        """Return whether the result of this run exists, and print so on the main process.

        Returns:
            `bool`: if true, there is nothing to train.
        """
        if self._result is None:
            return False
        if self.training.process_index == 0:
            steps, planned = self._result["steps"], self._result["planned"]
            advice = "raise max_steps or num_train_epochs to train it further, or "
            if steps < planned:
                advice = f"training stopped early, before the planned {planned} steps; "
            if self.training.push_to_hub:
                advice += "push it with genrec_hf.hub.push_recommender, or "
            print(
                f"Finished: {self.output_dir} holds the result of this run after {steps} steps, so nothing was done; "
                f"{advice}choose another output_dir to start a new run."
            )
        return True

    def train(self, trainer: Trainer) -> None:
        """Save the settings, and train to the end, from `checkpoint` if there is one.

        Incomplete checkpoints of a run that was killed are deleted.

        Args:
            trainer (`Trainer`): with the `TrainingArguments` of the run.
        """
        if self.training.process_index == 0:
            self._begin()
        if self.checkpoint is not None:
            take_no_step_at_the_end(trainer)
        trainer.train(resume_from_checkpoint=self.checkpoint)

    def finish(self, trainer: Trainer) -> None:
        """Record that the run is finished, after its result was saved.

        Args:
            trainer (`Trainer`): the one that trained.
        """
        if self.training.process_index == 0:
            result = {"steps": trainer.state.global_step, "planned": trainer.state.max_steps}
            self._write(self.settings | {_FINISHED: result})

    def _choose_checkpoint(self) -> str | None:
        complete, chosen = _complete_checkpoints(self.output_dir), self.training.resume_from_checkpoint
        folder = complete[max(complete)] if complete else None
        if chosen is not None:
            matching = [path for path in complete.values() if path.resolve() == Path(chosen).resolve()]
            if not matching:
                raise ValueError(
                    f"got resume_from_checkpoint={chosen!r}, which is no complete checkpoint in {self.output_dir}: "
                    f"leave it out to resume from the last one there ({folder})"
                )
            folder = matching[0]
        return None if folder is None else str(folder)

    def _compare(self, saved_settings: Mapping[str, Any]) -> None:
        """Raise if the settings differ from the saved ones, except for a run that is to be longer."""
        keys = {**saved_settings, **self.settings}
        differing = [key for key in keys if saved_settings.get(key) != self.settings.get(key)]
        if saved_settings.get("max_steps", 0) > 0 and self.settings["max_steps"] > 0:
            differing = [key for key in differing if key != "num_train_epochs"]  # which max_steps overrides
        if not differing:
            return
        key = differing[0]
        difference = f"{key}={saved_settings.get(key)!r}, and this one has {self.settings.get(key)!r}"
        if not _is_longer(saved_settings, self.settings, differing):
            content, reason = ("checkpoints", "resuming would mix the two")
            if self.checkpoint is None:
                content, reason = "the result", "it would be replaced"
            raise ValueError(
                f"{self.output_dir} holds {content} of a run with {difference}: {reason}; choose another output_dir "
                "or delete that one"
            )
        if self._result is not None and self._result["steps"] < self._result["planned"]:
            return
        if self.checkpoint is None:
            raise ValueError(
                f"{self.output_dir} holds the result of a run with {difference}, and no checkpoint to resume from: "
                "choose another output_dir or delete that one"
            )
        self._result = None
        if self.training.process_index == 0:
            print(
                f"Resuming from {self.checkpoint}, of a run with {difference}. The learning rate schedule "
                f"({self.settings['lr_scheduler_type']}) follows the new length from here on."
            )

    def _begin(self) -> None:
        with lock_directory(self.output_dir):
            incomplete = set(_checkpoints(self.output_dir)) - set(_complete_checkpoints(self.output_dir).values())
            # Without the settings file they belong to another program.
            for folder in incomplete if (self.output_dir / SETTINGS_FILE).is_file() else ():
                shutil.rmtree(folder)
            self._write(self.settings)

    def _write(self, settings: Mapping[str, Any]) -> None:
        write_text(self.output_dir / SETTINGS_FILE, json.dumps(settings, indent=2))


def _check_settings(training: TrainingArguments) -> None:
    """Raise on settings with which a run could not be resumed exactly, or which have no effect."""
    saves, evaluates = training.save_strategy != "no", training.eval_strategy != "no"
    reasons = {
        "save_only_model": saves
        and "a run cannot be resumed from checkpoints without optimizer state; leave it out, or set "
        "save_strategy: 'no'",
        "ignore_data_skip": "a resumed run would train on its first examples again; leave it out",
        "load_best_model_at_end": not evaluates
        and "nothing is evaluated that could select a checkpoint; leave it out",
    }
    for name, reason in reasons.items():
        if getattr(training, name) and reason:
            raise ValueError(f"got {name}=True: {reason}")
    # The order within an epoch depends on the random state at its start, which a checkpoint within it does not hold.
    sampling = training.train_sampling_strategy
    if training.save_strategy == "steps" and sampling in ("group_by_length", "batch_rebalance"):
        raise ValueError(
            f"got train_sampling_strategy={str(sampling)!r} with save_strategy='steps': a run cannot be resumed "
            "within an epoch; set train_sampling_strategy: random, or save_strategy: epoch"
        )
    if training.push_to_hub and training.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        strategy = HubStrategy(training.hub_strategy).value
        raise ValueError(f"got hub_strategy={strategy!r}: only the final result is pushed; leave it out")


def _check_optimizer_state(checkpoint: Path) -> None:
    if not any(any(checkpoint.glob(pattern)) for pattern in _OPTIMIZER_FILES):
        raise ValueError(
            f"{checkpoint} has no optimizer state, so the run cannot be resumed exactly: delete that checkpoint, or "
            "choose another output_dir"
        )


def _is_longer(before: Mapping[str, Any], now: Mapping[str, Any], differing: list[str]) -> bool:
    if not set(differing) <= _LENGTH or (before.get("max_steps", 0) > 0) != (now["max_steps"] > 0):
        return False
    unit = "max_steps" if now["max_steps"] > 0 else "num_train_epochs"
    return now[unit] > before.get(unit, now[unit])


def _checkpoints(output_dir: Path) -> list[Path]:
    return [folder for folder in output_dir.glob("checkpoint-*") if folder.name.split("-", 1)[1].isdigit()]


def _complete_checkpoints(output_dir: Path) -> dict[int, Path]:
    # The trainer writes its state last, so a folder without it is of a run that was killed while saving.
    complete = [folder for folder in _checkpoints(output_dir) if (folder / "trainer_state.json").is_file()]
    return {int(folder.name.split("-", 1)[1]): folder for folder in complete}
