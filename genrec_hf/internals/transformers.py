"""Names inside transformers that genrec_hf relies on; they are those of 5.23 and 5.24."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch import nn
from transformers import Cache, LlamaConfig, LlamaForCausalLM, PreTrainedConfig, masking_utils
from transformers.integrations import deepspeed, sdpa_attention

from genrec_hf.internals import require

# What `forward` calls the key-value cache: `cache` since transformers 5.24, `past_key_values` before.
CACHE_NAMES = ("cache", "past_key_values")


def cache_name(module: nn.Module) -> str | None:
    """Name of the key-value cache among the arguments of a module's `forward`; `None` where it takes none."""
    return _cache_name(module.forward)


def _cache_name(forward: Any) -> str | None:
    accepted = signature(forward).parameters
    return next((name for name in CACHE_NAMES if name in accepted), None)


require(
    "transformers",
    {
        f"key-value cache called {' or '.join(CACHE_NAMES)} in `forward`": _cache_name(LlamaForCausalLM.forward)
        is not None,
        "PreTrainedConfig._attn_implementation": hasattr(LlamaConfig(), "_attn_implementation"),
        "integrations.deepspeed._hf_deepspeed_config_weak_ref": hasattr(deepspeed, "_hf_deepspeed_config_weak_ref"),
        "integrations.sdpa_attention.sdpa_attention_forward": hasattr(sdpa_attention, "sdpa_attention_forward"),
        "masking_utils.sdpa_mask": hasattr(masking_utils, "sdpa_mask"),
    },
)

sdpa_attention_forward, sdpa_mask = sdpa_attention.sdpa_attention_forward, masking_utils.sdpa_mask


def cache_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """The key-value cache among keyword arguments or outputs of a model, by its name there; empty without one."""
    name = next((name for name in CACHE_NAMES if values.get(name) is not None), None)
    return {} if name is None else {name: values[name]}


def keeps_key_values(cache: Cache) -> bool:
    """Whether a cache keeps keys and values of attention, and not the states of linear attention alone."""
    return not cache.is_linear or not all(cache.is_linear)


def attention_of(config: Any) -> str:
    """Name of the attention function that a model's config chooses, such as `"sdpa"`."""
    return config._attn_implementation


def with_attention(config: PreTrainedConfig, name: str) -> PreTrainedConfig:
    """A copy of a config that chooses another attention function."""
    copied = copy.copy(config)
    copied._attn_implementation = name
    return copied


def mark_initialized(model: nn.Module) -> None:
    """Keep the weights of a model that becomes part of another one, whose `post_init` would draw them anew."""
    for module in model.modules():
        module._is_hf_initialized = True  # type: ignore[assignment]


@contextmanager
def whole_under_zero3() -> Iterator[None]:
    """Load models whole where DeepSpeed ZeRO-3 is configured, which otherwise loads them in shards."""
    config = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config
