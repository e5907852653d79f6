"""Undocumented names of transformers that genrec_hf uses, as in versions 5.23 and 5.24."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch import nn
from transformers import Cache, LlamaConfig, LlamaForCausalLM, PreTrainedConfig, masking_utils
from transformers.integrations import deepspeed, sdpa_attention

from genrec_hf.internals import require

# Name of the key-value cache in `forward`: `cache` since transformers 5.24, `past_key_values` before.
CACHE_NAMES = ("cache", "past_key_values")


def cache_name(module: nn.Module) -> str | None:
    """Return the name of the key-value cache among the arguments of a module's `forward`.

    Args:
        module (`nn.Module`): the module.

    Returns:
        `str` or `None`: `"cache"` or `"past_key_values"`; `None` if `forward` takes no cache.
    """
    return _cache_argument(module.forward)


def _cache_argument(forward: Any) -> str | None:
    accepted = signature(forward).parameters
    return next((name for name in CACHE_NAMES if name in accepted), None)


require(
    "transformers",
    {
        f"key-value cache called {' or '.join(CACHE_NAMES)} in `forward`": _cache_argument(LlamaForCausalLM.forward)
        is not None,
        "PreTrainedConfig._attn_implementation": hasattr(LlamaConfig(), "_attn_implementation"),
        "integrations.deepspeed._hf_deepspeed_config_weak_ref": hasattr(deepspeed, "_hf_deepspeed_config_weak_ref"),
        "integrations.sdpa_attention.sdpa_attention_forward": hasattr(sdpa_attention, "sdpa_attention_forward"),
        "masking_utils.sdpa_mask": hasattr(masking_utils, "sdpa_mask"),
    },
)

sdpa_attention_forward, sdpa_mask = sdpa_attention.sdpa_attention_forward, masking_utils.sdpa_mask


def cache_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key-value cache among the keyword arguments or outputs of a model.

    Args:
        values (`Mapping[str, Any]`): arguments or outputs by name.

    Returns:
        `dict`: the cache by its name in `values`; empty if there is none.
    """
    name = next((name for name in CACHE_NAMES if values.get(name) is not None), None)
    return {} if name is None else {name: values[name]}


def keeps_key_values(cache: Cache) -> bool:
    """Return whether a cache holds keys and values of attention, and not only states of linear attention.

    Args:
        cache (`Cache`): the cache.

    Returns:
        `bool`: true if at least one layer holds keys and values.
    """
    return not cache.is_linear or not all(cache.is_linear)


def attention_of(config: Any) -> str:
    """Return the name of the attention implementation of a config, such as `"sdpa"`.

    Args:
        config (`PreTrainedConfig`): config of a model.

    Returns:
        `str`: the name.
    """
    return config._attn_implementation


def with_attention(config: PreTrainedConfig, name: str) -> PreTrainedConfig:
    """Return a copy of a config with another attention implementation.

    Args:
        config (`PreTrainedConfig`): config of a model; not changed.
        name (`str`): name of the attention implementation.

    Returns:
        `PreTrainedConfig`: the copy.
    """
    copied = copy.copy(config)
    copied._attn_implementation = name
    return copied


def mark_initialized(model: nn.Module) -> None:
    """Mark the weights of a model as initialized.

    `post_init` of a model that contains this one then keeps them instead of initializing them again.

    Args:
        model (`nn.Module`): the model; changed in place.
    """
    for module in model.modules():
        module._is_hf_initialized = True  # type: ignore[assignment]


@contextmanager
def whole_under_zero3() -> Iterator[None]:
    """Load models of the block in full although DeepSpeed ZeRO-3, which would partition them, is configured."""
    config = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config
