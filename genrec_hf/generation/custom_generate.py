"""Inputs and outputs of decoding for `model.generate(custom_generate=...)`: checks arguments, builds the result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.utils import ModelOutput, logging

from genrec_hf.generation.decoding import Hypotheses
from genrec_hf.generation.filters import RequestFilters
from genrec_hf.generation.trie import SidTrie
from genrec_hf.internals.transformers import CACHE_NAMES, cache_in, keeps_key_values
from genrec_hf.models import wrapping_of
from genrec_hf.ranking import Rows

logger = logging.get_logger(__name__)

# Arguments that `generate` prepares for every causal model, and that decoding does not need or computes by itself.
PREPARED_ARGUMENTS = frozenset([*CACHE_NAMES, "position_ids", "use_cache", "logits_to_keep", "cache_position"])

# Settings of a generation config that would change the result and are not implemented here, with their values that
# have no effect. Those of the checkpoint are ignored, those of the caller are refused.
UNSUPPORTED_SETTINGS: dict[str, tuple[Any, ...]] = {
    "temperature": (1.0,), "top_k": (0, 50), "top_p": (1.0,), "min_p": (0.0,), "typical_p": (1.0,),
    "repetition_penalty": (1.0,), "no_repeat_ngram_size": (0,), "bad_words_ids": (), "guidance_scale": (1.0,),
    "sequence_bias": (), "suppress_tokens": (), "stop_strings": (), "max_time": (),
}  # fmt: skip


@dataclass
class SidOutput(ModelOutput):
    """Output of `sid_beam_search` and `sid_sample` with `return_dict_in_generate=True`.

    `n` is `num_return_sequences`.

    Attributes:
        sequences (`torch.Tensor`): `[rows * n, length + levels]`, prompts followed by SIDs.
        sequences_scores (`torch.Tensor`): `[rows * n]`, log-probabilities of the SIDs, divided by
            `levels ** length_penalty` after a beam search; `-inf` for an empty rank.
        token_log_probs (`torch.Tensor`): `[rows * n, levels]`, log-probability of each SID token given those before
            it, under the distribution that was searched or sampled.
        leaves (`torch.Tensor`): `[rows * n]`, leaves of the trie, for `trie.items`; `-1` for an empty rank.
    """

    sequences: torch.Tensor | None = None
    sequences_scores: torch.Tensor | None = None
    token_log_probs: torch.Tensor | None = None
    leaves: torch.Tensor | None = None


@dataclass
class SidRequest:
    """Checked arguments of a call of `generate`.

    Attributes:
        model (`PreTrainedModel`): the language model to run.
        prompt (`dict`): `input_ids` `[rows, length]` or `inputs_embeds` `[rows, length, d]`.
        mask (`torch.Tensor`): `[rows, length]`, 0 on padding, which is on the left.
        trie (`SidTrie`): on the device of the prompts.
        filters (`RequestFilters` or `None`): from `deny` and `allow`; `None` without them.
        config (`GenerationConfig`): of the call, or the model's own.
    """

    model: PreTrainedModel
    prompt: dict[str, torch.Tensor]
    mask: torch.Tensor
    trie: SidTrie
    filters: RequestFilters | None
    config: GenerationConfig


def read_request(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    *,
    logits_processor: LogitsProcessorList | None,
    stopping_criteria: StoppingCriteriaList | None,
    generation_config: GenerationConfig | None,
    trie: SidTrie | None,
    deny: Sequence[Rows] | None,
    allow: Sequence[Rows | None] | None,
    model_kwargs: dict[str, Any],
) -> SidRequest:
    """Check the arguments that `generate` passes, and refuse those that would have no effect.

    Args:
        model (`PreTrainedModel`): as of `sid_beam_search`, as are the others.
        input_ids (`torch.Tensor`): `[rows, length]`.
        logits_processor (`LogitsProcessorList`, *optional*): refused if it holds processors of the caller.
        stopping_criteria (`StoppingCriteriaList`, *optional*): refused if it holds criteria of the caller.
        generation_config (`GenerationConfig`, *optional*): the model's own when not given.
        trie (`SidTrie`): with token ids.
        deny (`Sequence`, *optional*): one list for each prompt.
        allow (`Sequence`, *optional*): one list or `None` for each prompt.
        model_kwargs (`dict`): the other inputs.

    Returns:
        `SidRequest`: what decoding needs.

    Raises:
        ValueError: the trie is missing or has no token ids; a prompt is empty or padded on the right; there is not
            one filter for each prompt; or an argument or setting would not be applied.
    """
    config = generation_config or model.generation_config
    if trie is None or trie.token_ids is None:
        raise ValueError("got no trie, or one without token ids: pass trie=SidTrie(semantic_ids, vocabulary)")
    _refuse_unsupported(model, config, logits_processor, stopping_criteria, trie, model_kwargs)
    if getattr(model.prepare_inputs_for_generation, "__self__", model) is not model:
        raise ValueError(
            "got a model whose inputs another object prepares (PEFT's prompt or prefix tuning): the learned prompt "
            "would be left out; use plain `generate` with a SidLogitsProcessor"
        )
    embeds = model_kwargs.get("inputs_embeds")
    if (input_ids if embeds is None else embeds).shape[1] == 0:
        raise ValueError("got empty prompts: pass at least one token for each")
    model, prompt = wrapping_of(model).prompt_inputs(input_ids)
    prompt = prompt if embeds is None else {"inputs_embeds": embeds}
    (value,) = prompt.values()
    mask = model_kwargs.get("attention_mask")
    mask = torch.ones(value.shape[:2], dtype=torch.long, device=value.device) if mask is None else mask
    if mask.shape != value.shape[:2] or not bool(mask[:, -1].all()):
        raise ValueError(
            f"got attention_mask of shape {tuple(mask.shape)} for prompts of shape {tuple(value.shape[:2])}, or "
            "padding on the right: the SID follows the last position; pad on the left (padding_side='left')"
        )
    positions = model_kwargs.get("position_ids")
    if positions is not None and positions.shape == mask.shape:
        expected = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
        if bool(((positions != expected) & mask.bool()).any()):
            raise ValueError(
                "got position_ids that differ from those of attention_mask: they would not be applied; leave them out"
            )
    for name, lists in (("deny", deny), ("allow", allow)):
        if lists is not None and len(lists) != len(mask):
            raise ValueError(f"got {len(lists)} {name} lists for {len(mask)} prompts: pass one list for each prompt")
    if trie.device != mask.device:
        logger.warning_once(
            f"got a trie on {trie.device} and prompts on {mask.device}: the trie is copied at every call; move it "
            "once with trie = trie.to(model.device)"
        )
        trie = trie.to(mask.device)
    filters = None if deny is None and allow is None else RequestFilters(trie, deny, allow)
    return SidRequest(model, prompt, mask, trie, filters, config)


def sid_output(
    hypotheses: Hypotheses, request: SidRequest, input_ids: torch.Tensor, *, count: int, length_penalty: float = 0.0
) -> torch.Tensor | SidOutput:
    """Return the first `count` hypotheses of each row in the form that `generate` returns.

    Args:
        hypotheses (`Hypotheses`): from `decode`.
        request (`SidRequest`): what was decoded.
        input_ids (`torch.Tensor`): `[rows, length]`, put in front of the SIDs; of length 0 with `inputs_embeds`.
        count (`int`): hypotheses of each row; padded where there are fewer.
        length_penalty (`float`, defaults to 0.0): exponent of `levels`, which scores are divided by.

    Returns:
        `torch.Tensor` or `SidOutput`: see `sid_beam_search`.
    """
    config, levels = request.config, request.trie.levels
    missing = max(0, count - hypotheses.leaves.shape[1])
    leaves = F.pad(hypotheses.leaves[:, :count], (0, missing), value=-1).flatten()
    padding = config.pad_token_id if config.pad_token_id is not None else config.eos_token_id
    padding = (padding or [0])[0] if isinstance(padding, list | None) else padding
    tokens = F.pad(hypotheses.tokens[:, :count], (0, 0, 0, missing)).flatten(0, 1)
    tokens = torch.where(leaves[:, None] >= 0, tokens, padding)
    sequences = torch.cat([input_ids.repeat_interleave(count, dim=0), tokens], dim=1)
    if not config.return_dict_in_generate:
        return sequences
    log_probs = F.pad(hypotheses.log_probs[:, :count], (0, missing), value=float("-inf")).flatten()
    steps = F.pad(hypotheses.token_log_probs[:, :count], (0, 0, 0, missing), value=float("-inf")).flatten(0, 1)
    return SidOutput(sequences, log_probs / levels**length_penalty, steps, leaves)


def _refuse_unsupported(
    model: PreTrainedModel,
    config: GenerationConfig,
    logits_processor: LogitsProcessorList | None,
    stopping_criteria: StoppingCriteriaList | None,
    trie: SidTrie,
    model_kwargs: dict[str, Any],
) -> None:
    """Raise `ValueError` on arguments and settings that would not be applied."""
    if (config.num_beams or 1) > 1 or (config.num_return_sequences or 1) > 1:
        raise ValueError(
            f"got num_beams={config.num_beams}, num_return_sequences={config.num_return_sequences} in the generation "
            "config: generate repeats the prompts for them; leave them at 1 there, and pass num_beams and "
            "num_return_sequences to generate"
        )
    custom = [
        type(process).__name__
        for process in [*(logits_processor or []), *(stopping_criteria or [])]
        if not type(process).__module__.startswith("transformers.generation.")
    ]
    names = [type(processor).__name__ for processor in logits_processor or []]
    if custom or "PrefixConstrainedLogitsProcessor" in names:
        raise ValueError(
            f"got {custom or 'prefix_allowed_tokens_fn'}, which would not be applied: pass `trie`, `deny` and `allow` "
            "or use plain `generate` with a SidLogitsProcessor and your own"
        )
    if names:
        logger.warning_once(
            f"got {names}, which are not applied to SIDs: use plain `generate` with a SidLogitsProcessor to apply them"
        )
    settings = [
        f"{name}={value}"
        for name, neutral in UNSUPPORTED_SETTINGS.items()
        if (value := getattr(config, name, None)) not in (None, getattr(model.generation_config, name, None), *neutral)
    ]
    if settings:
        raise ValueError(
            f"got {settings}, which would not be applied: leave them out, or use plain `generate` with a "
            "SidLogitsProcessor"
        )
    if config.max_new_tokens is not None and config.max_new_tokens < trie.levels:
        raise ValueError(
            f"got max_new_tokens={config.max_new_tokens} for SIDs of {trie.levels} tokens, which would be cut: leave "
            "it out"
        )
    outputs = [
        name for name in ("output_logits", "output_attentions", "output_hidden_states") if getattr(config, name)
    ]
    if outputs and config.return_dict_in_generate:
        raise ValueError(
            f"got {outputs}, which are not returned: leave them out; sequences_scores and token_log_probs are "
            "returned without an option"
        )
    caches = cache_in(model_kwargs).values()
    if any(keeps_key_values(cache) and cache.get_seq_length() > 0 for cache in caches):
        raise ValueError(
            "got a key-value cache that already holds tokens: it would not be used; pass whole prompts without it"
        )
    unknown = set(model_kwargs) - PREPARED_ARGUMENTS - {"attention_mask", "inputs_embeds"}
    unknown = {name for name in unknown if model_kwargs[name] is not None}
    if unknown:
        raise ValueError(
            f"got {sorted(unknown)}, which would not reach the model: use plain `generate` with a SidLogitsProcessor"
        )
