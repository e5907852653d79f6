"""Ranking measured while a model trains, on a sample of users."""

from typing import Any

import numpy as np
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from genrec_hf.data.dataset import EvaluationCases
from genrec_hf.evaluation import per_case_metrics
from genrec_hf.generation import Recommender
from genrec_hf.semantic_ids import SemanticIds


class RankingCallback(TrainerCallback):
    """Ranks a sample of validation users every so many steps, and logs `ranking/recall@10` and `ranking/ndcg@10`.

    Seen items are filtered, all items ranked. The main process ranks while the others wait; what is trained does not
    change by it, since nothing is drawn at random and no weight is touched. Figures of a sample are for looking at a
    run, not for a table: `evaluate.py` measures every user.

    Args:
        trainer (`Trainer`): whose model is measured and whose log is written.
        semantic_ids (`SemanticIds`): the catalogue.
        cases (`EvaluationCases`): validation cases; a sample is drawn once.
        steps (`int`): steps between two measurements; the first is before the first step.
        users (`int`, defaults to 200): cases of the sample.
        how: `max_history`, `score`, `markers` and `form` of `Recommender`.

    Raises:
        ValueError: when there is no step between measurements, no case, or weights in shards, which one process alone
            cannot read.
    """

    def __init__(
        self,
        trainer: Trainer,
        semantic_ids: SemanticIds,
        cases: EvaluationCases,
        steps: int,
        users: int = 200,
        **how: Any,
    ) -> None:
        if steps < 1 or users < 1 or not len(cases):
            raise ValueError(f"got steps={steps}, users={users} and {len(cases)} cases: give at least one of each")
        if trainer.is_fsdp_enabled or trainer.accelerator.state.deepspeed_plugin is not None:
            raise ValueError(
                "got DeepSpeed or FSDP, where weights may be in shards: leave the ranking of a sample out"
            )
        drawn = np.random.default_rng(0).permutation(len(cases))[:users]
        self.trainer, self.semantic_ids, self.cases = trainer, semantic_ids, cases.select(np.sort(drawn))
        self.steps, self.how = steps, how

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure what training starts from."""
        if state.global_step == 0:
            self.measure()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure every `steps` steps."""
        if state.global_step % self.steps == 0:
            self.measure()

    def measure(self) -> None:
        """Rank the sample, and log."""
        if self.trainer.accelerator.is_main_process:
            model: Any = self.trainer.accelerator.unwrap_model(self.trainer.model)
            training = model.training
            recommender = Recommender(model, self.trainer.processing_class, self.semantic_ids, **self.how)  # type: ignore[arg-type]
            ranked = recommender.rank(self.cases.histories, min(10, len(self.semantic_ids)))
            model.train(training)
            found = per_case_metrics(ranked, self.cases.targets, ks=(ranked.shape[1],))
            means = {f"ranking/{name}": float(found[name].mean()) for name in found if not name.startswith("mrr")}
            # Not TRL's, which closes the window of its running means with every call.
            Trainer.log(self.trainer, means)
        self.trainer.accelerator.wait_for_everyone()
