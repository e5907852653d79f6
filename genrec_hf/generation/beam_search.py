"""Beam search over the catalogue, for `model.generate(custom_generate=...)`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from genrec_hf.generation.custom_generate import SidOutput, read_request, sid_output
from genrec_hf.generation.decoding import Normalization, decode
from genrec_hf.generation.diversity import CappedBeams
from genrec_hf.generation.filters import RequestFilters
from genrec_hf.generation.prompt_cache import start_prompt_cache
from genrec_hf.generation.search_settings import SearchSettings
from genrec_hf.generation.trie import SidTrie
from genrec_hf.models import wrapping_of
from genrec_hf.ranking import Ranking, Rows


class BestBeams:
    """Selection of the most probable candidates of each level, as in beam search.

    Args:
        num_beams (`int`): number of hypotheses kept for each prompt.
    """

    def __init__(self, num_beams: int) -> None:
        self.num_beams = num_beams

    def __call__(self, level: int, totals: torch.Tensor, step: torch.Tensor, children: torch.Tensor) -> torch.Tensor:
        """Select as `genrec_hf.generation.decoding.Select` says."""
        candidates = (totals[..., None] + step).flatten(1)
        return candidates.topk(min(self.num_beams, candidates.shape[1]), dim=1).indices


def sid_beam_search(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    *,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    trie: SidTrie | None = None,
    num_beams: int = 20,
    num_return_sequences: int | None = None,
    normalization: Normalization = "full",
    deny: Sequence[Rows] | None = None,
    allow: Sequence[Rows | None] | None = None,
    static: bool = False,
    **model_kwargs: Any,
) -> torch.Tensor | SidOutput:
    """Search the most probable items, for `model.generate(**inputs, custom_generate=sid_beam_search, ...)`.

    Returns the same beams as `generate(num_beams=num_beams)` with a `SidLogitsProcessor`, in the same order and with
    the same scores, but is many times faster: each prompt is read once instead of once for each beam, the key-value
    cache is not copied, there are as many forward passes as a SID has tokens with no step for an end token, and the
    normalizations `"level"` and `"trie"` compute only the rows of the language-model head that belong to SIDs.

    `num_beams` is an argument of this function. It is refused in the generation config, where `generate` would repeat
    the prompts for it. With PEFT's `adapter_names`, which are repeated for the `num_beams` that `generate` gets, pass
    `custom_generate=functools.partial(sid_beam_search, num_beams=50)`.

    The sampling settings of a checkpoint's generation config (`temperature`, `top_k`, `repetition_penalty`, ...) are
    not applied; settings that you pass yourself are refused. `sequences_scores` are returned without
    `output_scores=True`; the scores of single steps are not returned.

    Args:
        model (`PreTrainedModel`): a causal language model. `generate` passes this argument and the next four.
        input_ids (`torch.Tensor`): prompts `[rows, length]`, left-padded. `inputs_embeds` can be passed instead.
        logits_processor (`LogitsProcessorList`, *optional*): refused if it holds custom processors.
        stopping_criteria (`StoppingCriteriaList`, *optional*): refused if it holds custom criteria: a SID always
            has `levels` tokens.
        generation_config (`GenerationConfig`, *optional*): `length_penalty`, `return_dict_in_generate` and the padding
            token are used.
        trie (`SidTrie`): the catalogue, `SidTrie(semantic_ids, vocabulary)`. Move it to the model's device once, or it
            is copied at every call.
        num_beams (`int`, defaults to 20): number of beams for each prompt.
        num_return_sequences (`int`, *optional*): number of beams that are returned for each prompt, best first. All of
            them when not given.
        normalization (`str`, defaults to `"full"`): what a token's probability is normalized over: `"full"` the whole
            vocabulary (as beam search of transformers does), `"level"` the tokens of its SID level, `"trie"` the
            children in the trie that the filters allow.
        deny (`Sequence`, *optional*): for each prompt, item rows that are not returned.
        allow (`Sequence`, *optional*): for each prompt, the only item rows that may be returned, or `None` for all.
        static (`bool`, defaults to `False`): use a static cache and one compiled graph for all steps; worth it for
            long runs.
        model_kwargs: `attention_mask`, `inputs_embeds` and the other inputs that `generate` prepares.

    Returns:
        `torch.Tensor`: prompts followed by SIDs, `[rows * num_return_sequences, length + levels]` (SIDs alone with
        `inputs_embeds`). An empty rank, of a catalogue with too few allowed items, holds the padding token. With
        `return_dict_in_generate=True` a `SidOutput`, whose `sequences_scores` are the log-probabilities divided by
        `levels ** length_penalty`.

    Raises:
        ValueError: `num_return_sequences` is not between 1 and `num_beams`, an argument would not be applied (see
            `read_request`), or the model's logits hold NaN or are `-inf` for every allowed token.

    Example:
        ```python
        trie = SidTrie(semantic_ids, vocabulary).to(model.device)
        output = model.generate(**inputs, custom_generate=sid_beam_search, trie=trie, num_return_sequences=10)
        items = vocabulary.items(output[:, inputs["input_ids"].shape[1] :].cpu().numpy())
        ```
    """
    request = read_request(
        model,
        input_ids,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        generation_config=generation_config,
        trie=trie,
        deny=deny,
        allow=allow,
        model_kwargs=model_kwargs,
    )
    count = num_beams if num_return_sequences is None else num_return_sequences
    if not 1 <= count <= num_beams:
        raise ValueError(f"got num_return_sequences={count} for num_beams={num_beams}: it must be from 1 to num_beams")
    prompt_cache = start_prompt_cache(
        request.model, length=request.mask.shape[1], hypotheses=num_beams, levels=request.trie.levels, static=static
    )
    hypotheses = decode(
        prompt_cache,
        request.prompt,
        request.mask,
        trie=request.trie,
        select=BestBeams(num_beams),
        normalization=normalization,
        filters=request.filters,
        min_candidates=num_beams if static else None,
    )
    penalty = request.config.length_penalty
    return sid_output(hypotheses, request, input_ids, count=count, length_penalty=1.0 if penalty is None else penalty)


def search_items(
    model: PreTrainedModel,
    batch: dict[str, torch.Tensor],
    *,
    trie: SidTrie,
    k: int,
    num_results: int,
    search: SearchSettings,
    normalization: Normalization,
    filters: RequestFilters | None = None,
    decoder: nn.Module | None = None,
) -> Ranking:
    """Rank the most probable items after each prompt of a batch, for `Recommender`.

    Args:
        model (`PreTrainedModel`): the language model, possibly wrapped, without PEFT's wrapper.
        batch (`dict`): `input_ids` and `attention_mask`, `[rows, length]`, left-padded.
        trie (`SidTrie`): the catalogue, with token ids, on the device of the prompts.
        k (`int`): length of the lists that are searched for, which the prefix cap applies to.
        num_results (`int`): number of beams that are returned, at least `k`.
        search (`SearchSettings`): number of beams, and prefix cap.
        normalization (`str`): see `sid_beam_search`.
        filters (`RequestFilters`, *optional*): the items that each row may get.
        decoder (`nn.Module`, *optional*): see `start_prompt_cache`.

    Returns:
        `Ranking`: `[rows, num_results]`, item rows and log-probabilities; `-1` and `-inf` for an empty rank.

    Raises:
        ValueError: `k` is larger than the number of beams, the prefix is not shorter than a SID, or as of `decode`.
    """
    num_beams, cap = search.beams_for(k), search.prefix_cap
    mask = batch["attention_mask"]
    select = BestBeams(num_beams) if cap is None else CappedBeams(num_beams, k, cap=cap, levels=trie.levels)
    with torch.no_grad():
        language_model, prompt = wrapping_of(model).prompt_inputs(batch["input_ids"])
    prompt_cache = start_prompt_cache(
        language_model, length=mask.shape[1], hypotheses=num_beams, levels=trie.levels, decoder=decoder
    )
    hypotheses = decode(
        prompt_cache, prompt, mask, trie=trie, select=select, normalization=normalization, filters=filters
    )
    padding = ((0, 0), (0, max(0, num_results - hypotheses.leaves.shape[1])))
    items = np.pad(trie.items(hypotheses.leaves).cpu().numpy(), padding, constant_values=-1)
    scores = np.pad(hypotheses.log_probs.float().cpu().numpy(), padding, constant_values=-np.inf)
    return Ranking(items[:, :num_results], scores[:, :num_results])
