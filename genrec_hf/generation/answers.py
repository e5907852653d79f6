"""Answers in words held to a list, such as the titles of candidates."""

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from genrec_hf.internals.transformers import cache_in


@torch.no_grad()
def answer_log_probs(
    model: PreTrainedModel | PeftModel, prompt: Sequence[int], answers: Sequence[Sequence[int]]
) -> torch.Tensor:
    """How likely a model is to complete a prompt with each of some answers, whole.

    The prompt is read once, and every leaf of the answers' trie is scored, so the likeliest answer is found where a
    narrower search held to the trie may lose it. End the answers with the end-of-sequence token, or a title that
    starts another would always be at least as likely.

    Args:
        model (`PreTrainedModel` or `PeftModel`): in evaluation mode, with collaborative vectors or without.
        prompt (`Sequence[int]`): token ids, perhaps with the places of vectors.
        answers (`Sequence[Sequence[int]]`): token ids of each.

    Returns:
        `torch.Tensor`: `[answers]`, sums of log-probabilities over the whole vocabulary, float32.

    Raises:
        ValueError: without answers, or on one without a token.
    """
    if not answers or not all(answers):
        raise ValueError(
            f"got {len(answers)} answers, {sum(map(bool, answers))} of them with tokens; give one at least"
        )
    start = model(input_ids=torch.tensor([list(prompt)], device=model.device), use_cache=True, logits_to_keep=1)
    cached = cache_in(start)
    for cache in cached.values():
        cache.batch_repeat_interleave(len(answers))
    ids = pad_sequence([torch.tensor(answer, device=model.device) for answer in answers], True, -1)
    # What is padded stands last, so that nothing before it reads it.
    after = model(input_ids=ids.clamp(min=0), **cached).logits[:, :-1]
    logits = torch.cat([start.logits.expand(len(answers), -1, -1), after], dim=1)
    log_probs = logits.float().log_softmax(dim=-1).gather(2, ids.clamp(min=0)[..., None])[..., 0]
    return log_probs.masked_fill(ids < 0, 0).sum(dim=1)
