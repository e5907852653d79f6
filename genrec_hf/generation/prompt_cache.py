"""Prompt caches: run a model once on each prompt, and then on the hypotheses that continue it."""

import threading
from functools import cache
from inspect import signature
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel, StaticCache

from genrec_hf.generation.attention import hypothesis_decoder
from genrec_hf.internals.torch import compiled_by_shape
from genrec_hf.internals.transformers import attention_of, cache_name, keeps_key_values
from genrec_hf.models import decoder_log_norm, decoder_logits, is_plain, log_sum_exp

# Prompts of a static cache are padded to a multiple of this, so that few graphs are compiled.
STATIC_STRIDE = 64


class PromptCache(Protocol):
    """Cached state of a batch of prompts and of the hypotheses that continue them, one token a call.

    An object serves one batch and is not shared. Implementations decide what is cached: a causal language model keeps
    keys and values, an encoder-decoder would keep its encoder states.
    """

    model: PreTrainedModel

    def read(self, prompt: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """Run the model on the prompts.

        Args:
            prompt (`dict`): `input_ids` `[rows, length]` or `inputs_embeds` `[rows, length, d]`, left-padded.
            mask (`torch.Tensor`): `[rows, length]`, 0 on padding.

        Returns:
            `torch.Tensor`: states `[rows, 1, d]` of the last position, for `logits` and `log_norm`.
        """

    def extend(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Run the model on one more token for each of `n` hypotheses.

        Args:
            tokens (`torch.Tensor`): `[rows, n]`, the tokens to append.
            parents (`torch.Tensor`): `[rows, n]`, index of the hypothesis of the last call that each is appended to.

        Returns:
            `torch.Tensor`: states `[rows, n, d]` of the new tokens.
        """

    def logits(self, states: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Compute logits of some tokens.

        Args:
            states (`torch.Tensor`): `[rows, n, d]`, from `read` or `extend`.
            token_ids (`torch.Tensor`): `[m]`.

        Returns:
            `torch.Tensor`: `[rows, n, m]`.
        """

    def log_norm(self, states: torch.Tensor, temperature: float) -> torch.Tensor:
        """Compute `logsumexp(logits / temperature)` over the whole vocabulary.

        Args:
            states (`torch.Tensor`): `[rows, n, d]`, from `read` or `extend`.
            temperature (`float`): divides the logits.

        Returns:
            `torch.Tensor`: `[rows, n]`, float32.
        """


def start_prompt_cache(
    model: PreTrainedModel,
    *,
    length: int,
    hypotheses: int,
    levels: int,
    static: bool = False,
    decoder: nn.Module | None = None,
) -> PromptCache:
    """Create the fastest prompt cache that is exact for a model.

    Args:
        model (`PreTrainedModel`): a causal language model.
        length (`int`): length of the prompts, padding included.
        hypotheses (`int`): maximum number of hypotheses for each prompt.
        levels (`int`): number of tokens that are decoded.
        static (`bool`, defaults to `False`): use a static cache and one compiled graph for all steps.
        decoder (`nn.Module`, *optional*): `hypothesis_decoder(model)`, if it exists already; creating it takes a few
            milliseconds for a deep model.

    Returns:
        `PromptCache`: `SharedPromptCache` or, for models it is not exact for, `CopiedPromptCache`; with `static`
        `StaticPromptCache`.

    Raises:
        ValueError: the model is not a causal language model with a key-value cache, or cannot run in static mode.
    """
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"got {type(model).__name__}, an encoder-decoder: only causal language models are supported here; use "
            "plain `model.generate` with a SidLogitsProcessor"
        )
    shares = can_share_prompts(model, length + levels - 1)
    if not static:
        return SharedPromptCache(model, decoder) if shares else CopiedPromptCache(model)
    if not shares or _window(model) is not None:
        raise ValueError(
            f"got static=True for {model.config.model_type!r} with {attention_of(model.config)!r} attention: it needs "
            "a Llama-like model with full attention in every layer and attn_implementation 'sdpa' or 'eager'; leave "
            "static out"
        )
    return StaticPromptCache(model, hypotheses, levels)


def can_share_prompts(model: PreTrainedModel, length: int) -> bool:
    """Return whether `SharedPromptCache` is exact for a model.

    It needs softmax attention that accepts a 4D mask, positions from `position_ids`, and a sliding window, if any, as
    long as the sequence. Linear attention, ALiBi and flash attention handle masks or positions in other ways.

    Args:
        model (`PreTrainedModel`): a language model.
        length (`int`): length of the longest sequence, SID included.

    Returns:
        `bool`: whether it is exact.
    """
    window = _window(model)
    return is_plain(model) and attention_of(model.config) in ("eager", "sdpa") and (window or length) >= length


def _window(model: PreTrainedModel) -> int | None:
    """Return the sliding window of the layers in tokens; `None` when all attend to the whole sequence."""
    layers = getattr(model.config, "layer_types", None) or ["sliding_attention"]
    return getattr(model.config, "sliding_window", None) if "sliding_attention" in layers else None


class SharedPromptCache:
    """Prompt cache that keeps all hypotheses of a prompt in one sequence, and reads the prompt once for all of them.

    Each hypothesis attends to the prompt, to its ancestors and to itself.

    The key-value cache is appended to, never expanded or reordered: a prompt is stored once for any number of beams. A
    4D mask and explicit positions make every logit equal to that of a separate sequence (tree attention; Miao et al.
    2024, SpecInfer, section 4.2).

    Args:
        model (`PreTrainedModel`): a model that `can_share_prompts` holds for.
        decoder (`nn.Module`, *optional*): `hypothesis_decoder(model)`; created when not given.
    """

    def __init__(self, model: PreTrainedModel, decoder: nn.Module | None = None) -> None:
        self.model = model
        self.decoder: Any = hypothesis_decoder(model) if decoder is None else decoder

    def read(self, prompt: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """Run the model on the prompts, see `PromptCache`."""
        positions = _positions(mask)
        self.cache: Any = DynamicCache()
        self.visible = mask.bool()[:, None]
        self.last_position = positions[:, -1:]
        # Without padding no mask is needed, and attention is faster without one.
        attention_mask = None if bool(mask.all()) else mask
        hidden = _decode(self.model.base_model, prompt, attention_mask, positions, self.cache)
        return hidden[:, -1:].clone()  # a view would keep the states of whole prompts in memory

    def extend(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Run the model on one more token of each hypothesis, see `PromptCache`."""
        rows, beams = tokens.shape
        itself = torch.eye(beams, dtype=torch.bool, device=tokens.device).expand(rows, -1, -1)
        ancestors = self.visible.gather(1, parents[..., None].expand(-1, -1, self.visible.shape[2]))
        self.visible = torch.cat([ancestors, itself], dim=2)
        self.last_position = self.last_position + 1
        positions = self.last_position.expand(-1, beams)
        return self._step(tokens, self._mask(), positions)

    def logits(self, states: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Compute logits of some tokens, see `PromptCache`."""
        return decoder_logits(self.model, states, token_ids)

    def log_norm(self, states: torch.Tensor, temperature: float) -> torch.Tensor:
        """Compute the log-normalizer over the vocabulary, see `PromptCache`."""
        return decoder_log_norm(self.model, states, temperature)

    def _mask(self) -> torch.Tensor:
        """Return the mask `[rows, 1, beams, keys]` that is added to the attention scores."""
        hidden = torch.zeros_like(self.visible, dtype=self.model.dtype)
        return hidden.masked_fill_(~self.visible, float("-inf"))[:, None]

    def _step(self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return _decode(self.decoder, {"input_ids": tokens}, mask, positions, self.cache)


class StaticPromptCache(SharedPromptCache):
    """`SharedPromptCache` with fixed shapes, so that one compiled graph serves every step of every batch.

    Prompts are padded to a multiple of 64 tokens. The cache is allocated for a batch size, a length and a number of
    hypotheses; use few different ones. The cache of the last shape is kept for each model and thread.

    Args:
        model (`PreTrainedModel`): a model that `can_share_prompts` holds for, without sliding windows.
        hypotheses (`int`): maximum number of hypotheses for each prompt.
        levels (`int`): number of tokens that are decoded.
    """

    def __init__(self, model: PreTrainedModel, hypotheses: int, levels: int) -> None:
        super().__init__(model)
        self.max_new_keys = hypotheses * (levels - 1)

    def read(self, prompt: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """Run the model on the prompts, see `PromptCache`."""
        padding = -mask.shape[1] % STATIC_STRIDE
        mask = F.pad(mask, (padding, 0))
        ((name, value),) = prompt.items()
        value = F.pad(value, (padding, 0) if value.dim() == 2 else (0, 0, padding, 0))
        self.length = mask.shape[1] + self.max_new_keys
        self.cache = _static_cache(self.model, len(mask), self.length)
        positions = _positions(mask)
        self.visible, self.last_position = mask.bool()[:, None], positions[:, -1:]
        hidden = _decode(self.model.base_model, {name: value}, mask, positions, self.cache)
        return hidden[:, -1:].clone()  # a view would keep the states of whole prompts in memory

    def _mask(self) -> torch.Tensor:
        mask = super()._mask()
        return F.pad(mask, (0, self.length - mask.shape[3]), value=float("-inf"))

    def _step(self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        # Other strides would compile another graph.
        tokens, mask, positions = tokens.contiguous(), mask.contiguous(), positions.contiguous()
        return _compiled_decode()(self.model.base_model, {"input_ids": tokens}, mask, positions, self.cache)


class CopiedPromptCache:
    """Prompt cache with one row for each hypothesis, as in plain `generate`, for models that cannot share prompts.

    The prompts are read once and their cache is copied for the hypotheses. The states are logits over the whole
    vocabulary, because the model runs its own head. For models with linear attention, sliding windows shorter than the
    sequence, ALiBi or flash attention, and for architectures that are not known here.

    Args:
        model (`PreTrainedModel`): a causal language model with a key-value cache.

    Raises:
        ValueError: the model has no key-value cache.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        accepted = signature(model.forward).parameters
        has_cache = cache_name(model) is not None and keeps_key_values(DynamicCache(config=model.config))
        if not has_cache or model.config.model_type == "recurrent_gemma":
            raise ValueError(
                f"got {type(model).__name__}, which has no key-value cache: its state cannot be copied for the "
                "hypotheses; use plain `model.generate` with a SidLogitsProcessor"
            )
        self.model = model
        self.names = [name for name in ("position_ids", "logits_to_keep") if name in accepted]

    def read(self, prompt: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """Run the model on the prompts, see `PromptCache`."""
        self.cache = DynamicCache(config=self.model.config)
        self.mask = mask
        self.last_position = _positions(mask)[:, -1:]
        return self._forward(prompt, _positions(mask))[:, None]

    def extend(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Run the model on one more token of each hypothesis, see `PromptCache`."""
        rows, beams = tokens.shape
        last_beams = len(self.mask) // rows
        parent_rows = (torch.arange(rows, device=tokens.device)[:, None] * last_beams + parents).flatten()
        self.cache.reorder_cache(cast(torch.LongTensor, parent_rows))
        self.mask = F.pad(self.mask[parent_rows], (0, 1), value=1)
        self.last_position = self.last_position[parent_rows] + 1
        return self._forward({"input_ids": tokens.reshape(-1, 1)}, self.last_position).view(rows, beams, -1)

    def logits(self, states: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Select the logits of some tokens, see `PromptCache`."""
        return states[..., token_ids]

    def log_norm(self, states: torch.Tensor, temperature: float) -> torch.Tensor:
        """Compute the log-normalizer over the vocabulary, see `PromptCache`."""
        return log_sum_exp(states, temperature)

    def _forward(self, inputs: dict[str, torch.Tensor], positions: torch.Tensor) -> torch.Tensor:
        """Compute the logits `[rows, vocabulary]` of the last position."""
        options: dict[str, Any] = {"position_ids": positions, "logits_to_keep": 1}
        output = self.model(
            **inputs,
            **{name: options[name] for name in self.names},
            attention_mask=self.mask,
            **_cached(self.model, self.cache),
            use_cache=True,
        )
        return output.logits[:, -1].clone()


def _cached(module: nn.Module, key_values: Any) -> dict[str, Any]:
    """Return a key-value cache under the argument name that a module's `forward` accepts."""
    return {cast(str, cache_name(module)): key_values}


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def _decode(
    decoder: nn.Module, inputs: dict[str, torch.Tensor], mask: torch.Tensor | None, positions: torch.Tensor, cache: Any
) -> torch.Tensor:
    """Compute last hidden states of `input_ids` or `inputs_embeds`, and append keys and values to the cache."""
    return decoder(**inputs, attention_mask=mask, position_ids=positions, **_cached(decoder, cache)).last_hidden_state


@cache
def _compiled_decode() -> Any:
    # Up to 64 shapes in a process; torch's own limit is 8.
    return compiled_by_shape(_decode, 64)


class _StaticCaches(threading.local):
    """The last static cache of each model, one for each thread, so that requests do not share one."""

    def __init__(self) -> None:
        self.by_model: WeakKeyDictionary[PreTrainedModel, tuple[tuple[Any, ...], StaticCache]] = WeakKeyDictionary()


_STATIC_CACHES = _StaticCaches()


def _static_cache(model: PreTrainedModel, rows: int, length: int) -> StaticCache:
    """Return an empty cache; that of the last batch if it has the same shape, whose addresses the graph holds."""
    shape = (rows, length, model.dtype, model.device, torch.is_inference_mode_enabled())
    last_shape, static_cache = _STATIC_CACHES.by_model.get(model, (None, None))
    if static_cache is None or last_shape != shape:
        static_cache = StaticCache(config=model.config, max_cache_len=length)
        _STATIC_CACHES.by_model[model] = shape, static_cache
    static_cache.reset()
    return static_cache
