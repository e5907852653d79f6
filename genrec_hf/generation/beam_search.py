"""`sid_beam_search`: beam search over the catalogue for `model.generate(custom_generate=...)`."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from genrec_hf.generation.custom_generate import SidOutput, read_request, sid_output
from genrec_hf.generation.decoding import Normalization, decode
from genrec_hf.generation.prompt_cache import start_prompt_cache
from genrec_hf.generation.trie import SidTrie
from genrec_hf.ranking import Rows


class BestBeams:
    """Keeps the most probable hypotheses, as beam search does.

    Args:
        num_beams (`int`): hypotheses kept.
    """

    def __init__(self, num_beams: int) -> None:
        self.num_beams = num_beams

    def __call__(self, level: int, totals: torch.Tensor, step: torch.Tensor, children: torch.Tensor) -> torch.Tensor:
        """See `genrec_hf.generation.decoding.Select`."""
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
    """The most probable items of the catalogue, for `model.generate(**inputs, custom_generate=sid_beam_search, ...)`.

    The beams of `generate(num_beams=num_beams)` with a `SidLogitsProcessor`, in the same order and with the same scores,
    many times faster: a prompt is read once and not once a beam, the cache is never copied, there are as many forward
    passes as a SID has tokens and no step for an end token, and with `normalization` `"level"` or `"trie"` only the SID rows
    of the head are computed. `num_beams` is an argument of this search; one in the
    generation config is refused, since `generate` repeats the prompts for it. With `adapter_names` of PEFT, which repeats the names for a
    `num_beams` that `generate` gets, pass `custom_generate=functools.partial(sid_beam_search, num_beams=50)`.

    The sampling settings of a checkpoint (`temperature`, `top_k`, `repetition_penalty`, ...) do not reach it, and
    what you pass yourself is refused. `sequences_scores` come without `output_scores`, scores of steps never.

    Args:
        model (`PreTrainedModel`): a causal language model; passed by `generate`, as the next four are.
        input_ids (`torch.Tensor`): prompts `[rows, length]`, left-padded; `inputs_embeds` serve as well.
        logits_processor (`LogitsProcessorList`, *optional*): refused if you pass one of your own.
        stopping_criteria (`StoppingCriteriaList`, *optional*): likewise; a SID ends by its depth.
        generation_config (`GenerationConfig`, *optional*): `length_penalty`, `return_dict_in_generate` and the padding
            token are read.
        trie (`SidTrie`): the catalogue, `SidTrie(semantic_ids, vocabulary)`; on the model's device it is not copied.
        num_beams (`int`, defaults to 20): beams a prompt.
        num_return_sequences (`int`, *optional*): the best of them that come back, `num_beams` when not given.
        normalization (`str`, defaults to `"full"`): what a token's probability is normalised over: `"full"` the whole
            vocabulary (Hugging Face's beam search), `"level"` the codes of its level, `"trie"` its legal siblings.
        deny (`Sequence`, *optional*): for each prompt, item rows that may not come out.
        allow (`Sequence`, *optional*): for each prompt, the item rows that may come out, or `None` for all.
        static (`bool`, defaults to `False`): static cache and one compiled graph for all steps, for long runs.
        model_kwargs: `attention_mask`, `inputs_embeds` and what else `generate` prepares.

    Returns:
        `torch.Tensor`: prompts and SIDs `[rows * num_return_sequences, length + levels]`, best first (SIDs alone under
        `inputs_embeds`); ranks that nothing is left for hold the padding token. With `return_dict_in_generate=True` a
        `SidOutput`, whose `sequences_scores` are the log-probabilities over `levels ** length_penalty`.

    Raises:
        ValueError: when something asked for would not be done, or the model's logits hold NaN.

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
        raise ValueError(
            f"num_return_sequences={count} of num_beams={num_beams} beams: ask for 1 to as many as there are beams"
        )
    prompt_cache = start_prompt_cache(
        request.model, length=request.mask.shape[1], hypotheses=num_beams, levels=request.trie.levels, static=static
    )
    found = decode(
        prompt_cache,
        request.prompt,
        request.mask,
        trie=request.trie,
        select=BestBeams(num_beams),
        normalization=normalization,
        filters=request.filters,
        places=num_beams if static else None,
    )
    penalty = request.config.length_penalty
    return sid_output(found, request, input_ids, count=count, length_penalty=1.0 if penalty is None else penalty)
