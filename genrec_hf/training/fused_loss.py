"""The one place that replaces a `forward`: losses of our own behind the calls of TRL's trainers.

TRL's SFT and GRPO trainers call `model(..., fused_lm_head=True)` and read the loss, log-probabilities, entropy and
accuracy off a `FusedCausalLMOutput`. A model that answers these calls with other scores needs no other trainer.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from genrec_hf.internals.trl import FusedCausalLMOutput


def answer_fused_calls(model: PreTrainedModel, score: Callable[..., FusedCausalLMOutput]) -> None:
    """Answer the calls with `fused_lm_head=True` by a scoring function; every other one goes to the forward of before.

    Args:
        model (`PreTrainedModel`): below the adapter.
        score (`Callable`): called as `score(model, **inputs)` with what the trainer passes, `input_ids`,
            `attention_mask` and `labels` among it; gives `fused_output`.
    """
    previous = model.forward

    # TRL and `generate` read the parameters off the signature.
    @functools.wraps(type(model).forward)
    def forward(self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        return score(self, *args, **kwargs) if fused_lm_head else previous(*args, **kwargs)

    model.forward = types.MethodType(forward, model)


def fused_output(
    log_probs: torch.Tensor, entropy: torch.Tensor, is_top1: torch.Tensor, *, label_mask: torch.Tensor
) -> FusedCausalLMOutput:
    """What TRL's trainers read, of the tokens behind the first of each row; the loss is the mean over labels.

    Args:
        log_probs (`torch.Tensor`): `[batch, length - 1]`, of the labels, 0 where there is none.
        entropy (`torch.Tensor`): likewise, of the distributions that they are of.
        is_top1 (`torch.Tensor`): likewise, 1 where the label is the likeliest token.
        label_mask (`torch.Tensor`): likewise, bool, where there is a label.
    """
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / label_mask.sum().clamp(min=1),
        log_probs=log_probs,
        entropy=entropy.detach(),
        is_top1=is_top1.detach(),
        label_mask=label_mask,
    )
