"""The SID rows of a language-model head, read through the module, so that nothing trained on top of them is skipped."""

import torch
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from torch.nn import functional as F


def head_logits(head: nn.Module, hidden: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Logits of some tokens only.

    Rows are sliced only where slicing is known to be exact: a plain `nn.Linear`, and PEFT's wrapper of trainable rows.
    Any other head (LoRA on the head, quantized, sharded) runs whole and its output is sliced: slower, never wrong.

    Args:
        head (`nn.Module`): `model.get_output_embeddings()`.
        hidden (`torch.Tensor`): `[n, d]`, the last hidden states.
        token_ids (`torch.Tensor`): `[m]`.

    Returns:
        `torch.Tensor`: `[n, m]`, before any soft-cap or scale of the model.
    """
    if isinstance(head, TrainableTokensWrapper) and isinstance(head.token_adapter.base_layer, nn.Linear | nn.Embedding):
        return F.linear(hidden, _trained_rows(head, token_ids))
    if type(head) is nn.Linear:
        return F.linear(hidden, head.weight[token_ids], None if head.bias is None else head.bias[token_ids])
    return head(hidden)[..., token_ids]


def _trained_rows(head: TrainableTokensWrapper, token_ids: torch.Tensor) -> torch.Tensor:
    """Rows `[m, d]` of the merged weight; without building the merged weight when one adapter holds them all."""
    adapter, active = head.token_adapter, list(head.token_adapter.active_adapters)
    if len(active) == 1 and not adapter.disable_adapters and not adapter.merged:
        indices = torch.as_tensor(adapter.token_indices[active[0]], device=token_ids.device)
        order = torch.argsort(indices)
        place = torch.searchsorted(indices[order], token_ids).clamp(max=len(indices) - 1)
        if torch.equal(indices[order][place], token_ids):
            return adapter.trainable_tokens_delta[active[0]][order[place]]
    weight = adapter.base_layer.weight if adapter.disable_adapters else head.weight
    return weight[token_ids]
