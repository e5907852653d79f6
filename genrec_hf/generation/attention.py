"""Attention of hypotheses on the CPU, which reads the keys of a group of heads in place."""

from typing import Any

from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel

from genrec_hf.internals.transformers import attention_of, sdpa_attention_forward, sdpa_mask, with_attention

# The name of `_grouped_attention` in the library.
GROUPED = "sdpa_grouped"


def hypothesis_decoder(model: PreTrainedModel) -> Any:
    """The decoder of `model` that reads hypotheses, whose attention has a mask.

    On the CPU, SDPA with a mask reads a group's keys in place there; other devices lack a fast kernel for that, and
    get the decoder itself. The model stays as it is, so that threads can share it: the modules that read a config are
    copied, and share weights, buffers, hooks and all other modules with the model.
    """
    decoder = model.base_model
    if model.device.type != "cpu" or attention_of(model.config) != "sdpa":
        return decoder
    return _with_grouped_attention(decoder, {})


def _with_grouped_attention(module: nn.Module, configs: dict[int, Any]) -> nn.Module:
    """`module`, or a copy where it or what is in it reads a config; `configs` are those copied so far, by id."""
    parts = {name: part and _with_grouped_attention(part, configs) for name, part in module._modules.items()}
    own: dict[str, Any] = {}
    config = module.__dict__.get("config")
    if isinstance(config, PreTrainedConfig) and attention_of(config) == "sdpa":
        if id(config) not in configs:
            configs[id(config)] = with_attention(config, GROUPED)
        own["config"] = configs[id(config)]
    if any(part is not module._modules[name] for name, part in parts.items()):
        own["_modules"] = parts
    if not own:
        return module
    copied = object.__new__(type(module))  # not by copy.copy: FSDP's classes are not made to be copied
    copied.__dict__ = module.__dict__ | own
    return copied


def _grouped_attention(module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
    """`sdpa_attention_forward` without its copies of the keys and values for every query head of a group."""
    if mask is None or any(kwargs.get(name) is not None for name in ("softcap", "position_bias", "cache")):
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    found = F.scaled_dot_product_attention(
        query, key, value, mask, dropout_p=kwargs.get("dropout", 0.0), scale=kwargs.get("scaling"), enable_gqa=True
    )
    return found.transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, _grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)
