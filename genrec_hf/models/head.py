"""The SID rows of a language-model head, read through the module, so that nothing trained on top is skipped."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from genrec_hf.internals.peft import TrainableTokensWrapper, trained_rows
from genrec_hf.internals.torch import has_hooks

# Families whose forward is: the decoder, the head, a soft-cap where the config names one, and nothing else (a test
# holds each to it). Others scale their logits in ways of their own, so their own forward has to compute them.
PLAIN_FAMILIES = frozenset(
    ["llama", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text",
     "smollm3", "olmo2"]
)  # fmt: skip

# Rows of a head that run at once where only a sum over the vocabulary is wanted: little memory, and a cache's worth.
PART = 4096


def is_plain(model: PreTrainedModel) -> bool:
    """Whether `decoder_logits` of the decoder's output equals the model's own logits."""
    ours = type(model).__module__.startswith("transformers.models.")  # not someone's subclass, which may do anything
    return ours and model.config.model_type in PLAIN_FAMILIES


def decoder_logits(model: PreTrainedModel, hidden: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Logits of a model of a plain family, from the output of its decoder.

    Args:
        model (`PreTrainedModel`): one for which `is_plain` holds.
        hidden (`torch.Tensor`): `[..., d]`, last hidden states of `model.base_model`.
        token_ids (`torch.Tensor`): `[m]`, the tokens that matter.

    Returns:
        `torch.Tensor`: `[..., m]`, in the dtype of the head, soft-capped where the model does so.
    """
    return _capped(model, head_logits(model.get_output_embeddings(), hidden, token_ids))


def decoder_log_norm(model: PreTrainedModel, hidden: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """`logsumexp(logits / temperature)` over the whole vocabulary, without holding its logits where that is possible.

    Args:
        model (`PreTrainedModel`): one for which `is_plain` holds.
        hidden (`torch.Tensor`): `[..., d]`, last hidden states of `model.base_model`.
        temperature (`float`, defaults to 1.0): above 0.

    Returns:
        `torch.Tensor`: `[...]`, float32.
    """
    head: nn.Module = model.get_output_embeddings()
    if type(head) is not nn.Linear or has_hooks(head):
        return log_sum_exp(_capped(model, head(hidden)), temperature)
    rows = head.weight.split(PART)
    biases = [None] * len(rows) if head.bias is None else head.bias.split(PART)
    parts = [
        log_sum_exp(_capped(model, F.linear(hidden, *part)), temperature) for part in zip(rows, biases, strict=True)
    ]
    return torch.stack(parts).logsumexp(dim=0)


def log_sum_exp(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """`logsumexp(logits / temperature)` over the last dimension, in float32."""
    return (logits.float() if temperature == 1 else logits.float() / temperature).logsumexp(dim=-1)


def _capped(model: PreTrainedModel, logits: torch.Tensor) -> torch.Tensor:
    softcap = getattr(model.config, "final_logit_softcapping", None)
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


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
    if has_hooks(head):
        return head(hidden)[..., token_ids]
    if isinstance(head, TrainableTokensWrapper) and (rows := trained_rows(head, token_ids)) is not None:
        return F.linear(hidden, rows)
    if type(head) is nn.Linear:
        return F.linear(hidden, head.weight[token_ids], None if head.bias is None else head.bias[token_ids])
    return head(hidden)[..., token_ids]
