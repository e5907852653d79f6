"""Names inside TRL that genrec_hf relies on; they are those of 1.16."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from trl import GRPOTrainer
from trl.trainer import utils

from genrec_hf.internals import require

# Of what trainers read off a `fused_lm_head=True` call.
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
    """Hide that `rollout_func` is experimental: genrec_hf passes it, and the user has no choice there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using 'rollout_func'", UserWarning)
        yield


def log_metric(trainer: GRPOTrainer, mode: str, name: str, *, value: float) -> None:
    """Add a value to what a GRPO trainer averages for its next log.

    Args:
        trainer (`GRPOTrainer`): it.
        mode (`str`): `"train"` or `"eval"`.
        name (`str`): in the log.
        value (`float`): of this step, the same on all processes.
    """
    metrics: Any = trainer._metrics
    metrics[mode][name].append(value)


def without_bias(head: Any) -> None:
    """Give PEFT's wrapper of trainable rows the `bias` that TRL's loss reads of a head."""
    if not hasattr(head, "bias"):
        head.bias = None
