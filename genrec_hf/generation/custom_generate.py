"""Between `model.generate(custom_generate=...)` and the walk: what is read, what is refused, what comes back."""

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

# What `generate` prepares for every causal model, and is not needed or made anew here.
PREPARED = frozenset([*CACHE_NAMES, "position_ids", "use_cache", "logits_to_keep", "cache_position"])

# Settings that would change what comes out and are not done here, with the values that do nothing. Those that a
# checkpoint brings along are left out in peace, those of a caller are refused.
SHAPING: dict[str, tuple[Any, ...]] = {
    "temperature": (1.0,), "top_k": (0, 50), "top_p": (1.0,), "min_p": (0.0,), "typical_p": (1.0,),
    "repetition_penalty": (1.0,), "no_repeat_ngram_size": (0,), "bad_words_ids": (), "guidance_scale": (1.0,),
    "sequence_bias": (), "suppress_tokens": (), "stop_strings": (), "max_time": (),
}  # fmt: skip


@dataclass
class SidOutput(ModelOutput):
    """What `sid_beam_search` and `sid_sample` give under `return_dict_in_generate=True`.

    Attributes:
        sequences (`torch.Tensor`): `[rows * n, length + levels]`, as without the dict.
        sequences_scores (`torch.Tensor`): `[rows * n]`; `-inf` for a rank that nothing is left for.
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
    """A call of `generate`, checked."""

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
    """Check what `generate` hands over, and refuse what would be left out in silence.

    Raises:
        ValueError: see there.
    """
    config = generation_config or model.generation_config
    if trie is None or trie.token_ids is None:
        raise ValueError("trie is missing, or knows no tokens: pass trie=SidTrie(semantic_ids, vocabulary)")
    _refuse_what_is_not_done(model, config, logits_processor, stopping_criteria, trie, model_kwargs)
    if getattr(model.prepare_inputs_for_generation, "__self__", model) is not model:
        raise ValueError(
            "the model's inputs are prepared elsewhere (PEFT's prompt or prefix tuning): the learned prompt would be "
            "left out; use plain `generate` with a SidLogitsProcessor"
        )
    embeds = model_kwargs.get("inputs_embeds")
    if (input_ids if embeds is None else embeds).shape[1] == 0:
        raise ValueError("the prompts are empty: give each at least one token")
    model, prompt = wrapping_of(model).prompt_inputs(input_ids)
    prompt = prompt if embeds is None else {"inputs_embeds": embeds}
    (value,) = prompt.values()
    mask = model_kwargs.get("attention_mask")
    mask = torch.ones(value.shape[:2], dtype=torch.long, device=value.device) if mask is None else mask
    if mask.shape != value.shape[:2] or not bool(mask[:, -1].all()):
        raise ValueError(
            f"attention_mask {tuple(mask.shape)} for prompts {tuple(value.shape[:2])}: pad on the left "
            "(padding_side='left'), as what comes next follows the last position"
        )
    positions = model_kwargs.get("position_ids")
    if positions is not None and positions.shape == mask.shape:
        expected = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
        if bool(((positions != expected) & mask.bool()).any()):
            raise ValueError("position_ids of your own would not be read: they follow from attention_mask")
    for name, lists in (("deny", deny), ("allow", allow)):
        if lists is not None and len(lists) != len(mask):
            raise ValueError(f"{len(lists)} {name} lists for {len(mask)} prompts: pass one list for each prompt")
    if trie.device != mask.device:
        logger.warning_once(
            f"the trie is on {trie.device}, the prompts on {mask.device}: it is copied at every call; move it once, "
            "trie = trie.to(model.device)"
        )
        trie = trie.to(mask.device)
    filters = None if deny is None and allow is None else RequestFilters(trie, deny, allow)
    return SidRequest(model, prompt, mask, trie, filters, config)


def sid_output(
    found: Hypotheses, request: SidRequest, input_ids: torch.Tensor, *, count: int, length_penalty: float = 0.0
) -> torch.Tensor | SidOutput:
    """The first `count` hypotheses of each row in the shape that `generate` gives."""
    config, levels = request.config, request.trie.levels
    missing = max(0, count - found.leaves.shape[1])
    leaves = F.pad(found.leaves[:, :count], (0, missing), value=-1).flatten()
    padding = config.pad_token_id if config.pad_token_id is not None else config.eos_token_id
    padding = (padding or [0])[0] if isinstance(padding, list | None) else padding
    tokens = F.pad(found.tokens[:, :count], (0, 0, 0, missing)).flatten(0, 1)
    tokens = torch.where(leaves[:, None] >= 0, tokens, padding)
    sequences = torch.cat([input_ids.repeat_interleave(count, dim=0), tokens], dim=1)
    if not config.return_dict_in_generate:
        return sequences
    log_probs = F.pad(found.log_probs[:, :count], (0, missing), value=float("-inf")).flatten()
    steps = F.pad(found.token_log_probs[:, :count], (0, 0, 0, missing), value=float("-inf")).flatten(0, 1)
    return SidOutput(sequences, log_probs / levels**length_penalty, steps, leaves)


def _refuse_what_is_not_done(
    model: PreTrainedModel,
    config: GenerationConfig,
    logits_processor: LogitsProcessorList | None,
    stopping_criteria: StoppingCriteriaList | None,
    trie: SidTrie,
    model_kwargs: dict[str, Any],
) -> None:
    if (config.num_beams or 1) > 1 or (config.num_return_sequences or 1) > 1:
        raise ValueError(
            f"num_beams={config.num_beams}, num_return_sequences={config.num_return_sequences} in the generation "
            "config: the prompts were repeated for them; leave them at 1 there, and pass num_beams and "
            "num_return_sequences to generate"
        )
    own = [
        type(each).__name__
        for each in [*(logits_processor or []), *(stopping_criteria or [])]
        if not type(each).__module__.startswith("transformers.generation.")
    ]
    if own or any(type(each).__name__ == "PrefixConstrainedLogitsProcessor" for each in logits_processor or []):
        raise ValueError(
            f"{own or 'prefix_allowed_tokens_fn'} would not be applied: the trie alone holds the search; use `trie`, "
            "`deny` and `allow`, or plain `generate` with a SidLogitsProcessor beside your own"
        )
    if logits_processor:
        names = [type(each).__name__ for each in logits_processor]
        logger.warning_once(f"{names} are not applied: a checkpoint's generation config does not reach SIDs")
    settings = [
        f"{name}={value}"
        for name, neutral in SHAPING.items()
        if (value := getattr(config, name, None)) not in (None, getattr(model.generation_config, name, None), *neutral)
    ]
    if settings:
        raise ValueError(
            f"{settings} would not be applied: nothing shapes the search but `trie`, `deny`, `allow`, and the "
            "arguments of its own; use plain `generate` with a SidLogitsProcessor for more"
        )
    if config.max_new_tokens is not None and config.max_new_tokens < trie.levels:
        raise ValueError(f"max_new_tokens={config.max_new_tokens} cuts SIDs of {trie.levels} tokens: leave it out")
    asked = [name for name in ("output_logits", "output_attentions", "output_hidden_states") if getattr(config, name)]
    if asked and config.return_dict_in_generate:
        raise ValueError(f"{asked} are not kept: sequences_scores and token_log_probs come back without asking")
    caches = cache_in(model_kwargs).values()
    if any(keeps_key_values(cache) and cache.get_seq_length() > 0 for cache in caches):
        raise ValueError("the key-value cache already holds tokens: pass whole prompts, each is read once")
    unknown = set(model_kwargs) - PREPARED - {"attention_mask", "inputs_embeds"}
    unknown = {name for name in unknown if model_kwargs[name] is not None}
    if unknown:
        raise ValueError(
            f"{sorted(unknown)} would not reach the model: use plain `generate` with a SidLogitsProcessor"
        )
