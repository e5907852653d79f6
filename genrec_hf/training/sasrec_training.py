"""Trains `SasRec` with the Trainer: windows of user sequences, and epochs chosen by ranking validation cases."""

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
    """`TrainingArguments` with other defaults: an evaluation an epoch, of which the best is kept.

    Options that the trainer would ignore are refused, see `refused_options.SASREC`.
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(
        default="constant", metadata={"help": "Schedule; early stopping has no end to plan."}
    )
    num_train_epochs: float = field(default=200, metadata={"help": "At most; see patience."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Windows a step and device."})
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "Windows of one length together, so that little is padded."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to rank the validation cases."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save; with every evaluation."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept beside the best."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best epoch."})
    metric_for_best_model: str | None = field(default="ndcg@10", metadata={"help": "Of the validation cases."})
    greater_is_better: bool | None = field(default=True, metadata={"help": "Of that metric."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Count the epochs without a better one on when an interrupted run goes on."}
    )
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log the loss."})

    def __post_init__(self) -> None:
        refuse_options(self, SASREC)
        super().__post_init__()


class ItemWindows(Dataset):
    """Every user's training sequence as windows of items, each with the items that come next.

    A sequence no longer than a window is one; a longer one gives as many as hold it, cut at places that follow from
    (seed, epoch, index).

    Args:
        sequences (`Sequence[np.ndarray]`): item rows of each user, oldest first.
        size (`int`): items that the model reads; a window holds one more, the last label.
        seed (`int`, defaults to 0): of the cuts.

    Raises:
        ValueError: when no sequence holds two items.
    """

    def __init__(self, sequences: Sequence[np.ndarray], size: int, seed: int = 0) -> None:
        self.sequences, self.size, self.seed, self.epoch = sequences, size, seed, 0
        self.owner = np.repeat(
            np.arange(len(sequences)), [max(0, -(-(len(sequence) - 1) // size)) for sequence in sequences]
        )
        if not len(self.owner):
            raise ValueError(f"none of {len(sequences)} training sequences holds two items: there is nothing to learn")

    def set_epoch(self, epoch: int) -> None:
        """Cut at other places; the Trainer's data loader calls it."""
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
    """The Trainer, with recall and NDCG of validation cases as its evaluation.

    Seen items are filtered, all items ranked, one case a user. `metric_for_best_model="ndcg@10"` keeps the best epoch.

    Args:
        model (`SasRec`): to train.
        args (`TrainingArguments`): settings of the run.
        windows (`ItemWindows`): what to learn.
        cases (`EvaluationCases`): what to rank when `eval_strategy` says so; histories end before the target.
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

        # The Trainer asks for a data set where it evaluates; `evaluate` reads the cases.
        super().__init__(model, args, data_collator=collate, train_dataset=windows, eval_dataset=windows, **kwargs)
        self.cases = cases
        filtered_targets(cases.histories, cases.targets)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Rank the cases; see the class."""
        model: Any = self.accelerator.unwrap_model(self.model)
        ranked = model.rank(self.cases.histories, 10).items
        found: Mapping[str, np.ndarray] = per_case_metrics(ranked, self.cases.targets, ks=(10,))
        metrics = {f"{metric_key_prefix}_{name}": float(values.mean()) for name, values in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
