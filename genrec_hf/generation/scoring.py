"""Differentiable log-probabilities of given SIDs, and samples of lists of SIDs."""

from typing import Literal, NamedTuple, get_args

import torch

from genrec_hf.checks import check_choice
from genrec_hf.generation.prompt_cache import PromptCache
from genrec_hf.generation.trie import SidTrie
from genrec_hf.models import log_sum_exp

# What a token's probability is normalized over: the children in the trie, or the whole vocabulary.
Normalization = Literal["trie", "full"]


class SidScores(NamedTuple):
    """Scores of SIDs, each `[rows, n, levels]`, float32.

    Attributes:
        log_probs (`torch.Tensor`): log-probability of each token given those before it.
        entropy (`torch.Tensor`): entropy of the distribution of each token, in nats, without a gradient.
    """

    log_probs: torch.Tensor
    entropy: torch.Tensor


def score_sids(
    prompt_cache: PromptCache,
    prompt: dict[str, torch.Tensor],
    mask: torch.Tensor,
    *,
    trie: SidTrie,
    tokens: torch.Tensor,
    normalization: Normalization = "trie",
    temperature: float = 1.0,
) -> SidScores:
    """Compute log-probabilities of SIDs after their prompts; each prompt is read once for any number of SIDs.

    With `"trie"`, they equal the log-probabilities that `decode` and `sid_sample` return for the SIDs they select, so
    that the first importance ratio of a policy gradient is 1.

    Args:
        prompt_cache (`PromptCache`): from `start_prompt_cache`, of a model without gradient checkpointing.
        prompt (`dict`): `input_ids` `[rows, length]` or `inputs_embeds` `[rows, length, d]`, left-padded.
        mask (`torch.Tensor`): `[rows, length]`, 0 on padding.
        trie (`SidTrie`): the catalogue, with token ids, on the device of the prompts.
        tokens (`torch.Tensor`): `[rows, n, levels]`, SIDs as token ids, or `[rows, n, k * levels]`, lists of `k` SIDs
            one after the other; with `"full"`, any tokens.
        normalization (`str`, defaults to `"trie"`): what a token's probability is normalized over: `"trie"` the
            children in the trie, `"full"` the whole vocabulary.
        temperature (`float`, defaults to 1.0): divides the logits.

    Returns:
        `SidScores`: in the shape of `tokens`.

    Raises:
        ValueError: `normalization` is unknown, or with `"trie"`, `tokens` are not SIDs of items.
    """
    num_samples, steps = tokens.shape[1:]
    return _run_steps(
        prompt_cache,
        prompt,
        mask,
        trie=trie,
        num_samples=num_samples,
        steps=steps,
        normalization=normalization,
        temperature=temperature,
        given_tokens=tokens,
    )[1]


@torch.no_grad()
def sample_sids(
    prompt_cache: PromptCache,
    prompt: dict[str, torch.Tensor],
    mask: torch.Tensor,
    *,
    trie: SidTrie,
    num_samples: int,
    length: int = 1,
    normalization: Normalization = "trie",
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample lists of SIDs independently, one SID after the other; with `"full"`, any tokens in their place.

    Args:
        prompt_cache (`PromptCache`): from `start_prompt_cache`.
        prompt (`dict`): `input_ids` `[rows, length]` or `inputs_embeds` `[rows, length, d]`, left-padded.
        mask (`torch.Tensor`): `[rows, length]`, 0 on padding.
        trie (`SidTrie`): the catalogue, with token ids, on the device of the prompts.
        num_samples (`int`): number of samples for each prompt.
        length (`int`, defaults to 1): number of SIDs in a list; an item may occur more than once.
        normalization (`str`, defaults to `"trie"`): what each token is sampled from: `"trie"` the children in the
            trie, `"full"` the whole vocabulary.
        temperature (`float`, defaults to 1.0): divides the logits.

    Returns:
        `tuple`: token ids `[rows, num_samples, length * levels]`, and their log-probabilities, of the same shape.

    Raises:
        ValueError: `normalization` is unknown.
    """
    tokens, scores = _run_steps(
        prompt_cache,
        prompt,
        mask,
        trie=trie,
        num_samples=num_samples,
        steps=length * trie.levels,
        normalization=normalization,
        temperature=temperature,
        given_tokens=None,
    )
    return tokens, scores.log_probs


def _run_steps(
    prompt_cache: PromptCache,
    prompt: dict[str, torch.Tensor],
    mask: torch.Tensor,
    *,
    trie: SidTrie,
    num_samples: int,
    steps: int,
    normalization: Normalization,
    temperature: float,
    given_tokens: torch.Tensor | None,
) -> tuple[torch.Tensor, SidScores]:
    """Run the model step by step on `given_tokens` `[rows, num_samples, steps]`, or on tokens that it samples."""
    check_choice("normalization", normalization, get_args(Normalization))
    parents = torch.zeros(len(mask), num_samples, dtype=torch.long, device=mask.device)
    own_index = torch.arange(num_samples, device=mask.device).expand(len(mask), -1)
    nodes = parents[:, :1]
    tokens: list[torch.Tensor] = []
    scores: list[tuple[torch.Tensor, torch.Tensor]] = []
    for step in range(steps):
        level = step % trie.levels
        if step == 0:
            states = prompt_cache.read(prompt, mask)
        else:
            states = prompt_cache.extend(tokens[-1], parents)
            parents = own_index
        if level == 0:
            nodes = torch.zeros_like(nodes)
        if normalization == "full":
            log_probs = _log_probs_over_vocabulary(prompt_cache, states, temperature)
            children, child_tokens = None, None
        else:
            log_probs, children, child_tokens = _log_probs_over_children(
                prompt_cache, states, trie, level, nodes, temperature
            )
        if given_tokens is None:
            index = _sample(log_probs, num_samples)
        else:
            index = _find_tokens(child_tokens, given_tokens[..., step])
        tokens.append(index if child_tokens is None else _gather(child_tokens, index))
        scores.append(_gather_scores(log_probs, index))
        if children is not None:
            nodes = _gather(children, index)
    return torch.stack(tokens, dim=2), SidScores(*(torch.stack(parts, dim=2) for parts in zip(*scores, strict=True)))


def _log_probs_over_vocabulary(prompt_cache: PromptCache, states: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute log-probabilities `[rows, 1 or n, vocabulary]` of all tokens."""
    token_ids = torch.arange(prompt_cache.model.config.get_text_config().vocab_size, device=states.device)
    logits = prompt_cache.logits(states, token_ids).float() / temperature
    return logits - log_sum_exp(logits)[..., None]


def _log_probs_over_children(
    prompt_cache: PromptCache, states: torch.Tensor, trie: SidTrie, level: int, nodes: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute log-probabilities, nodes and token ids, each `[rows, 1 or n, children]`, of the children of `nodes`."""
    assert trie.token_ids is not None
    children, codes, exists = trie.children(level, nodes)
    logits = prompt_cache.logits(states, trie.token_ids[level])
    codes, exists, children = (values.expand(-1, logits.shape[1], -1) for values in (codes, exists, children))
    logits = (logits.gather(2, codes).float() / temperature).masked_fill(~exists, float("-inf"))
    tokens = trie.token_ids[level][codes].masked_fill(~exists, -1)
    return logits - log_sum_exp(logits)[..., None], children, tokens


def _find_tokens(child_tokens: torch.Tensor | None, tokens: torch.Tensor) -> torch.Tensor:
    """Return the index of `tokens` `[rows, n]` among `child_tokens` `[rows, 1 or n, children]`, or in the vocabulary.

    `child_tokens` is `None` for the vocabulary, where a token's index is its id.
    """
    if child_tokens is None:
        return tokens
    match = child_tokens == tokens[..., None]
    if not bool(match.any(dim=-1).all()):
        raise ValueError(
            "got tokens that are not SIDs of items: they have no probability under normalization='trie'; score them "
            "with normalization='full', as they were sampled"
        )
    return match.int().argmax(dim=-1)


def _sample(log_probs: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Sample indices `[rows, n]` from `log_probs` `[rows, 1 or n, m]`."""
    samples_each = num_samples if log_probs.shape[1] == 1 else 1
    return torch.multinomial(log_probs.exp().flatten(0, 1), samples_each, replacement=True).view(-1, num_samples)


def _gather(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Gather `values` `[rows, 1 or n, m]` at `index` `[rows, n]`, as `[rows, n]`."""
    return values.expand(-1, index.shape[1], -1).gather(2, index[..., None])[..., 0]


def _gather_scores(log_probs: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values at `index` and the entropies, both `[rows, n]`, of `log_probs` `[rows, 1 or n, m]`."""
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs.masked_fill(log_probs == float("-inf"), 0)).sum(dim=-1)
    return _gather(log_probs, index), entropy.expand_as(index)
