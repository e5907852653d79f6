"""Ranks a sample of validation users during training, and stops training when NDCG no longer improves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from genrec_hf.checks import check_least
from genrec_hf.data.dataset import EvaluationCases
from genrec_hf.directories import replace_file
from genrec_hf.evaluation import filtered_targets, per_case_metrics
from genrec_hf.generation import Recommender
from genrec_hf.ranking import Ranker, checked_ranking
from genrec_hf.semantic_ids import SemanticIds

# Weights of the best validation so far, in the output directory; as checkpoints, they are not pushed.
BEST_FILE = "checkpoint-best/trained.safetensors"


@dataclass
class ValidationArguments:
    """Arguments for validation during training, and for early stopping.

    Raises:
        ValueError: a number is below 1, or `patience` is set without `validation_steps`.
    """

    validation_steps: int | None = field(
        default=None,
        metadata={"help": "Number of steps between two validations, which rank a sample of users; off by default."},
    )
    validation_users: int = field(
        default=200, metadata={"help": "Number of validation users in the sample, which stays the same."}
    )
    patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many validations without a better NDCG and keep the best weights; off by default."
        },
    )

    def __post_init__(self) -> None:
        check_least(
            1, validation_steps=self.validation_steps, validation_users=self.validation_users, patience=self.patience
        )
        if self.patience is not None and self.validation_steps is None:
            raise ValueError(
                f"got patience={self.patience} without validation_steps, so nothing would be measured: set "
                "validation_steps"
            )


def validate_while_training(
    trainer: Trainer,
    arguments: ValidationArguments,
    semantic_ids: SemanticIds,
    *,
    cases: EvaluationCases,
    **recommender_settings: Any,
) -> None:
    """Add a `RankingCallback` to a trainer that ranks with a `Recommender` of its model, if `validation_steps` is set.

    Args:
        trainer (`Trainer`): of a language model with SID tokens.
        arguments (`ValidationArguments`): how often, on how many users, and when to stop.
        semantic_ids (`SemanticIds`): the catalogue.
        cases (`EvaluationCases`): validation cases, of which a sample is ranked.
        recommender_settings: `max_history`, `normalization`, `markers`, `form` and `titles` of `Recommender`.

    Raises:
        ValueError: for the reasons of `RankingCallback`.
    """

    def recommender_of(model: Any) -> Recommender:
        tokenizer = cast(PreTrainedTokenizerBase, trainer.processing_class)
        return Recommender(model, tokenizer, semantic_ids, **recommender_settings)

    if (steps := arguments.validation_steps) is not None:
        k, users, patience = min(10, len(semantic_ids)), arguments.validation_users, arguments.patience
        trainer.add_callback(
            RankingCallback(trainer, recommender_of, cases, steps=steps, k=k, users=users, patience=patience)
        )


class RankingCallback(TrainerCallback):
    """Callback that ranks a sample of validation users during training, and logs recall and NDCG.

    All items are ranked, seen ones filtered; `ranking/recall@k` and `ranking/ndcg@k` are logged. The main process
    ranks while the others wait. Training is not affected: no random number is used and no weight changed. The metrics
    of the sample show the progress of a run; for a table, `evaluate.py` measures all users.

    With `patience`, training stops when `ndcg@k` has not exceeded its best value for that many validations, and the
    model gets the weights of the best one, possibly those from before training. They are stored in `BEST_FILE`, so
    that a resumed run ends like an uninterrupted one.

    Args:
        trainer (`Trainer`): trains the model, and logs the metrics.
        ranker_of (`Callable`): makes a `Ranker` of the model, which it gets without the wrappers of the trainer.
        cases (`EvaluationCases`): validation cases, of which a fixed random sample is ranked.
        steps (`int`): steps between two validations; the first one is before training.
        k (`int`, defaults to 10): length of the lists.
        users (`int`, defaults to 200): number of cases in the sample.
        patience (`int`, *optional*): validations without a better NDCG before training stops; unlimited if not given.

    Raises:
        ValueError: `steps`, `users` or `patience` is below 1, there are no cases, a target is filtered because it is
            in its history, or weights may be sharded, so that one process cannot read them alone.
    """

    def __init__(
        self,
        trainer: Trainer,
        ranker_of: Callable[[Any], Ranker],
        cases: EvaluationCases,
        *,
        steps: int,
        k: int = 10,
        users: int = 200,
        patience: int | None = None,
    ) -> None:
        check_least(1, steps=steps, users=users, patience=patience, cases=len(cases))
        if trainer.is_fsdp_enabled or trainer.accelerator.state.deepspeed_plugin is not None:
            raise ValueError(
                "got DeepSpeed or FSDP, which may shard the weights, while one process ranks alone: leave "
                "validation_steps out"
            )
        sample = np.random.default_rng(0).permutation(len(cases))[:users]
        self.trainer, self.ranker_of, self.cases = trainer, ranker_of, cases.select(np.sort(sample))
        filtered_targets(self.cases.histories, self.cases.targets)
        self.steps, self.patience, self.k = steps, patience, k
        self.best: dict[str, torch.Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the model before training, or load the best weights of an interrupted run.

        Args:
            args (`TrainingArguments`): settings of the run.
            state (`TrainerState`): state of the run.
            control (`TrainerControl`): control of the Trainer.
            kwargs: of `TrainerCallback`.

        Raises:
            FileNotFoundError: the best weights of a resumed run are missing.
        """
        file = Path(str(args.output_dir)) / BEST_FILE
        if state.global_step == 0:
            self.measure()
        elif self.patience is not None:
            if not file.exists():
                raise FileNotFoundError(
                    f"{str(file)!r} is missing, the best weights of the run that is resumed, which would end with "
                    "other weights: restore the file, or start again in an empty folder"
                )
            self.best = load_file(file)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure every `steps` steps, and stop training when patience is exhausted.

        Args:
            args (`TrainingArguments`): settings of the run.
            state (`TrainerState`): state of the run.
            control (`TrainerControl`): control of the Trainer.
            kwargs: of `TrainerCallback`.
        """
        if state.global_step % self.steps == 0 and self.measure():
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the best weights, with `patience`.

        Args:
            args (`TrainingArguments`): settings of the run.
            state (`TrainerState`): state of the run.
            control (`TrainerControl`): control of the Trainer.
            kwargs: of `TrainerCallback`.
        """
        if self.patience is None:
            return
        model: Any = self.trainer.accelerator.unwrap_model(self.trainer.model)
        with torch.no_grad():
            for name, values in self.best.items():
                model.get_parameter(name).copy_(values)

    def measure(self) -> bool:
        """Rank the sample and log the metrics.

        Returns:
            `bool`: whether patience is exhausted.
        """
        without_better = 0
        if self.trainer.accelerator.is_main_process:
            model: Any = self.trainer.accelerator.unwrap_model(self.trainer.model)
            training = model.training
            ranking = checked_ranking(self.ranker_of(model), self.cases.histories, self.k)
            model.train(training)
            metrics = per_case_metrics(ranking.items, self.cases.targets, ks=(self.k,))
            means = {f"ranking/{name}": float(metrics[name].mean()) for name in metrics if not name.startswith("mrr")}
            # Not the `log` of TRL's trainers, which resets their running means. `Trainer.log` clears `should_log`; a
            # log of the step itself may still be due.
            should_log = self.trainer.control.should_log
            Trainer.log(self.trainer, means)
            self.trainer.control.should_log = should_log
            name = next(name for name in means if "ndcg" in name)
            measured = [row[name] for row in self.trainer.state.log_history if name in row]
            without_better = len(measured) - 1 - int(np.argmax(measured))
        if self.patience is None:
            self.trainer.accelerator.wait_for_everyone()
            return False
        (without_better,) = broadcast_object_list([without_better])
        if without_better == 0:
            self._store_best()
        return without_better >= self.patience

    def _store_best(self) -> None:
        """Store the trained parameters in memory, and on disk for a resumed run."""
        model: Any = self.trainer.accelerator.unwrap_model(self.trainer.model)
        trained = {name: values for name, values in model.named_parameters() if values.requires_grad}
        self.best = {name: values.detach().cpu().clone().contiguous() for name, values in trained.items()}
        if self.trainer.accelerator.is_main_process:
            file = Path(str(self.trainer.args.output_dir)) / BEST_FILE
            with replace_file(file) as partial:
                save_file(self.best, partial)
