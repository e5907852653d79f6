"""Forward passes that read each prompt once: hypotheses as tokens of one sequence, or as copies of the cache."""

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

# Static shapes: prompts are padded to a multiple of this, so that few graphs are compiled.
STATIC_STRIDE = 64


class PromptCache(Protocol):
    """A batch of prompts that are read once, and the hypotheses that grow from them by one token a call.

    It serves one batch and is not shared. How prompts are read is its own affair: a causal language model keeps their
    keys and values, an encoder-decoder would encode them and start its decoder.
    """

    model: PreTrainedModel

    def read(self, prompt: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """Read the prompts.

        Args:
            prompt (`dict`): `input_ids` `[rows, length]` or `inputs_embeds` `[rows, length, d]`, left-padded.
            mask (`torch.Tensor`): `[rows, length]`, 0 on padding.

        Returns:
            `torch.Tensor`: states `[rows, 1, d]`, from which `logits` and `log_norm` tell what follows.
        """

    def extend(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Append `tokens` `[rows, n]`, each to the hypothesis `parents` `[rows, n]` of the last call.

        Returns:
            `torch.Tensor`: `[rows, n, d]`, likewise for each.
        """

    def logits(self, states: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Logits `[rows, n, m]` of the tokens `[m]` after each of `states` `[rows, n, d]`."""

    def log_norm(self, states: torch.Tensor, temperature: float) -> torch.Tensor:
        """`[rows, n]`, float32: `logsumexp(logits / temperature)` over the whole vocabulary."""


def start_prompt_cache(
    model: PreTrainedModel,
    *,
    length: int,
    hypotheses: int,
    levels: int,
    static: bool = False,
    decoder: nn.Module | None = None,
) -> PromptCache:
    """The fastest way to read prompts and hypotheses that is exact for `model`.

    Args:
        model (`PreTrainedModel`): a causal language model.
        length (`int`): of the prompts, padding included.
        hypotheses (`int`): hypotheses a prompt.
        levels (`int`): tokens of a SID.
        static (`bool`, defaults to `False`): static cache, and one compiled graph for all steps.
        decoder (`nn.Module`, *optional*): `hypothesis_decoder(model)` where it was made before, which takes a few
            milliseconds for a deep model.

    Raises:
        ValueError: when the model is no causal language model, or cannot run in static mode.
    """
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"{type(model).__name__} is an encoder-decoder, SIDs are decoded by causal language models: use plain "
            "`model.generate` with a SidLogitsProcessor"
        )
    shares = can_share_prompts(model, length + levels - 1)
    if not static:
        return SharedPromptCache(model, decoder) if shares else CopiedPromptCache(model)
    if not shares or _window(model) is not None:
        raise ValueError(
            f"static=True got {model.config.model_type!r} with {attention_of(model.config)!r} attention: it "
            "needs a Llama-like model with full attention in every layer, loaded with attn_implementation='sdpa' or "
            "'eager'; leave static out"
        )
    return StaticPromptCache(model, hypotheses, levels)


def can_share_prompts(model: PreTrainedModel, length: int) -> bool:
    """Whether `SharedPromptCache` is exact for a model and sequences of up to `length` tokens.

    It needs softmax attention that takes a mask in four dimensions and positions from `position_ids`, and no window
    that a token falls out of. Linear attention, ALiBi and flash attention read masks and positions in other ways.
    """
    window = _window(model)
    return is_plain(model) and attention_of(model.config) in ("eager", "sdpa") and (window or length) >= length


def _window(model: PreTrainedModel) -> int | None:
    """How many tokens the narrowest layer looks back; `None` when all look back to the start."""
    layers = getattr(model.config, "layer_types", None) or ["sliding_attention"]
    return getattr(model.config, "sliding_window", None) if "sliding_attention" in layers else None


class SharedPromptCache:
    """Hypotheses stand side by side behind their prompt and attend to it, to their ancestors and to themselves.

    The cache is appended to, never expanded or reordered: a prompt is stored once, whatever the number of beams. A
    mask in four dimensions and explicit positions make every logit what a sequence of its own would give (tree
    attention; Miao et al. 2024, SpecInfer, section 4.2).
    """

    def __init__(self, model: PreTrainedModel, decoder: nn.Module | None = None) -> None:
        self.model = model
        self.decoder: Any = hypothesis_decoder(model) if decoder is None else decoder

    def read(self, prompt: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """See `PromptCache`."""
        positions = _positions(mask)
        self.cache: Any = DynamicCache()
        self.visible = mask.bool()[:, None]
        self.last_position = positions[:, -1:]
        # Without padding the mask says nothing, and attention is faster without one.
        attention_mask = None if bool(mask.all()) else mask
        hidden = _decode(self.model.base_model, prompt, attention_mask, positions, self.cache)
        return hidden[:, -1:].clone()  # a view would keep those of whole prompts alive

    def extend(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """See `PromptCache`."""
        rows, beams = tokens.shape
        itself = torch.eye(beams, dtype=torch.bool, device=tokens.device).expand(rows, -1, -1)
        ancestors = self.visible.gather(1, parents[..., None].expand(-1, -1, self.visible.shape[2]))
        self.visible = torch.cat([ancestors, itself], dim=2)
        self.last_position = self.last_position + 1
        positions = self.last_position.expand(-1, beams)
        return self._step(tokens, self._mask(), positions)

    def logits(self, states: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """See `PromptCache`."""
        return decoder_logits(self.model, states, token_ids)

    def log_norm(self, states: torch.Tensor, temperature: float) -> torch.Tensor:
        """See `PromptCache`."""
        return decoder_log_norm(self.model, states, temperature)

    def _mask(self) -> torch.Tensor:
        """`[rows, 1, beams, keys]`, added to the attention scores."""
        hidden = torch.zeros_like(self.visible, dtype=self.model.dtype)
        return hidden.masked_fill_(~self.visible, float("-inf"))[:, None]

    def _step(self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return _decode(self.decoder, {"input_ids": tokens}, mask, positions, self.cache)


class StaticPromptCache(SharedPromptCache):
    """`SharedPromptCache` with shapes that never change: one compiled graph serves every step of every batch.

    Prompts are padded to a multiple of 64 tokens and the cache is allocated once for a batch size, length and hypotheses;
    keep these few. The cache of the last shape is kept, for each model and thread.
    """

    def __init__(self, model: PreTrainedModel, hypotheses: int, levels: int) -> None:
        super().__init__(model)
        self.room = hypotheses * (levels - 1)

    def read(self, prompt: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """See `PromptCache`."""
        padding = -mask.shape[1] % STATIC_STRIDE
        mask = F.pad(mask, (padding, 0))
        ((name, value),) = prompt.items()
        value = F.pad(value, (padding, 0) if value.dim() == 2 else (0, 0, padding, 0))
        self.length = mask.shape[1] + self.room
        self.cache = _static_cache(self.model, len(mask), self.length)
        positions = _positions(mask)
        self.visible, self.last_position = mask.bool()[:, None], positions[:, -1:]
        hidden = _decode(self.model.base_model, {name: value}, mask, positions, self.cache)
        return hidden[:, -1:].clone()  # a view would keep those of whole prompts alive

    def _mask(self) -> torch.Tensor:
        mask = super()._mask()
        return F.pad(mask, (0, self.length - mask.shape[3]), value=float("-inf"))

    def _step(self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        # Other strides would be other graphs.
        tokens, mask, positions = tokens.contiguous(), mask.contiguous(), positions.contiguous()
        return _compiled_decode()(self.model.base_model, {"input_ids": tokens}, mask, positions, self.cache)


class CopiedPromptCache:
    """Each hypothesis is a row of its own, as in plain `generate`; the prompts are still read once, then copied.

    Its states are logits over the whole vocabulary: the model runs its own head.

    For what cannot share a prompt: linear attention, narrow windows, ALiBi, flash attention, families unknown here.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        accepted = signature(model.forward).parameters
        kept = cache_name(model) is not None and keeps_key_values(DynamicCache(config=model.config))
        if not kept or model.config.model_type == "recurrent_gemma":
            raise ValueError(
                f"{type(model).__name__} keeps its state in a way of its own, not in a key-value cache: use plain "
                "`model.generate` with a SidLogitsProcessor"
            )
        self.model = model
        self.names = [name for name in ("position_ids", "logits_to_keep") if name in accepted]

    def read(self, prompt: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """See `PromptCache`."""
        self.cache = DynamicCache(config=self.model.config)
        self.mask = mask
        self.last_position = _positions(mask)[:, -1:]
        return self._forward(prompt, _positions(mask))[:, None]

    def extend(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """See `PromptCache`."""
        rows, beams = tokens.shape
        before = len(self.mask) // rows
        copied = (torch.arange(rows, device=tokens.device)[:, None] * before + parents).flatten()
        self.cache.reorder_cache(cast(torch.LongTensor, copied))
        self.mask = F.pad(self.mask[copied], (0, 1), value=1)
        self.last_position = self.last_position[copied] + 1
        return self._forward({"input_ids": tokens.reshape(-1, 1)}, self.last_position).view(rows, beams, -1)

    def logits(self, states: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """See `PromptCache`."""
        return states[..., token_ids]

    def log_norm(self, states: torch.Tensor, temperature: float) -> torch.Tensor:
        """See `PromptCache`."""
        return log_sum_exp(states, temperature)

    def _forward(self, inputs: dict[str, torch.Tensor], positions: torch.Tensor) -> torch.Tensor:
        """All logits of the last position, `[rows, vocabulary]`."""
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
    """A key-value cache as the argument that a module takes it by."""
    return {cast(str, cache_name(module)): key_values}


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def _decode(
    decoder: nn.Module, inputs: dict[str, torch.Tensor], mask: torch.Tensor | None, positions: torch.Tensor, cache: Any
) -> torch.Tensor:
    """Last hidden states of `input_ids` or `inputs_embeds`, whose keys and values join the cache."""
    return decoder(**inputs, attention_mask=mask, position_ids=positions, **_cached(decoder, cache)).last_hidden_state


@cache
def _compiled_decode() -> Any:
    # For as many shapes as a process may meet; torch stops at 8 by itself.
    return compiled_by_shape(_decode, 64)


class _StaticCaches(threading.local):
    """The last cache of each model, for each thread its own: what a request writes belongs to no other."""

    def __init__(self) -> None:
        self.of: WeakKeyDictionary[PreTrainedModel, tuple[tuple[Any, ...], StaticCache]] = WeakKeyDictionary()


_STATIC_CACHES = _StaticCaches()


def _static_cache(model: PreTrainedModel, rows: int, length: int) -> StaticCache:
    """An empty cache for a shape; the one of the last batch where it has that shape, whose addresses are known."""
    wanted = (rows, length, model.dtype, model.device, torch.is_inference_mode_enabled())
    kind, static_cache = _STATIC_CACHES.of.get(model, (None, None))
    if static_cache is None or kind != wanted:
        static_cache = StaticCache(config=model.config, max_cache_len=length)
        _STATIC_CACHES.of[model] = wanted, static_cache
    static_cache.reset()
    return static_cache
