"""Grouped-query attention on the CPU that does not copy keys and values for every query head."""

from typing import Any

from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel

from genrec_hf.internals.transformers import attention_of, sdpa_attention_forward, sdpa_mask, with_attention

# The name that `_grouped_attention` is registered under in transformers.
GROUPED = "sdpa_grouped"


def hypothesis_decoder(model: PreTrainedModel) -> Any:
    """Return the decoder of a model to run hypotheses with, whose attention always has a mask.

    On the CPU, its SDPA reads the keys and values of a group of query heads without copying them. Other devices have
    no fast kernel for that with a mask, and the model's own decoder is returned. The model is not changed, so that
    threads can share it: the modules that read a config are copied, and share weights, buffers, hooks and all other
    modules with the model.

    Args:
        model (`PreTrainedModel`): a causal language model.

    Returns:
        `nn.Module`: returns `last_hidden_state`, as `model.base_model` does.
    """
    decoder = model.base_model
    if model.device.type != "cpu" or attention_of(model.config) != "sdpa":
        return decoder
    return _with_grouped_attention(decoder, {})


def _with_grouped_attention(module: nn.Module, configs: dict[int, Any]) -> nn.Module:
    """Return `module`, or a copy if it or a submodule reads a config; `configs` are the copied ones, by id."""
    submodules = {name: part and _with_grouped_attention(part, configs) for name, part in module._modules.items()}
    changed: dict[str, Any] = {}
    config = module.__dict__.get("config")
    if isinstance(config, PreTrainedConfig) and attention_of(config) == "sdpa":
        if id(config) not in configs:
            configs[id(config)] = with_attention(config, GROUPED)
        changed["config"] = configs[id(config)]
    if any(part is not module._modules[name] for name, part in submodules.items()):
        changed["_modules"] = submodules
    if not changed:
        return module
    copied = object.__new__(type(module))  # not copy.copy, which FSDP's classes do not support
    copied.__dict__ = module.__dict__ | changed
    return copied


def _grouped_attention(module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
    """Run `sdpa_attention_forward` without its copies of keys and values for every query head of a group."""
    if mask is None or any(kwargs.get(name) is not None for name in ("softcap", "position_bias", "cache")):
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    output = F.scaled_dot_product_attention(
        query, key, value, mask, dropout_p=kwargs.get("dropout", 0.0), scale=kwargs.get("scaling"), enable_gqa=True
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, _grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)
