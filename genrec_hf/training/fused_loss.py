"""Replaces the loss of TRL's trainers; the only module that replaces a `forward`.

TRL's SFT and GRPO trainers call `model(..., fused_lm_head=True)` and read loss, log-probabilities, entropy and
accuracy from a `FusedCausalLMOutput`. A model that answers these calls with other scores trains with another loss in
the same trainers.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from genrec_hf.internals.trl import FusedCausalLMOutput


def answer_fused_calls(model: PreTrainedModel, score: Callable[..., FusedCausalLMOutput]) -> None:
    """Replace a model's `forward` to answer calls with `fused_lm_head=True` by a scoring function.

    Args:
        model (`PreTrainedModel`): below the adapter; other calls go to its original `forward`.
        score (`Callable`): called as `score(model, **inputs)` with the arguments of the trainer, which include
            `input_ids`, `attention_mask` and `labels`; returns `fused_output`.
    """
    previous = model.forward

    # TRL and `generate` read the parameters from the signature.
    @functools.wraps(type(model).forward)
    def forward(self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        return score(self, *args, **kwargs) if fused_lm_head else previous(*args, **kwargs)

    model.forward = types.MethodType(forward, model)


def fused_output(
    log_probs: torch.Tensor, entropy: torch.Tensor, is_top1: torch.Tensor, *, label_mask: torch.Tensor
) -> FusedCausalLMOutput:
    """Make the output that TRL's trainers read; its loss is the mean negative log-probability of the labels.

    All tensors are about the tokens after the first of each row.

    Args:
        log_probs (`torch.Tensor`): `[batch, length - 1]`, log-probabilities of the labels, 0 where there is none.
        entropy (`torch.Tensor`): `[batch, length - 1]`, entropies of their distributions, in nats.
        is_top1 (`torch.Tensor`): `[batch, length - 1]`, 1 where the label is the likeliest token, else 0.
        label_mask (`torch.Tensor`): bool `[batch, length - 1]`, where there is a label.

    Returns:
        `FusedCausalLMOutput`: with a scalar `loss`; `entropy` and `is_top1` are detached.
    """
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / label_mask.sum().clamp(min=1),
        log_probs=log_probs,
        entropy=entropy.detach(),
        is_top1=is_top1.detach(),
        label_mask=label_mask,
    )
