"""One walk from the root of the trie to its leaves, shared by beam search and sampling: score, select, extend."""

from typing import Literal, NamedTuple, Protocol

import torch

from genrec_hf.generation.filters import RequestFilters
from genrec_hf.generation.prefix import Prefix
from genrec_hf.generation.trie import SidTrie

Score = Literal["full", "level", "trie"]


class Hypotheses(NamedTuple):
    """What a walk found: `[rows, found]` each, `found` being the width, or less where the catalogue is smaller."""

    leaves: torch.Tensor  # `-1` where nothing is left
    log_probs: torch.Tensor  # of the whole SID; `-inf` where nothing is left
    token_log_probs: torch.Tensor  # `[rows, found, levels]`
    tokens: torch.Tensor  # `[rows, found, levels]`


class Select(Protocol):
    """Which candidates go on."""

    def __call__(self, level: int, totals: torch.Tensor, step: torch.Tensor, children: torch.Tensor) -> torch.Tensor:
        """Choose among the children of all hypotheses of a row.

        Args:
            level (`int`): of the hypotheses.
            totals (`torch.Tensor`): `[rows, beams]`, their log-probabilities; `-inf` where there is none.
            step (`torch.Tensor`): `[rows, beams, most]`, those of the children given their parent; what is set to
                `-inf` here counts as not legal.
            children (`torch.Tensor`): `[rows, beams, most]`, nodes of `level + 1`.

        Returns:
            `torch.Tensor`: `[rows, chosen]`, places in `beams * most`.
        """


@torch.no_grad()
def decode(
    prefix: Prefix,
    prompt: dict[str, torch.Tensor],
    mask: torch.Tensor,
    trie: SidTrie,
    select: Select,
    score: Score = "full",
    filters: RequestFilters | None = None,
    temperature: float = 1.0,
    places: int | None = None,
) -> Hypotheses:
    """Walk every prompt down the trie: as many forward passes as a SID has levels, and no step for an end token.

    Args:
        prefix (`Prefix`): reads the prompts and what follows.
        prompt (`dict`): `input_ids` or `inputs_embeds`, left-padded.
        mask (`torch.Tensor`): `[rows, length]`, 0 on padding.
        trie (`SidTrie`): the catalogue, with token ids, on the device of the prompts.
        select (`Select`): which candidates go on.
        score (`str`): what a token's probability is normalised over: `"full"` the vocabulary, `"level"` the codes of
            its level, `"trie"` the legal children of its parent.
        filters (`RequestFilters`, *optional*): what each row may get.
        temperature (`float`): divides the logits.
        places (`int`, *optional*): at least so many candidates a row at every level, most of them void, so that no
            shape depends on the data.

    Raises:
        ValueError: when the model's logits hold NaN, or mask everything that is legal.
    """
    if score not in ("full", "level", "trie"):
        raise ValueError(f"score={score!r}: use 'full', 'level' or 'trie'")
    rows = len(mask)
    token_ids = trie.token_ids
    if token_ids is None:
        raise ValueError("the trie knows no tokens: build it as SidTrie(semantic_ids, vocabulary)")
    nodes = torch.zeros(rows, 1, dtype=torch.long, device=mask.device)
    totals = torch.zeros(rows, 1, device=mask.device)
    steps = tokens = torch.zeros(rows, 1, 0, device=mask.device)
    parents = torch.zeros_like(nodes)
    broken = torch.zeros((), dtype=torch.bool, device=mask.device)
    for level in range(trie.levels):
        wanted = None if score == "full" else token_ids[level]
        at_root = level == 0
        logits = prefix.read(prompt, mask, wanted) if at_root else prefix.extend(tokens[..., -1], parents, wanted)
        most = None if places is None else max(trie.most_children[level], -(-places // nodes.shape[1]))
        children, codes, legal = trie.children(level, nodes, most)
        if filters is not None:
            legal &= filters.legal(level, children)
        columns = token_ids[level][codes] if score == "full" else codes
        step = _log_probs(logits, columns, legal, score, temperature)
        broken |= (~step.amax(dim=-1).isfinite() & legal.any(dim=-1) & totals.isfinite()).any()
        chosen = select(level, totals, step, children)
        parents = chosen // children.shape[2]
        step, children, codes = (each.flatten(1).gather(1, chosen) for each in (step, children, codes))
        totals = totals.gather(1, parents) + step
        steps = torch.cat([_of(parents, steps), step[..., None]], dim=2)
        tokens = torch.cat([_of(parents, tokens).long(), token_ids[level][codes][..., None]], dim=2)
        nodes = children
    if broken:
        raise ValueError(
            "the model's logits hold NaN, or are -inf for everything legal: any choice would be arbitrary; check "
            "weights and dtype (float16 overflows, bfloat16 does not)"
        )
    return Hypotheses(torch.where(totals.isfinite(), nodes, -1), totals, steps, tokens)


def _of(parents: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
    """History `[rows, n, levels]` of the `parents` `[rows, n]`."""
    return history.gather(1, parents[..., None].expand(-1, -1, history.shape[2]))


def _log_probs(
    logits: torch.Tensor, columns: torch.Tensor, legal: torch.Tensor, score: Score, temperature: float
) -> torch.Tensor:
    """Log-probabilities `[rows, beams, most]`, `-inf` where not legal.

    `logits` `[rows, beams, m]` are used up; `columns` `[rows, beams, most]` are the children's places in them.
    """
    if columns.shape[1] != logits.shape[1]:
        raise ValueError(f"logits of {logits.shape[1]} hypotheses for children of {columns.shape[1]}")
    picked = logits.gather(2, columns).float().div_(temperature).masked_fill_(~legal, float("-inf"))
    norm = picked.logsumexp(dim=-1) if score == "trie" else _log_sum_exp(logits, temperature)
    # Where nothing is legal, -inf less -inf would be NaN.
    return (picked - norm[..., None]).masked_fill_(~legal, float("-inf"))


def _log_sum_exp(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """`logsumexp(logits / temperature)` over the last dimension, in float32, a few rows at a time and in place.

    Over beams times a vocabulary the memory traffic of temporaries costs more than the exponentials.
    """
    flat = logits.view(-1, logits.shape[-1])
    sums = []
    for few in flat.split(max(1, (1 << 19) // flat.shape[1]) if logits.device.type == "cpu" else len(flat)):
        scaled = few.float() if temperature == 1 else few.float().div_(temperature)
        highest = scaled.amax(dim=-1, keepdim=True)
        sums.append(scaled.sub_(highest).exp_().sum(dim=-1).log_() + highest[:, 0])
    return torch.cat(sums).view(logits.shape[:-1])
