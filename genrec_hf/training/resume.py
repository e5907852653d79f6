"""Goes on with an interrupted run, leaves a finished one alone, and refuses to mix two runs."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy

from genrec_hf.directories import held, refuse_foreign, write_text
from genrec_hf.hub import base_of
from genrec_hf.internals.trainer import take_no_step_at_the_end
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
_LENGTH = {"max_steps", "num_train_epochs"}
# Arguments of recipes that only look on.
_FREE = ("validation_steps",)
# Key of the settings file that is there when the result of the run is, and what stands in the folder then.
_FINISHED, _RESULTS = "finished", ("genrec_hf.json", "config.json")
# Optimizer states of the Trainer and FSDP, and of DeepSpeed.
_OPTIMIZER_FILES = ("*optimizer*", "global_step*")


class Run:
    """A training run in an `output_dir`: a new one, one that was interrupted and goes on, or a finished one.

    The settings of a run are written down when it starts. A rerun with equal settings goes on from the last whole
    checkpoint, one that is longer goes on from the end, and one with other settings would train half a run with each,
    so it is refused, before anything is trained.

    Args:
        training (`TrainingArguments`): of the run; with `resume_from_checkpoint` it goes on from that one of its
            checkpoints.
        semantic_ids (`SemanticIds`, *optional*): that the run trains on; `None` where it does not.
        arguments: further dataclasses that decide what the run computes.
        dataset (`Mapping`, *optional*): `InteractionData.info`, whose `fingerprint` is compared.

    Attributes:
        checkpoint (`str` or `None`): the folder to go on from; `None` when no whole one is there yet.

    Raises:
        ValueError: `output_dir` is the model that the run starts from, or its base; it holds checkpoints or the result
            of other settings, or checkpoints of which nothing says with which they were made; a run could not go on
            exactly; or a setting would do nothing.
    """

    def __init__(
        self,
        training: TrainingArguments,
        semantic_ids: SemanticIds | None,
        *arguments: Any,
        dataset: Mapping[str, Any] | None = None,
    ) -> None:
        _refuse_inexact(training)
        # The Trainer's own pushes would upload half-trained weights, pickles and the lock; recipes push the result.
        training.hub_strategy = HubStrategy.END
        self.training, self.output_dir = training, Path(str(training.output_dir))
        starts = [name for each in arguments if (name := getattr(each, "model_name_or_path", None))]
        refuse_foreign(str(training.output_dir), sources=[*starts, *map(base_of, starts)])
        sids = None if semantic_ids is None else semantic_ids.fingerprint
        chosen: dict[str, Any] = {"dataset": (dataset or {}).get("fingerprint"), "semantic_ids": sids}
        chosen |= {name: getattr(training, name) for name in _TRAINING if hasattr(training, name)}
        for each in arguments:
            chosen |= {name: value for name, value in asdict(each).items() if name not in _FREE}
        self.settings: dict[str, Any] = json.loads(json.dumps(chosen, default=str))
        file = self.output_dir / SETTINGS_FILE
        written: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        there = {name: value for name, value in written.items() if name != _FINISHED}
        has_result = any((self.output_dir / name).is_file() for name in _RESULTS)
        # `{"steps": 400, "planned": 400}` when the run is done.
        self._result: dict[str, int] | None = written.get(_FINISHED) if has_result else None
        self.checkpoint = self._choose_checkpoint()
        if self.checkpoint is not None and not there:
            raise ValueError(
                f"{self.output_dir} holds checkpoints and no {SETTINGS_FILE}, so nothing says what they were trained "
                "with; choose another output_dir or delete that one"
            )
        if self.checkpoint is not None or self._result is not None:
            self._compare(there)
        if self._result is None and self.checkpoint is not None:
            _refuse_without_optimizer(Path(self.checkpoint))

    def is_finished(self) -> bool:
        """Whether the result of this run is there, which the main process prints: there is nothing to do."""
        if self._result is None:
            return False
        if self.training.process_index == 0:
            steps, planned = self._result["steps"], self._result["planned"]
            advice = "raise max_steps or num_train_epochs to train it further, or "
            if steps < planned:
                advice = f"training ended by itself before the {planned} steps it was given; "
            if self.training.push_to_hub:
                advice += "push it with genrec_hf.hub.push_recommender, or "
            print(
                f"Finished: {self.output_dir} holds the result of this run, {steps} steps, and nothing was done; "
                f"{advice}choose another output_dir to train anew."
            )
        return True

    def train(self, trainer: Trainer) -> None:
        """Write down the settings, and train to the end, from `checkpoint` if there is one.

        Checkpoints that a killed run left half-saved are removed.

        Args:
            trainer (`Trainer`): with the `TrainingArguments` of the run.
        """
        if self.training.process_index == 0:
            self._begin()
        if self.checkpoint is not None:
            take_no_step_at_the_end(trainer)
        trainer.train(resume_from_checkpoint=self.checkpoint)

    def finish(self, trainer: Trainer) -> None:
        """Write down, after the result is saved, that the run is done.

        Args:
            trainer (`Trainer`): as it was trained.
        """
        if self.training.process_index == 0:
            result = {"steps": trainer.state.global_step, "planned": trainer.state.max_steps}
            self._write(self.settings | {_FINISHED: result})

    def _choose_checkpoint(self) -> str | None:
        whole, asked = _whole_checkpoints(self.output_dir), self.training.resume_from_checkpoint
        folder = whole[max(whole)] if whole else None
        if asked is not None:
            same = [each for each in whole.values() if each.resolve() == Path(asked).resolve()]
            if not same:
                raise ValueError(
                    f"got resume_from_checkpoint={asked!r}, which is no whole checkpoint in {self.output_dir}; leave "
                    f"it out, and the run goes on from the last one there ({folder})"
                )
            folder = same[0]
        return None if folder is None else str(folder)

    def _compare(self, there: Mapping[str, Any]) -> None:
        """Refuse what was made with other settings; a run that is to be longer than before is not finished."""
        differing = [key for key in {**there, **self.settings} if there.get(key) != self.settings.get(key)]
        if there.get("max_steps", 0) > 0 and self.settings["max_steps"] > 0:
            differing = [key for key in differing if key != "num_train_epochs"]  # which max_steps overrides
        if not differing:
            return
        key = differing[0]
        what = f"{key}={there.get(key)!r}, and this one has {self.settings.get(key)!r}"
        if not _is_longer(there, self.settings, differing):
            holds, why = ("checkpoints", "going on would mix the two")
            if self.checkpoint is None:
                holds, why = "the result", "it would be replaced"
            raise ValueError(
                f"{self.output_dir} holds {holds} of a run with {what}: {why}; choose another output_dir or delete "
                "that one"
            )
        if self._result is not None and self._result["steps"] < self._result["planned"]:
            return
        if self.checkpoint is None:
            raise ValueError(
                f"{self.output_dir} holds the result of a run with {what}, and no checkpoint to go on from; choose "
                "another output_dir or delete that one"
            )
        self._result = None
        if self.training.process_index == 0:
            print(
                f"Going on from {self.checkpoint}, of a run with {what}. What changes over the length of a run "
                f"(learning rate: {self.settings['lr_scheduler_type']}) follows the new length from here on."
            )

    def _begin(self) -> None:
        with held(self.output_dir):
            half_saved = set(_numbered(self.output_dir)) - set(_whole_checkpoints(self.output_dir).values())
            # Where nothing says that a run of ours was here, they are somebody else's.
            for folder in half_saved if (self.output_dir / SETTINGS_FILE).is_file() else ():
                shutil.rmtree(folder)
            self._write(self.settings)

    def _write(self, settings: Mapping[str, Any]) -> None:
        write_text(self.output_dir / SETTINGS_FILE, json.dumps(settings, indent=2))


def _refuse_inexact(training: TrainingArguments) -> None:
    """Raise on settings with which a run could not go on as it was, or which do nothing."""
    saves, evaluates = training.save_strategy != "no", training.eval_strategy != "no"
    reasons = {
        "save_only_model": saves
        and "a run could not go on from checkpoints without optimizer state; leave it out, "
        "or give save_strategy: 'no'",
        "ignore_data_skip": "a run that goes on would train on its first examples again; leave it out",
        "load_best_model_at_end": not evaluates and "nothing is evaluated here that could tell; leave it out",
    }
    for name, reason in reasons.items():
        if getattr(training, name) and reason:
            raise ValueError(f"got {name}=True: {reason}")
    # Their order within an epoch is drawn from the state that only the start of the epoch had.
    sampling = training.train_sampling_strategy
    if training.save_strategy == "steps" and sampling in ("group_by_length", "batch_rebalance"):
        raise ValueError(
            f"got train_sampling_strategy={str(sampling)!r} with save_strategy='steps': a run could not go on within "
            "an epoch; give train_sampling_strategy: random, or save_strategy: epoch"
        )
    if training.push_to_hub and training.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        strategy = HubStrategy(training.hub_strategy).value
        raise ValueError(f"got hub_strategy={strategy!r}: the result alone is pushed, at the end; leave it out")


def _refuse_without_optimizer(checkpoint: Path) -> None:
    if not any(any(checkpoint.glob(pattern)) for pattern in _OPTIMIZER_FILES):
        raise ValueError(
            f"{checkpoint} has no optimizer state, so the run cannot go on as it was; delete that checkpoint, or "
            "choose another output_dir"
        )


def _is_longer(there: Mapping[str, Any], now: Mapping[str, Any], differing: list[str]) -> bool:
    if not set(differing) <= _LENGTH or (there.get("max_steps", 0) > 0) != (now["max_steps"] > 0):
        return False
    unit = "max_steps" if now["max_steps"] > 0 else "num_train_epochs"
    return now[unit] > there.get(unit, now[unit])


def _numbered(output_dir: Path) -> list[Path]:
    return [folder for folder in output_dir.glob("checkpoint-*") if folder.name.split("-", 1)[1].isdigit()]


def _whole_checkpoints(output_dir: Path) -> dict[int, Path]:
    # The trainer writes its state last, so a folder without it is of a run that ended while it saved.
    whole = [folder for folder in _numbered(output_dir) if (folder / "trainer_state.json").is_file()]
    return {int(folder.name.split("-", 1)[1]): folder for folder in whole}
