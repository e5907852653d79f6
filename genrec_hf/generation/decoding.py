"""Level-by-level decoding along the trie, shared by beam search and sampling."""

from typing import Literal, NamedTuple, Protocol, get_args

import torch

from genrec_hf.checks import check_choice
from genrec_hf.generation.filters import RequestFilters
from genrec_hf.generation.prompt_cache import PromptCache
from genrec_hf.generation.trie import SidTrie
from genrec_hf.models import log_sum_exp

# What a token's probability is normalized over: the whole vocabulary, the tokens of its SID level, or the children in
# the trie that the filters allow.
Normalization = Literal["full", "level", "trie"]


class Hypotheses(NamedTuple):
    """Decoded SIDs of a batch, `n` a row: what was selected, or fewer where the catalogue is smaller.

    Attributes:
        leaves (`torch.Tensor`): `[rows, n]`, leaves of the trie; `-1` for an empty rank.
        log_probs (`torch.Tensor`): `[rows, n]`, log-probability of the whole SID; `-inf` for an empty rank.
        token_log_probs (`torch.Tensor`): `[rows, n, levels]`, log-probability of each token given those before it.
        tokens (`torch.Tensor`): `[rows, n, levels]`, token ids.
    """

    leaves: torch.Tensor
    log_probs: torch.Tensor
    token_log_probs: torch.Tensor
    tokens: torch.Tensor


class Select(Protocol):
    """Selection of the candidates that decoding continues with."""

    def __call__(self, level: int, totals: torch.Tensor, step: torch.Tensor, children: torch.Tensor) -> torch.Tensor:
        """Select among the children of all hypotheses of a row.

        Args:
            level (`int`): level of the hypotheses, 0 for the root.
            totals (`torch.Tensor`): `[rows, beams]`, log-probabilities of the hypotheses; `-inf` for an empty beam.
            step (`torch.Tensor`): `[rows, beams, max_children]`, log-probabilities of the children given their parent;
                `-inf` where there is no child or the filters do not allow it. An implementation may exclude more
                children by setting their entries to `-inf` in place.
            children (`torch.Tensor`): `[rows, beams, max_children]`, nodes of `level + 1`.

        Returns:
            `torch.Tensor`: `[rows, selected]`, indices into the flattened `beams * max_children` candidates.
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
    min_candidates: int | None = None,
) -> Hypotheses:
    """Decode SIDs for each prompt, with at most one forward pass per level and none for an end token.

    With the normalization `"trie"`, a hypothesis with a single SID below it is not passed to the model any more: its
    remaining tokens have probability 1.

    Args:
        prompt_cache (`PromptCache`): runs the model on the prompts and on the hypotheses.
        prompt (`dict`): `input_ids` `[rows, length]` or `inputs_embeds` `[rows, length, d]`, left-padded.
        mask (`torch.Tensor`): `[rows, length]`, 0 on padding.
        trie (`SidTrie`): the catalogue, with token ids, on the device of the prompts.
        select (`Select`): selects the candidates to continue with, such as `BestBeams`.
        normalization (`str`, defaults to `"full"`): what a token's probability is normalized over: `"full"` the whole
            vocabulary, `"level"` the tokens of its SID level, `"trie"` the children in the trie that the filters
            allow.
        filters (`RequestFilters`, *optional*): the items that each row may get.
        temperature (`float`, defaults to 1.0): divides the logits.
        min_candidates (`int`, *optional*): minimum number of candidates per row at every level, filled up with
            candidates of log-probability `-inf`, so that no shape depends on the data. Not filled up when not given.

    Returns:
        `Hypotheses`: in the order of `select`.

    Raises:
        ValueError: `normalization` is unknown, the trie has no token ids, or the model's logits hold NaN or are
            `-inf` for every allowed token of a row.
    """
    check_choice("normalization", normalization, get_args(Normalization))
    rows = len(mask)
    token_ids = trie.token_ids
    if token_ids is None:
        raise ValueError("got a trie without token ids: build it as SidTrie(semantic_ids, vocabulary)")
    nodes = torch.zeros(rows, 1, dtype=torch.long, device=mask.device)
    parents = position_in_cache = torch.zeros_like(nodes)
    totals = torch.zeros(rows, 1, device=mask.device)
    steps = tokens = torch.zeros(rows, 1, 0, device=mask.device)
    invalid_logits = torch.zeros((), dtype=torch.bool, device=mask.device)
    for level in range(trie.levels):
        max_children = trie.max_children[level]
        padded = None if min_candidates is None else max(max_children, -(-min_candidates // nodes.shape[1]))
        children, codes, allowed = trie.children(level, nodes, padded)
        if filters is not None:
            allowed &= filters.allowed(level, children)
        # `to_score` are the hypotheses whose logits are needed, and `position_in_cache` is the position of each among
        # the hypotheses of the last forward pass.
        if level == 0 or min_candidates is not None:
            to_score = _all_indices(nodes)
        else:
            to_score = _indices_to_score(trie, level, nodes, totals, normalization)
        step = torch.zeros(children.shape, device=mask.device).masked_fill_(~allowed, float("-inf"))
        if to_score.shape[1] > 0:
            if level == 0:
                states = prompt_cache.read(prompt, mask)
            else:
                states = prompt_cache.extend(
                    tokens[..., -1].gather(1, to_score), position_in_cache.gather(1, parents.gather(1, to_score))
                )
            logits = prompt_cache.logits(states, token_ids[level])
            norm = prompt_cache.log_norm(states, temperature) if normalization == "full" else None
            log_probs = child_log_probs(
                logits,
                norm,
                _gather_hypotheses(to_score, codes),
                allowed=_gather_hypotheses(to_score, allowed),
                normalization=normalization,
                temperature=temperature,
            )
            step = step.scatter(1, to_score[..., None].expand_as(log_probs), log_probs)
        position_in_cache = torch.zeros_like(nodes).scatter_(1, to_score, _all_indices(to_score))
        invalid_logits |= (~step.amax(dim=-1).isfinite() & allowed.any(dim=-1) & totals.isfinite()).any()
        selected = select(level, totals, step, children)
        parents = selected // children.shape[2]
        step, nodes, codes = (values.flatten(1).gather(1, selected) for values in (step, children, codes))
        totals = totals.gather(1, parents) + step
        steps = torch.cat([_gather_hypotheses(parents, steps), step[..., None]], dim=2)
        tokens = torch.cat([_gather_hypotheses(parents, tokens).long(), token_ids[level][codes][..., None]], dim=2)
    refuse_invalid_logits(invalid_logits)
    return Hypotheses(torch.where(totals.isfinite(), nodes, -1), totals, steps, tokens)


def _all_indices(hypotheses: torch.Tensor) -> torch.Tensor:
    """Return the index of each of the hypotheses `[rows, n]` in its row."""
    return torch.arange(hypotheses.shape[1], device=hypotheses.device).expand(len(hypotheses), -1)


def _indices_to_score(
    trie: SidTrie, level: int, nodes: torch.Tensor, totals: torch.Tensor, normalization: Normalization
) -> torch.Tensor:
    """Return the indices `[rows, n]` of the hypotheses that the model has to run on, filled up to equal numbers a row.

    Empty beams are left out. Under the normalization `"trie"` a token without siblings has probability 1, so a
    hypothesis with a single SID below it is left out as well.
    """
    needed = totals.isfinite()
    if normalization == "trie":
        needed &= trie.leaves(level, nodes) > 1
    most = int(needed.sum(dim=1).max())
    return needed.int().argsort(dim=1, descending=True, stable=True)[:, :most]


def _gather_hypotheses(indices: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Gather `values` `[rows, n, m]` of the hypotheses at `indices` `[rows, k]`, as `[rows, k, m]`."""
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[2]))


def child_log_probs(
    logits: torch.Tensor,
    norm: torch.Tensor | None,
    codes: torch.Tensor,
    *,
    allowed: torch.Tensor,
    normalization: Normalization,
    temperature: float,
) -> torch.Tensor:
    """Compute log-probabilities of the children of nodes, given their logits.

    Args:
        logits (`torch.Tensor`): `[rows, beams, codes of the level]`.
        norm (`torch.Tensor`, *optional*): `[rows, beams]`, log-normalizer over the vocabulary, for `"full"` alone.
        codes (`torch.Tensor`): `[rows, beams, max_children]`, codes of the children.
        allowed (`torch.Tensor`): `bool` `[rows, beams, max_children]`.
        normalization (`str`): see `decode`.
        temperature (`float`): divides the logits.

    Returns:
        `torch.Tensor`: `[rows, beams, max_children]`, float32; `-inf` for children that are not `allowed`.

    Raises:
        ValueError: `logits` and `codes` have different numbers of beams.
    """
    if codes.shape[1] != logits.shape[1]:
        raise ValueError(
            f"got logits of {logits.shape[1]} hypotheses for the children of {codes.shape[1]}: a prompt cache must "
            "return one state for each hypothesis"
        )
    scaled = (logits.gather(2, codes).float() / temperature).masked_fill_(~allowed, float("-inf"))
    if norm is None:
        norm = scaled.logsumexp(dim=-1) if normalization == "trie" else log_sum_exp(logits, temperature)
    # Where no child is allowed, -inf less -inf would be NaN.
    return (scaled - norm[..., None]).masked_fill_(~allowed, float("-inf"))


def refuse_invalid_logits(is_invalid: torch.Tensor) -> None:
    """Raise if logits cannot order the items.

    Args:
        is_invalid (`torch.Tensor`): `bool`, a single value: whether there are such logits.

    Raises:
        ValueError: `is_invalid` is true.
    """
    if is_invalid:
        raise ValueError(
            "got logits that hold NaN, or are -inf for every allowed token: the choice would be arbitrary; check the "
            "model's weights and dtype (float16 overflows, bfloat16 does not)"
        )
