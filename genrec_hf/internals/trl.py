"""Undocumented names of TRL that genrec_hf uses, as in version 1.16."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from trl import GRPOTrainer
from trl.trainer import utils

from genrec_hf.internals import require

# Fields that trainers read from the output of a call with `fused_lm_head=True`.
_OUTPUT = {"loss", "log_probs", "entropy", "is_top1", "label_mask"}
_METHODS = ("_generate_and_score_completions", "_compute_loss", "_get_per_token_logps_and_entropies")

require(
    "trl",
    {
        "trainer.utils.FusedCausalLMOutput": hasattr(utils, "FusedCausalLMOutput")
        and {field.name for field in fields(utils.FusedCausalLMOutput)} >= _OUTPUT,
        **{f"GRPOTrainer.{name}": hasattr(GRPOTrainer, name) for name in _METHODS},
    },
)

FusedCausalLMOutput = utils.FusedCausalLMOutput


@contextmanager
def no_experimental_warning() -> Iterator[None]:
    """Ignore the warning that `rollout_func` is experimental, as genrec_hf passes it and not the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using 'rollout_func'", UserWarning)
        yield


def log_metric(trainer: GRPOTrainer, mode: str, name: str, *, value: float) -> None:
    """Add a value to a metric that a GRPO trainer averages for its next log.

    Args:
        trainer (`GRPOTrainer`): the trainer.
        mode (`str`): `"train"` or `"eval"`.
        name (`str`): name of the metric in the log.
        value (`float`): value of this step; must be the same on all processes.
    """
    metrics: Any = trainer._metrics
    metrics[mode][name].append(value)


def without_bias(head: Any) -> None:
    """Set `bias` of a head without that attribute to `None`, as TRL's loss reads it and PEFT's wrapper lacks it.

    Args:
        head (`nn.Module`): output embedding; changed in place.
    """
    if not hasattr(head, "bias"):
        head.bias = None
