"""How likely given SIDs are, with gradients, over the very tokens that decoding chooses among."""

from typing import Literal, NamedTuple

import torch

from genrec_hf.generation.prefix import Prefix
from genrec_hf.generation.trie import SidTrie
from genrec_hf.models import log_sum_exp

# What a token is one of: the legal children of the codes before it, or the whole vocabulary.
Support = Literal["trie", "full"]


class SidScores(NamedTuple):
    """`[rows, n, levels]` each, float32; the entropy, in nats, has no gradient."""

    log_probs: torch.Tensor
    entropy: torch.Tensor


def score_sids(
    prefix: Prefix,
    prompt: dict[str, torch.Tensor],
    mask: torch.Tensor,
    trie: SidTrie,
    tokens: torch.Tensor,
    support: Support = "trie",
    temperature: float = 1.0,
) -> SidScores:
    """Log-probabilities of SIDs behind their prompts, which are read once however many SIDs each has.

    `decode` and `sid_sample` give the same numbers for what they choose (`"trie"`): the first ratio of a policy
    gradient to its rollouts is 1.

    Args:
        prefix (`Prefix`): from `start_prefix`, of a model that does not checkpoint its activations.
        prompt (`dict`): `input_ids` or `inputs_embeds`, left-padded.
        mask (`torch.Tensor`): `[rows, length]`, 0 on padding.
        trie (`SidTrie`): the catalogue, with token ids, on the device of the prompts.
        tokens (`torch.Tensor`): `[rows, n, levels]`, SIDs as token ids; with `"full"` any tokens.
        support (`str`, defaults to `"trie"`): what each token is normalised over: the legal children of those before
            it, or `"full"`, the whole vocabulary.
        temperature (`float`, defaults to 1.0): divides the logits.

    Raises:
        ValueError: with `"trie"`, on tokens that are no item's SID.
    """
    if support not in ("trie", "full"):
        raise ValueError(f"support={support!r}: use 'trie' or 'full'")
    nodes = torch.zeros_like(tokens[:, :1, 0])
    parents = nodes.expand(-1, tokens.shape[1])
    found = []
    for level in range(trie.levels):
        wanted = tokens[..., level]
        if level == 0:
            states = prefix.read(prompt, mask)
        else:
            states = prefix.extend(tokens[..., level - 1], parents)
            parents = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        if support == "full":
            found.append(_among_all(prefix, states, wanted, temperature))
        else:
            scores, nodes = _among_children(prefix, states, trie, level, nodes, wanted, temperature)
            found.append(scores)
    return SidScores(*(torch.stack(each, dim=2) for each in zip(*found, strict=True)))


def _among_all(
    prefix: Prefix, states: torch.Tensor, wanted: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    everything = torch.arange(prefix.model.config.get_text_config().vocab_size, device=states.device)
    logits = prefix.logits(states, everything).float() / temperature
    logits = logits.expand(-1, wanted.shape[1], -1)
    return _taken(logits - logits.logsumexp(dim=-1, keepdim=True), wanted)


def _among_children(
    prefix: Prefix,
    states: torch.Tensor,
    trie: SidTrie,
    level: int,
    nodes: torch.Tensor,
    wanted: torch.Tensor,
    temperature: float,
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Log-probability and entropy `[rows, n]` of the `wanted` tokens below `nodes` `[rows, 1 or n]`; their nodes."""
    assert trie.token_ids is not None
    children, codes, legal = trie.children(level, nodes)
    logits = prefix.logits(states, trie.token_ids[level]).gather(2, codes).float() / temperature
    logits = logits.masked_fill(~legal, float("-inf"))
    log_probs = logits - log_sum_exp(logits)[..., None]
    shape = (-1, wanted.shape[1], -1)
    log_probs, children, codes, legal = (each.expand(shape) for each in (log_probs, children, codes, legal))
    match = legal & (trie.token_ids[level][codes] == wanted[..., None])
    if not bool(match.any(dim=-1).all()):
        raise ValueError(
            "got tokens that are no item's SID: they have no probability among what is legal; score them with "
            "support='full', as they were drawn"
        )
    place = match.int().argmax(dim=-1)
    return _taken(log_probs, place), children.gather(2, place[..., None])[..., 0]


def _taken(log_probs: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy `[rows, n]` at `place` of `log_probs` `[rows, n, m]`."""
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs.masked_fill(log_probs == float("-inf"), 0)).sum(dim=-1)
    return log_probs.gather(2, place[..., None])[..., 0], entropy
