"""Sampling of items from the model's distribution over the catalogue, with or without replacement."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from genrec_hf.checks import check_least
from genrec_hf.generation.custom_generate import SidOutput, read_request, sid_output
from genrec_hf.generation.decoding import decode
from genrec_hf.generation.prompt_cache import start_prompt_cache
from genrec_hf.generation.trie import SidTrie
from genrec_hf.ranking import Rows


class IndependentSamples:
    """Selection of a random child of each hypothesis, by the Gumbel-max trick: sampling with replacement.

    Args:
        num_samples (`int`): number of samples for each prompt.
        generator (`torch.Generator`, *optional*): random number generator; torch's default one when not given.
    """

    def __init__(self, num_samples: int, generator: torch.Generator | None = None) -> None:
        self.num_samples, self.generator = num_samples, generator

    def __call__(self, level: int, totals: torch.Tensor, step: torch.Tensor, children: torch.Tensor) -> torch.Tensor:
        """Select as `genrec_hf.generation.decoding.Select` says."""
        rows, beams, max_children = step.shape
        step = step.expand(-1, self.num_samples, -1)  # all samples share one hypothesis at the root
        sampled = (step + _gumbel(step, self.generator)).argmax(dim=2)
        return (
            sampled + max_children * torch.arange(beams, device=step.device).expand(rows, -1) if beams > 1 else sampled
        )


class DistinctSamples:
    """Selection of distinct random candidates: sampling without replacement by stochastic beam search.

    Keeps the candidates with the highest sum of log-probability and Gumbel noise (Kool et al. 2019, algorithm 1). The
    noise of children is sampled under the condition that their largest sum equals that of their parent. The leaves
    are then a sample without replacement, in the order of sampling.

    Args:
        num_samples (`int`): number of samples for each prompt.
        generator (`torch.Generator`, *optional*): random number generator; torch's default one when not given.
    """

    def __init__(self, num_samples: int, generator: torch.Generator | None = None) -> None:
        self.num_samples, self.generator = num_samples, generator
        self.perturbed: torch.Tensor | None = None

    def __call__(self, level: int, totals: torch.Tensor, step: torch.Tensor, children: torch.Tensor) -> torch.Tensor:
        """Select as `genrec_hf.generation.decoding.Select` says."""
        log_probs = totals[..., None] + step
        perturbed = log_probs + _gumbel(step, self.generator)
        if level > 0 and self.perturbed is not None:
            # Equation 8 of the paper in the numerically stable form of appendix B.3.
            parent = self.perturbed[..., None]
            highest = perturbed.amax(dim=2, keepdim=True)
            gap = parent - perturbed + torch.log1p(-torch.exp(perturbed - highest))
            perturbed = parent - gap.clamp(min=0) - torch.log1p(torch.exp(-gap.abs()))
            perturbed = perturbed.masked_fill(~log_probs.isfinite(), float("-inf"))
        candidates = perturbed.flatten(1)
        self.perturbed, selected = candidates.topk(min(self.num_samples, candidates.shape[1]), dim=1)
        return selected


def sid_sample(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    *,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    trie: SidTrie | None = None,
    num_return_sequences: int = 1,
    temperature: float = 1.0,
    replacement: bool = True,
    deny: Sequence[Rows] | None = None,
    allow: Sequence[Rows | None] | None = None,
    generator: torch.Generator | None = None,
    static: bool = False,
    **model_kwargs: Any,
) -> torch.Tensor | SidOutput:
    """Sample items from the model, for `model.generate(**inputs, custom_generate=sid_sample, ...)`.

    The distribution is that of `generate(do_sample=True)` with a `SidLogitsProcessor`: at each level a softmax over
    the children in the trie that the filters allow. `sequences_scores` and `token_log_probs` are log-probabilities
    under this distribution, with temperature and filters, as a policy gradient needs them (log-probabilities over the
    whole vocabulary would be those of another policy). Each prompt is read once for any number of samples.

    Args:
        model (`PreTrainedModel`): a causal language model. `generate` passes this argument and the next four.
        input_ids (`torch.Tensor`): prompts `[rows, length]`, left-padded. `inputs_embeds` can be passed instead.
        logits_processor (`LogitsProcessorList`, *optional*): refused if it holds custom processors.
        stopping_criteria (`StoppingCriteriaList`, *optional*): refused if it holds custom criteria: a SID always
            has `levels` tokens.
        generation_config (`GenerationConfig`, *optional*): `return_dict_in_generate` and the padding token are used;
            the sampling settings of the checkpoint are not.
        trie (`SidTrie`): the catalogue, `SidTrie(semantic_ids, vocabulary)`. Move it to the model's device once, or it
            is copied at every call.
        num_return_sequences (`int`, defaults to 1): number of samples for each prompt.
        temperature (`float`, defaults to 1.0): divides the logits of every level; above 0.
        replacement (`bool`, defaults to `True`): sample with replacement, that is independently. `False` samples
            distinct items without replacement, in the order of sampling, fewer where fewer items are allowed; their
            scores are the log-probabilities of single independent samples.
        deny (`Sequence`, *optional*): for each prompt, item rows that are not returned.
        allow (`Sequence`, *optional*): for each prompt, the only item rows that may be returned, or `None` for all.
        generator (`torch.Generator`, *optional*): random number generator on the model's device; torch's default one
            when not given.
        static (`bool`, defaults to `False`): use a static cache and one compiled graph for all steps; worth it for
            long runs.
        model_kwargs: `attention_mask`, `inputs_embeds` and the other inputs that `generate` prepares.

    Returns:
        `torch.Tensor`: prompts followed by SIDs, `[rows * num_return_sequences, length + levels]` (SIDs alone with
        `inputs_embeds`). An empty rank holds the padding token. With `return_dict_in_generate=True` a `SidOutput`,
        whose `sequences_scores` are log-probabilities.

    Raises:
        ValueError: `num_return_sequences` is below 1, `temperature` is not above 0, an argument would not be applied
            (see `read_request`), or the model's logits hold NaN or are `-inf` for every allowed token.

    Example:
        ```python
        trie = SidTrie(semantic_ids, vocabulary).to(model.device)
        output = model.generate(
            **inputs, custom_generate=sid_sample, trie=trie, num_return_sequences=16, return_dict_in_generate=True
        )
        items, log_probs = trie.items(output.leaves), output.sequences_scores
        ```
    """
    check_least(1, num_return_sequences=num_return_sequences)
    if not temperature > 0:
        raise ValueError(
            f"got temperature={temperature}: it must be above 0; use sid_beam_search for the most probable items"
        )
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
    select = (IndependentSamples if replacement else DistinctSamples)(num_return_sequences, generator)
    prompt_cache = start_prompt_cache(
        request.model,
        length=request.mask.shape[1],
        hypotheses=num_return_sequences,
        levels=request.trie.levels,
        static=static,
    )
    hypotheses = decode(
        prompt_cache,
        request.prompt,
        request.mask,
        trie=request.trie,
        select=select,
        normalization="trie",
        filters=request.filters,
        temperature=temperature,
        min_candidates=num_return_sequences if static else None,
    )
    return sid_output(hypotheses, request, input_ids, count=num_return_sequences)


def _gumbel(like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Sample standard Gumbel noise in the shape, dtype and device of `like`."""
    noise = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    return -noise.exponential_(generator=generator).log_()
