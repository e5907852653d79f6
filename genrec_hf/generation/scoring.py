"""How likely given SIDs are, with gradients, over the very tokens that they are chosen among, and draws of several."""

from typing import Literal, NamedTuple, get_args

import torch

from genrec_hf.checks import check_choice
from genrec_hf.generation.prompt_cache import PromptCache
from genrec_hf.generation.trie import SidTrie
from genrec_hf.models import log_sum_exp

# What a token is one of: the legal children of the codes before it, or the whole vocabulary.
Normalization = Literal["trie", "full"]


class SidScores(NamedTuple):
    """`[rows, n, levels]` each, float32; the entropy, in nats, has no gradient."""

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
    """Log-probabilities of SIDs behind their prompts, which are read once however many SIDs each has.

    `decode` and `sid_sample` give the same numbers for what they choose (`"trie"`): the first ratio of a policy
    gradient to its rollouts is 1.

    Args:
        prompt_cache (`PromptCache`): from `start_prompt_cache`, of a model that does not checkpoint its activations.
        prompt (`dict`): `input_ids` or `inputs_embeds`, left-padded.
        mask (`torch.Tensor`): `[rows, length]`, 0 on padding.
        trie (`SidTrie`): the catalogue, with token ids, on the device of the prompts.
        tokens (`torch.Tensor`): `[rows, n, levels]`, SIDs as token ids, or `[rows, n, k * levels]`, lists of `k` SIDs
            in a row; with `"full"` any tokens.
        normalization (`str`, defaults to `"trie"`): what each token is normalised over: the legal children of those before
            it, or `"full"`, the whole vocabulary.
        temperature (`float`, defaults to 1.0): divides the logits.

    Raises:
        ValueError: with `"trie"`, on tokens that are no item's SID.
    """
    num_samples, steps = tokens.shape[1:]
    return _walk(
        prompt_cache,
        prompt,
        mask,
        trie=trie,
        num_samples=num_samples,
        steps=steps,
        normalization=normalization,
        temperature=temperature,
        given=tokens,
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
    """Independent draws of lists of SIDs, one SID behind the other, or of any tokens in their place.

    Args:
        prompt_cache (`PromptCache`): as in `score_sids`, and so are those that are not named here.
        prompt (`dict`): likewise.
        mask (`torch.Tensor`): likewise.
        trie (`SidTrie`): likewise.
        num_samples (`int`): draws a prompt.
        length (`int`, defaults to 1): SIDs in a list; an item may come twice.
        normalization (`str`, defaults to `"trie"`): what each token is drawn from.
        temperature (`float`, defaults to 1.0): likewise.

    Returns:
        `tuple`: tokens `[rows, num_samples, length * levels]`, and their log-probabilities, likewise.
    """
    tokens, scores = _walk(
        prompt_cache,
        prompt,
        mask,
        trie=trie,
        num_samples=num_samples,
        steps=length * trie.levels,
        normalization=normalization,
        temperature=temperature,
        given=None,
    )
    return tokens, scores.log_probs


def _walk(
    prompt_cache: PromptCache,
    prompt: dict[str, torch.Tensor],
    mask: torch.Tensor,
    *,
    trie: SidTrie,
    num_samples: int,
    steps: int,
    normalization: Normalization,
    temperature: float,
    given: torch.Tensor | None,
) -> tuple[torch.Tensor, SidScores]:
    """Step by step along `given` tokens `[rows, num_samples, steps]`, or along what is drawn."""
    check_choice("normalization", normalization, get_args(Normalization))
    parents = torch.zeros(len(mask), num_samples, dtype=torch.long, device=mask.device)
    own = torch.arange(num_samples, device=mask.device).expand(len(mask), -1)
    nodes = parents[:, :1]
    chosen: list[torch.Tensor] = []
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for step in range(steps):
        level = step % trie.levels
        if step == 0:
            states = prompt_cache.read(prompt, mask)
        else:
            states = prompt_cache.extend(chosen[-1], parents)
            parents = own
        if level == 0:
            nodes = torch.zeros_like(nodes)
        if normalization == "full":
            log_probs, nodes_below, tokens = _among_all(prompt_cache, states, temperature), None, None
        else:
            log_probs, nodes_below, tokens = _among_children(prompt_cache, states, trie, level, nodes, temperature)
        place = _drawn(log_probs, num_samples) if given is None else _place(tokens, given[..., step])
        chosen.append(place if tokens is None else _at(tokens, place))
        found.append(_taken(log_probs, place))
        if nodes_below is not None:
            nodes = _at(nodes_below, place)
    return torch.stack(chosen, dim=2), SidScores(*(torch.stack(each, dim=2) for each in zip(*found, strict=True)))


def _among_all(prompt_cache: PromptCache, states: torch.Tensor, temperature: float) -> torch.Tensor:
    everything = torch.arange(prompt_cache.model.config.get_text_config().vocab_size, device=states.device)
    logits = prompt_cache.logits(states, everything).float() / temperature
    return logits - log_sum_exp(logits)[..., None]


def _among_children(
    prompt_cache: PromptCache, states: torch.Tensor, trie: SidTrie, level: int, nodes: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities, nodes and tokens `[rows, 1 or n, children]` of what is below `nodes` `[rows, 1 or n]`."""
    assert trie.token_ids is not None
    children, codes, legal = trie.children(level, nodes)
    logits = prompt_cache.logits(states, trie.token_ids[level])
    codes, legal, children = (each.expand(-1, logits.shape[1], -1) for each in (codes, legal, children))
    logits = (logits.gather(2, codes).float() / temperature).masked_fill(~legal, float("-inf"))
    tokens = trie.token_ids[level][codes].masked_fill(~legal, -1)
    return logits - log_sum_exp(logits)[..., None], children, tokens


def _place(tokens: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor:
    """Where `wanted` `[rows, n]` stands among legal `tokens` `[rows, 1 or n, children]`; of all, at its own id."""
    if tokens is None:
        return wanted
    match = tokens == wanted[..., None]
    if not bool(match.any(dim=-1).all()):
        raise ValueError(
            "got tokens that are no item's SID: they have no probability among what is legal; score them with "
            "normalization='full', as they were drawn"
        )
    return match.int().argmax(dim=-1)


def _drawn(log_probs: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Places `[rows, n]` drawn from `log_probs` `[rows, 1 or n, m]`."""
    each = num_samples if log_probs.shape[1] == 1 else 1
    return torch.multinomial(log_probs.exp().flatten(0, 1), each, replacement=True).view(-1, num_samples)


def _at(values: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """`values` `[rows, 1 or n, m]` at `place` `[rows, n]`."""
    return values.expand(-1, place.shape[1], -1).gather(2, place[..., None])[..., 0]


def _taken(log_probs: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy `[rows, n]` at `place` `[rows, n]` of `log_probs` `[rows, 1 or n, m]`."""
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs.masked_fill(log_probs == float("-inf"), 0)).sum(dim=-1)
    return _at(log_probs, place), entropy.expand_as(place)
