"""One walk from the root of the trie to its leaves, shared by beam search and sampling: normalization, select, extend."""

from typing import Literal, NamedTuple, Protocol, get_args

import torch

from genrec_hf.checks import check_choice
from genrec_hf.generation.filters import RequestFilters
from genrec_hf.generation.prompt_cache import PromptCache
from genrec_hf.generation.trie import SidTrie
from genrec_hf.models import log_sum_exp

Normalization = Literal["full", "level", "trie"]


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
    prompt_cache: PromptCache,
    prompt: dict[str, torch.Tensor],
    mask: torch.Tensor,
    *,
    trie: SidTrie,
    select: Select,
    normalization: Normalization = "full",
    filters: RequestFilters | None = None,
    temperature: float = 1.0,
    places: int | None = None,
) -> Hypotheses:
    """Walk every prompt down the trie: at most as many forward passes as a SID has levels, none for an end token.

    With the normalization `"trie"` a hypothesis with a single SID left below is not read any further.

    Args:
        prompt_cache (`PromptCache`): reads the prompts and what follows.
        prompt (`dict`): `input_ids` or `inputs_embeds`, left-padded.
        mask (`torch.Tensor`): `[rows, length]`, 0 on padding.
        trie (`SidTrie`): the catalogue, with token ids, on the device of the prompts.
        select (`Select`): which candidates go on.
        normalization (`str`): what a token's probability is normalised over: `"full"` the vocabulary, `"level"` the codes of
            its level, `"trie"` the legal children of its parent.
        filters (`RequestFilters`, *optional*): what each row may get.
        temperature (`float`): divides the logits.
        places (`int`, *optional*): at least so many candidates a row at every level, most of them void, so that no
            shape depends on the data.

    Raises:
        ValueError: when the model's logits hold NaN, or mask everything that is legal.
    """
    check_choice("normalization", normalization, get_args(Normalization))
    rows = len(mask)
    token_ids = trie.token_ids
    if token_ids is None:
        raise ValueError("the trie knows no tokens: build it as SidTrie(semantic_ids, vocabulary)")
    nodes = torch.zeros(rows, 1, dtype=torch.long, device=mask.device)
    parents = read = torch.zeros_like(nodes)
    totals = torch.zeros(rows, 1, device=mask.device)
    steps = tokens = torch.zeros(rows, 1, 0, device=mask.device)
    broken = torch.zeros((), dtype=torch.bool, device=mask.device)
    for level in range(trie.levels):
        most = None if places is None else max(trie.most_children[level], -(-places // nodes.shape[1]))
        children, codes, legal = trie.children(level, nodes, most)
        if filters is not None:
            legal &= filters.legal(level, children)
        # `asked` are the hypotheses whose logits matter, and `read` is where each was among those of the last call.
        asked = _all(nodes) if level == 0 or places is not None else _asked(trie, level, nodes, totals, normalization)
        step = torch.zeros(children.shape, device=mask.device).masked_fill_(~legal, float("-inf"))
        if asked.shape[1] > 0:
            if level == 0:
                states = prompt_cache.read(prompt, mask)
            else:
                states = prompt_cache.extend(
                    tokens[..., -1].gather(1, asked), read.gather(1, parents.gather(1, asked))
                )
            logits = prompt_cache.logits(states, token_ids[level])
            norm = prompt_cache.log_norm(states, temperature) if normalization == "full" else None
            found = _log_probs(logits, norm, _of(asked, codes), _of(asked, legal), normalization, temperature)
            step = step.scatter(1, asked[..., None].expand_as(found), found)
        read = torch.zeros_like(nodes).scatter_(1, asked, _all(asked))
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


def _all(hypotheses: torch.Tensor) -> torch.Tensor:
    return torch.arange(hypotheses.shape[1], device=hypotheses.device).expand(len(hypotheses), -1)


def _asked(
    trie: SidTrie, level: int, nodes: torch.Tensor, totals: torch.Tensor, normalization: Normalization
) -> torch.Tensor:
    """Places `[rows, n]` of the hypotheses that the model has to read, and of as many others as fill the rows.

    Not the void ones; and among legal children only, a token without siblings has probability 1, so nobody has to
    ask for what follows a hypothesis with a single SID below.
    """
    matters = totals.isfinite()
    if normalization == "trie":
        matters &= trie.leaves(level, nodes) > 1
    most = int(matters.sum(dim=1).max())
    return matters.int().argsort(dim=1, descending=True, stable=True)[:, :most]


def _of(hypotheses: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """What `values` `[rows, n, m]` are for some of the `hypotheses` `[rows, k]`."""
    return values.gather(1, hypotheses[..., None].expand(-1, -1, values.shape[2]))


def _log_probs(
    logits: torch.Tensor,
    norm: torch.Tensor | None,
    codes: torch.Tensor,
    legal: torch.Tensor,
    normalization: Normalization,
    temperature: float,
) -> torch.Tensor:
    """Log-probabilities `[rows, beams, most]` of the children's `codes`, likewise, and `-inf` where not `legal`.

    `logits` `[rows, beams, codes of the level]`; `norm` `[rows, beams]` is for the normalization `"full"`.
    """
    if codes.shape[1] != logits.shape[1]:
        raise ValueError(f"logits of {logits.shape[1]} hypotheses for children of {codes.shape[1]}")
    picked = (logits.gather(2, codes).float() / temperature).masked_fill_(~legal, float("-inf"))
    if norm is None:
        norm = picked.logsumexp(dim=-1) if normalization == "trie" else log_sum_exp(logits, temperature)
    # Where nothing is legal, -inf less -inf would be NaN.
    return (picked - norm[..., None]).masked_fill_(~legal, float("-inf"))
