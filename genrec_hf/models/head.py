"""Logits of selected tokens from a language-model head, with what adapters and quantization add to the head."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from genrec_hf.internals.peft import TrainableTokensWrapper, trained_rows
from genrec_hf.internals.torch import has_hooks

# Families whose forward is the decoder, the head, a soft-cap where the config has one, and nothing else (tested for
# each). Others scale their logits differently, so only their own forward can compute them.
PLAIN_FAMILIES = frozenset(
    ["llama", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text",
     "smollm3", "olmo2"]
)  # fmt: skip

# Rows of a head that are multiplied at once for a sum over the vocabulary: they use little memory and fit the cache.
CHUNK_ROWS = 4096


def is_plain(model: PreTrainedModel) -> bool:
    """Return whether `decoder_logits` of the decoder's output equals the logits of the model.

    Args:
        model (`PreTrainedModel`): a causal language model.

    Returns:
        `bool`: `True` for a class of transformers itself, of a family in `PLAIN_FAMILIES`.
    """
    # A subclass from elsewhere may have another forward.
    is_of_transformers = type(model).__module__.startswith("transformers.models.")
    return is_of_transformers and model.config.model_type in PLAIN_FAMILIES


def decoder_logits(model: PreTrainedModel, hidden: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Compute the logits of some tokens from the output of a model's decoder.

    Args:
        model (`PreTrainedModel`): one for which `is_plain` is true.
        hidden (`torch.Tensor`): `[..., hidden_size]`, last hidden states of `model.base_model`.
        token_ids (`torch.Tensor`): `[m]`, ids of the tokens.

    Returns:
        `torch.Tensor`: `[..., m]`, in the dtype of the head, with the soft-cap of the model.
    """
    return _apply_softcap(model, head_logits(model.get_output_embeddings(), hidden, token_ids))


def decoder_log_norm(model: PreTrainedModel, hidden: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Compute `logsumexp(logits / temperature)` over the whole vocabulary, in chunks of rows for a plain linear head.

    Args:
        model (`PreTrainedModel`): one for which `is_plain` is true.
        hidden (`torch.Tensor`): `[..., hidden_size]`, last hidden states of `model.base_model`.
        temperature (`float`, defaults to 1.0): above 0.

    Returns:
        `torch.Tensor`: `[...]`, float32.
    """
    head: nn.Module = model.get_output_embeddings()
    if type(head) is not nn.Linear or has_hooks(head):
        return log_sum_exp(_apply_softcap(model, head(hidden)), temperature)
    weights = head.weight.split(CHUNK_ROWS)
    biases = [None] * len(weights) if head.bias is None else head.bias.split(CHUNK_ROWS)
    chunks = [
        log_sum_exp(_apply_softcap(model, F.linear(hidden, weight, bias)), temperature)
        for weight, bias in zip(weights, biases, strict=True)
    ]
    return torch.stack(chunks).logsumexp(dim=0)


def log_sum_exp(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Compute `logsumexp(logits / temperature)` over the last dimension, in float32.

    Args:
        logits (`torch.Tensor`): `[..., vocabulary]`.
        temperature (`float`, defaults to 1.0): above 0.

    Returns:
        `torch.Tensor`: `[...]`, float32.
    """
    return (logits.float() if temperature == 1 else logits.float() / temperature).logsumexp(dim=-1)


def _apply_softcap(model: PreTrainedModel, logits: torch.Tensor) -> torch.Tensor:
    softcap = getattr(model.config, "final_logit_softcapping", None)
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def head_logits(head: nn.Module, hidden: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Compute the logits of some tokens.

    Rows of the weight are selected only where that is exact: for a plain `nn.Linear`, and for PEFT's wrapper of
    trainable rows. Any other head (with LoRA, quantized, sharded) computes all logits, which is slower, and those of
    the tokens are selected from its output.

    Args:
        head (`nn.Module`): `model.get_output_embeddings()`.
        hidden (`torch.Tensor`): `[..., hidden_size]`, the last hidden states.
        token_ids (`torch.Tensor`): `[m]`, ids of the tokens.

    Returns:
        `torch.Tensor`: `[..., m]`, before any soft-cap or scale of the model.
    """
    if has_hooks(head):
        return head(hidden)[..., token_ids]
    if isinstance(head, TrainableTokensWrapper) and (rows := trained_rows(head, token_ids)) is not None:
        return F.linear(hidden, rows)
    if type(head) is nn.Linear:
        return F.linear(hidden, head.weight[token_ids], None if head.bias is None else head.bias[token_ids])
    return head(hidden)[..., token_ids]
