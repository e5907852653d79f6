"""Ranking measured while a model trains, on a sample of users; training stops when it no longer rises."""

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
from genrec_hf.directories import replacing
from genrec_hf.evaluation import filtered_targets, per_case_metrics
from genrec_hf.generation import Recommender
from genrec_hf.ranking import Ranker, checked_ranking
from genrec_hf.semantic_ids import SemanticIds

# Weights of the best measurement so far, in the output directory beside the checkpoints, which are not pushed either.
BEST_FILE = "checkpoint-best/trained.safetensors"


@dataclass
class ValidationArguments:
    """Whether validation users are ranked while a model trains, and when that ends the run."""

    validation_steps: int | None = field(
        default=None, metadata={"help": "Rank validation users every so many steps, for the curves."}
    )
    validation_users: int = field(default=200, metadata={"help": "How many, drawn once."})
    patience: int | None = field(
        default=None, metadata={"help": "Stop after so many rankings without a new best, and end with the best."}
    )

    def __post_init__(self) -> None:
        check_least(
            1, validation_steps=self.validation_steps, validation_users=self.validation_users, patience=self.patience
        )
        if self.patience is not None and self.validation_steps is None:
            raise ValueError(f"got patience={self.patience} and no validation_steps: nothing would be measured")


def validate_while_training(
    trainer: Trainer, arguments: ValidationArguments, semantic_ids: SemanticIds, *, cases: EvaluationCases, **how: Any
) -> None:
    """Rank with a `Recommender` of the model, made from `how`, where the arguments ask for it: `RankingCallback`."""

    def recommender_of(model: Any) -> Recommender:
        tokenizer = cast(PreTrainedTokenizerBase, trainer.processing_class)
        return Recommender(model, tokenizer, semantic_ids, **how)

    if (steps := arguments.validation_steps) is not None:
        k, users, patience = min(10, len(semantic_ids)), arguments.validation_users, arguments.patience
        trainer.add_callback(
            RankingCallback(trainer, recommender_of, cases, steps=steps, k=k, users=users, patience=patience)
        )


class RankingCallback(TrainerCallback):
    """Ranks a sample of validation users every so many steps, and logs `ranking/recall@10` and `ranking/ndcg@10`.

    Seen items are filtered, all items ranked. The main process ranks while the others wait; what is trained does not
    change by it, since nothing is drawn at random and no weight is touched. Figures of a sample are for looking at a
    run, not for a table: `evaluate.py` measures every user.

    With `patience` training stops when `ndcg@10` of the sample has not risen above its best for so many measurements,
    and the model ends with the weights of the best one, those it started from if none was better. They are kept in
    `BEST_FILE`, so that a run that is resumed, or started again when it is done, ends as an uninterrupted one.

    Args:
        trainer (`Trainer`): whose model is measured and whose log is written.
        ranker_of (`Callable`): from the model, without what a trainer wraps it in, to the `Ranker` that is measured.
        cases (`EvaluationCases`): validation cases; a sample is drawn once.
        steps (`int`): steps between two measurements; the first is before the first step.
        k (`int`, defaults to 10): ranks of a list.
        users (`int`, defaults to 200): cases of the sample.
        patience (`int`, *optional*): measurements without a new best before training stops; it goes on when not given.

    Raises:
        ValueError: when there is no step between measurements, no case, or weights in shards, which one process alone
            cannot read.
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
                "got DeepSpeed or FSDP, where weights may be in shards: leave the ranking of a sample out"
            )
        drawn = np.random.default_rng(0).permutation(len(cases))[:users]
        self.trainer, self.ranker_of, self.cases = trainer, ranker_of, cases.select(np.sort(drawn))
        filtered_targets(self.cases.histories, self.cases.targets)
        self.steps, self.patience, self.k = steps, patience, k
        self.best: dict[str, torch.Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure what training starts from, or find what was best before it was interrupted."""
        kept = Path(str(args.output_dir)) / BEST_FILE
        if state.global_step == 0:
            self.measure()
        elif self.patience is not None:
            if not kept.exists():
                raise FileNotFoundError(
                    f"{str(kept)!r} is gone, the best weights of the run that goes on here: it would end with others; "
                    "put it back, or start anew in an empty folder"
                )
            self.best = load_file(kept)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure every `steps` steps, and stop where patience ends."""
        if state.global_step % self.steps == 0 and self.measure():
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """With `patience`, go back to the best weights."""
        if self.patience is None:
            return
        model: Any = self.trainer.accelerator.unwrap_model(self.trainer.model)
        with torch.no_grad():
            for name, values in self.best.items():
                model.get_parameter(name).copy_(values)

    def measure(self) -> bool:
        """Rank the sample, and log; whether patience has ended."""
        waited = 0
        if self.trainer.accelerator.is_main_process:
            model: Any = self.trainer.accelerator.unwrap_model(self.trainer.model)
            training = model.training
            ranking = checked_ranking(self.ranker_of(model), self.cases.histories, self.k)
            model.train(training)
            metrics = per_case_metrics(ranking.items, self.cases.targets, ks=(self.k,))
            means = {f"ranking/{name}": float(metrics[name].mean()) for name in metrics if not name.startswith("mrr")}
            # Not TRL's, which closes the window of its running means with every call; and a log of the step itself,
            # if one is due, is still due after this one.
            due = self.trainer.control.should_log
            Trainer.log(self.trainer, means)
            self.trainer.control.should_log = due
            name = next(name for name in means if "ndcg" in name)
            measured = [row[name] for row in self.trainer.state.log_history if name in row]
            waited = len(measured) - 1 - int(np.argmax(measured))
        if self.patience is None:
            self.trainer.accelerator.wait_for_everyone()
            return False
        (waited,) = broadcast_object_list([waited])
        if waited == 0:
            self._keep()
        return waited >= self.patience

    def _keep(self) -> None:
        """Keep what trains, and on disk what a resumed run needs."""
        model: Any = self.trainer.accelerator.unwrap_model(self.trainer.model)
        trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self.best = {name: each.detach().cpu().clone().contiguous() for name, each in trained.items()}
        if self.trainer.accelerator.is_main_process:
            kept = Path(str(self.trainer.args.output_dir)) / BEST_FILE
            with replacing(kept) as partial:
                save_file(self.best, partial)
