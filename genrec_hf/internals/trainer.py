"""Undocumented names of the Trainer of transformers that genrec_hf uses, as in versions 5.23 and 5.24."""

from typing import Any

from transformers import Trainer

from genrec_hf.internals import require

require("transformers", {"Trainer._run_epoch": hasattr(Trainer, "_run_epoch")})


def take_no_step_at_the_end(trainer: Trainer) -> None:
    """Prevent a trainer that resumes at its last step from taking one more step.

    `Trainer` checks for the end of training only after a step.

    Args:
        trainer (`Trainer`): the trainer; its method `_run_epoch` is replaced.
    """
    run_epoch = trainer._run_epoch

    def run_epoch_before_the_end(**kwargs: Any) -> None:
        if trainer.state.global_step < trainer.state.max_steps:
            run_epoch(**kwargs)

    trainer._run_epoch = run_epoch_before_the_end  # type: ignore[method-assign, assignment]
