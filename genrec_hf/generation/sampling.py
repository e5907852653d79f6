"""`sid_sample`: items drawn from the model's distribution over the catalogue, with or without replacement."""

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
    """Independent draws: each hypothesis goes on with a child drawn by its probability (Gumbel-max).

    Args:
        num_samples (`int`): draws a row.
        generator (`torch.Generator`, *optional*): source of randomness; torch's own when not given.
    """

    def __init__(self, num_samples: int, generator: torch.Generator | None = None) -> None:
        self.num_samples, self.generator = num_samples, generator

    def __call__(self, level: int, totals: torch.Tensor, step: torch.Tensor, children: torch.Tensor) -> torch.Tensor:
        """See `genrec_hf.generation.decoding.Select`."""
        rows, beams, most = step.shape
        step = step.expand(-1, self.num_samples, -1)  # the root is the one hypothesis of all draws
        drawn = (step + _gumbel(step, self.generator)).argmax(dim=2)
        return drawn + most * torch.arange(beams, device=step.device).expand(rows, -1) if beams > 1 else drawn


class DistinctSamples:
    """IndependentSamples without replacement in one pass: the best by log-probability plus Gumbel noise, top down.

    Stochastic beam search (Kool et al. 2019, algorithm 1): a child's noise is drawn under the condition that the
    largest among siblings equals their parent's, so the leaves kept are a sample without replacement, in its order.

    Args:
        num_samples (`int`): draws a row.
        generator (`torch.Generator`, *optional*): source of randomness; torch's own when not given.
    """

    def __init__(self, num_samples: int, generator: torch.Generator | None = None) -> None:
        self.num_samples, self.generator = num_samples, generator
        self.perturbed: torch.Tensor | None = None

    def __call__(self, level: int, totals: torch.Tensor, step: torch.Tensor, children: torch.Tensor) -> torch.Tensor:
        """See `genrec_hf.generation.decoding.Select`."""
        log_probs = totals[..., None] + step
        perturbed = log_probs + _gumbel(step, self.generator)
        if level > 0 and self.perturbed is not None:
            # Equation 8 and appendix B.3 of the paper, in the form that does not overflow.
            parent = self.perturbed[..., None]
            highest = perturbed.amax(dim=2, keepdim=True)
            gap = parent - perturbed + torch.log1p(-torch.exp(perturbed - highest))
            perturbed = parent - gap.clamp(min=0) - torch.log1p(torch.exp(-gap.abs()))
            perturbed = perturbed.masked_fill(~log_probs.isfinite(), float("-inf"))
        candidates = perturbed.flatten(1)
        self.perturbed, chosen = candidates.topk(min(self.num_samples, candidates.shape[1]), dim=1)
        return chosen


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
    """Items drawn from the model, for `model.generate(**inputs, custom_generate=sid_sample, ...)`.

    The distribution is the model's, held to the catalogue: at each level a softmax over the legal children, as
    `generate(do_sample=True)` with a `SidLogitsProcessor` gives it. `sequences_scores` and `token_log_probs` are of
    that distribution, temperature and filters included, which is what a policy gradient needs (those of the whole
    vocabulary belong to another policy). Each prompt is read once, however many draws.

    Args:
        model (`PreTrainedModel`): a causal language model; passed by `generate`, as the next four are.
        input_ids (`torch.Tensor`): prompts `[rows, length]`, left-padded; `inputs_embeds` serve as well.
        logits_processor (`LogitsProcessorList`, *optional*): refused if you pass one of your own.
        stopping_criteria (`StoppingCriteriaList`, *optional*): likewise; a SID ends by its depth.
        generation_config (`GenerationConfig`, *optional*): `return_dict_in_generate` and the padding token are read;
            the sampling settings of a checkpoint are not.
        trie (`SidTrie`): the catalogue, `SidTrie(semantic_ids, vocabulary)`.
        num_return_sequences (`int`, defaults to 1): draws a prompt.
        temperature (`float`, defaults to 1.0): divides the logits of every level.
        replacement (`bool`, defaults to `True`): independent draws; `False`: distinct items, in the order of drawing
            without replacement, fewer where fewer are left (their scores are still those of a single draw).
        deny (`Sequence`, *optional*): for each prompt, item rows that may not come out.
        allow (`Sequence`, *optional*): for each prompt, the item rows that may come out, or `None` for all.
        generator (`torch.Generator`, *optional*): source of randomness, on the model's device.
        static (`bool`, defaults to `False`): as in `sid_beam_search`.
        model_kwargs: `attention_mask`, `inputs_embeds` and what else `generate` prepares.

    Returns:
        `torch.Tensor` or `SidOutput`: as `sid_beam_search` gives them; `sequences_scores` are log-probabilities.

    Raises:
        ValueError: when something asked for would not be done, or the model's logits hold NaN.
    """
    check_least(1, num_return_sequences=num_return_sequences)
    if not temperature > 0:
        raise ValueError(
            f"got temperature={temperature}; give one above 0, and for the single most probable item use "
            "sid_beam_search"
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
    found = decode(
        prompt_cache,
        request.prompt,
        request.mask,
        trie=request.trie,
        select=select,
        normalization="trie",
        filters=request.filters,
        temperature=temperature,
        places=num_return_sequences if static else None,
    )
    return sid_output(found, request, input_ids, count=num_return_sequences)


def _gumbel(like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    noise = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    return -noise.exponential_(generator=generator).log_()
