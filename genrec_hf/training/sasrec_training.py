"""`SasRecTrainer`: trains `SasRec` on windows of user sequences, and keeps the epoch that ranks validation best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from genrec_hf.data.dataset import EvaluationCases
from genrec_hf.evaluation import filtered_targets, per_case_metrics
from genrec_hf.models.sasrec import IGNORED, SasRec, pad_items
from genrec_hf.training.refused_options import SASREC, refuse_options


@dataclass
class SasRecTrainingArguments(TrainingArguments):
    """`TrainingArguments` with other defaults: it evaluates after every epoch and keeps the best one.

    Options without effect are refused, see `refused_options.SASREC`.

    Raises:
        ValueError: an option of `refused_options.SASREC` is set.
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(
        default="constant",
        metadata={"help": "Learning rate schedule; constant, because early stopping decides the number of steps."},
    )
    num_train_epochs: float = field(
        default=200, metadata={"help": "Maximum number of epochs; patience may stop earlier."}
    )
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Number of windows per device and step."})
    train_sampling_strategy: str = field(
        default="random",
        metadata={"help": "Order of the windows: random, or group_by_length; the model pads little with either."},
    )
    eval_strategy: str = field(
        default="epoch", metadata={"help": "When to rank the validation cases: epoch or steps."}
    )
    save_strategy: str = field(
        default="epoch", metadata={"help": "When to save a checkpoint; must match eval_strategy."}
    )
    save_total_limit: int | None = field(
        default=1, metadata={"help": "Number of checkpoints to keep, in addition to the best one."}
    )
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Load the best checkpoint at the end of training."}
    )
    metric_for_best_model: str | None = field(
        default="ndcg@10", metadata={"help": "Validation metric that selects the best checkpoint."}
    )
    greater_is_better: bool | None = field(
        default=True, metadata={"help": "Whether a larger value of metric_for_best_model is better."}
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Restore the early stopping counter when an interrupted run is resumed."}
    )
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log the training loss: epoch or steps."})

    def __post_init__(self) -> None:
        refuse_options(self, SASREC)
        super().__post_init__()


class ItemWindows(Dataset):
    """Data set of windows of the users' training sequences, with the next items as labels.

    A sequence that fits into one window gives one; a longer one gives as many as its items fill, at random positions
    that depend on (seed, epoch, index).

    Args:
        sequences (`Sequence[np.ndarray]`): item rows of each user, oldest first.
        size (`int`): number of items that the model reads; a window holds one more, the last label.
        seed (`int`, defaults to 0): of the positions.

    Raises:
        ValueError: no sequence holds two items.
    """

    def __init__(self, sequences: Sequence[np.ndarray], size: int, seed: int = 0) -> None:
        self.sequences, self.size, self.seed, self.epoch = sequences, size, seed, 0
        self.owner = np.repeat(
            np.arange(len(sequences)), [max(0, -(-(len(sequence) - 1) // size)) for sequence in sequences]
        )
        if not len(self.owner):
            raise ValueError(
                f"got {len(sequences)} training sequences, none with two items: there is no next item to learn; check "
                "the data set"
            )

    def set_epoch(self, epoch: int) -> None:
        """Move the windows to the positions of an epoch; the Trainer's data loader calls it.

        Args:
            epoch (`int`): from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sequence = self.sequences[self.owner[index]]
        free = len(sequence) - self.size - 1
        start = int(np.random.default_rng([self.seed, self.epoch, index]).integers(free + 1)) if free > 0 else 0
        window = torch.from_numpy(sequence[start : start + self.size + 1].astype(np.int64))
        return {"input_ids": window[:-1], "labels": window[1:]}


class SasRecTrainer(Trainer):
    """`Trainer` whose evaluation ranks validation cases and computes recall, NDCG and MRR at 10.

    All items are ranked, seen ones filtered. `metric_for_best_model="ndcg@10"` keeps the best epoch.

    Args:
        model (`SasRec`): to train.
        args (`TrainingArguments`): settings of the run.
        windows (`ItemWindows`): training data.
        cases (`EvaluationCases`): ranked as often as `eval_strategy` says; histories end before the target.
        kwargs: of `Trainer`.
    """

    def __init__(
        self, model: SasRec, args: TrainingArguments, windows: ItemWindows, *, cases: EvaluationCases, **kwargs: Any
    ) -> None:
        def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
            return {
                "input_ids": pad_items([row["input_ids"] for row in rows], model.config.items),
                "labels": pad_items([row["labels"] for row in rows], IGNORED),
            }

        # The Trainer requires an evaluation data set; `evaluate` reads the cases instead.
        super().__init__(model, args, data_collator=collate, train_dataset=windows, eval_dataset=windows, **kwargs)
        self.cases = cases
        filtered_targets(cases.histories, cases.targets)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Rank the cases and log the metrics.

        Args:
            args: of `Trainer.evaluate`, not read.
            metric_key_prefix (`str`, defaults to `"eval"`): put before the names of the metrics.
            kwargs: of `Trainer.evaluate`, not read.

        Returns:
            `dict[str, float]`: means over the cases, such as `"eval_ndcg@10"`.
        """
        model: Any = self.accelerator.unwrap_model(self.model)
        ranked = model.rank(self.cases.histories, 10).items
        per_case: Mapping[str, np.ndarray] = per_case_metrics(ranked, self.cases.targets, ks=(10,))
        metrics = {f"{metric_key_prefix}_{name}": float(values.mean()) for name, values in per_case.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
