"""Log-probabilities of given text answers, such as the titles of candidates."""

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
    """Compute the log-probability of each of several complete answers to one prompt.

    The model reads the prompt once and scores every answer, so that the most probable one is exact; a beam search over
    the answers could miss it. End each answer with the end-of-sequence token: without it, a title that is the
    beginning of another title is never less probable than that one.

    Args:
        model (`PreTrainedModel` or `PeftModel`): a causal language model in evaluation mode.
        prompt (`Sequence[int]`): token ids, including ids of collaborative vectors if the model reads them.
        answers (`Sequence[Sequence[int]]`): token ids of each answer.

    Returns:
        `torch.Tensor`: `[answers]`, float32, sums over tokens of log-probabilities normalized over the vocabulary.

    Raises:
        ValueError: there is no answer, or one has no tokens.
    """
    if not answers or not all(answers):
        raise ValueError(
            f"got {len(answers)} answers, {sum(map(bool, answers))} of them with tokens: pass at least one answer, "
            "each with at least one token"
        )
    prefill = model(input_ids=torch.tensor([list(prompt)], device=model.device), use_cache=True, logits_to_keep=1)
    cached = cache_in(prefill)
    for cache in cached.values():
        cache.batch_repeat_interleave(len(answers))
    ids = pad_sequence([torch.tensor(answer, device=model.device) for answer in answers], True, -1)
    # Padding is on the right, where no token attends to it.
    continued = model(input_ids=ids.clamp(min=0), **cached).logits[:, :-1]
    logits = torch.cat([prefill.logits.expand(len(answers), -1, -1), continued], dim=1)
    log_probs = logits.float().log_softmax(dim=-1).gather(2, ids.clamp(min=0)[..., None])[..., 0]
    return log_probs.masked_fill(ids < 0, 0).sum(dim=1)
