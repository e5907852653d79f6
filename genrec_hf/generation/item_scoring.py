"""Exact log-probabilities of items, from one forward pass over every SID prefix above them."""

from itertools import pairwise

import torch
from torch import nn
from transformers import PreTrainedModel

from genrec_hf.generation.decoding import Normalization, child_log_probs, refuse_invalid_logits
from genrec_hf.generation.prompt_cache import PromptCache, can_share_prompts, start_prompt_cache
from genrec_hf.generation.trie import SidTrie
from genrec_hf.models import wrapping_of

# Prefixes of one level that are read at once after a prompt. A prefix attends to all prefixes of the pass, so that
# fewer of them take less time for each, but the prompt is read again for these many.
PREFIXES_AT_ONCE = 1024
# Prefixes of one forward pass, over all prompts: they bound its memory. Fewer where the cache of the prompt is copied
# for each of them (see `can_share_prompts`).
MAX_PREFIXES, MAX_COPIES = 4096, 512


def count_prefixes(trie: SidTrie, items: torch.Tensor) -> int:
    """Return how many SIDs without their last code the given items have.

    Args:
        trie (`SidTrie`): the catalogue.
        items (`torch.Tensor`): `[n]`, int64, item rows; may repeat.

    Returns:
        `int`: from 1, or 0 without items, to `n`.
    """
    return len(trie.parent(trie.levels - 1, trie.leaf[items].long().unique()).unique())


def users_at_once(prefixes: int, batch_size: int) -> int:
    """Return the number of users whose items are scored in one batch.

    Args:
        prefixes (`int`): number of prefixes that are read for each user, from `count_prefixes`.
        batch_size (`int`): maximum number of users.

    Returns:
        `int`: at least 1.

    Example:
        >>> users_at_once(20, batch_size=32), users_at_once(100_000, batch_size=32)
        (32, 4)
    """
    return max(1, min(batch_size, MAX_PREFIXES // max(1, min(prefixes, PREFIXES_AT_ONCE))))


@torch.no_grad()
def score_items(
    model: PreTrainedModel,
    batch: dict[str, torch.Tensor],
    *,
    trie: SidTrie,
    items: torch.Tensor,
    normalization: Normalization,
    decoder: nn.Module | None = None,
) -> torch.Tensor:
    """Compute the log-probabilities of items after each prompt of a batch, for `Recommender`.

    They equal those of a beam search with as many beams as items and no filters. Memory does not grow with the
    catalogue, except for the result: items are scored in parts, and each part reads the prompts again.

    Args:
        model (`PreTrainedModel`): the language model, possibly wrapped, without PEFT's wrapper.
        batch (`dict`): `input_ids` and `attention_mask`, `[rows, length]`, left-padded.
        trie (`SidTrie`): the catalogue, with token ids, on the device of the prompts.
        items (`torch.Tensor`): `[n]`, int64, item rows; may repeat.
        normalization (`str`): see `sid_beam_search`; `"trie"` normalizes over all children in the trie.
        decoder (`nn.Module`, *optional*): see `start_prompt_cache`.

    Returns:
        `torch.Tensor`: `[rows, n]`, float32, in the order of `items`.

    Raises:
        ValueError: the model's logits hold NaN.
    """
    language_model, prompt = wrapping_of(model).prompt_inputs(batch["input_ids"])
    mask = batch["attention_mask"]
    leaves, columns = trie.leaf[items].long().unique(return_inverse=True)
    shares = can_share_prompts(language_model, mask.shape[1] + trie.levels - 1)
    part = max(1, min(PREFIXES_AT_ONCE, (MAX_PREFIXES if shares else MAX_COPIES) // len(mask)))
    _, prefix = trie.parent(trie.levels - 1, leaves).unique_consecutive(return_inverse=True)
    _, counts = (prefix // part).unique_consecutive(return_counts=True)
    scores = []
    for part_leaves in leaves.split(counts.tolist()):
        prompt_cache = start_prompt_cache(
            language_model, length=mask.shape[1], hypotheses=part, levels=trie.levels, decoder=decoder
        )
        scores.append(_score_leaves(prompt_cache, prompt, mask, trie, part_leaves, normalization))
    table = torch.cat(scores, dim=1) if scores else torch.empty(len(mask), 0, device=mask.device)
    refuse_invalid_logits(table.isnan().any())
    return table[:, columns]


def _score_leaves(
    prompt_cache: PromptCache,
    prompt: dict[str, torch.Tensor],
    mask: torch.Tensor,
    trie: SidTrie,
    leaves: torch.Tensor,
    normalization: Normalization,
) -> torch.Tensor:
    """Compute the log-probabilities `[rows, n]` of `leaves` `[n]`, which are sorted, level by level."""
    assert trie.token_ids is not None
    path = [leaves]  # sorted nodes above the leaves, level by level
    for level in reversed(range(trie.levels)):
        path.insert(0, trie.parent(level, path[0]).unique_consecutive())
    totals = torch.zeros(len(mask), 1, device=mask.device)
    read, states = path[0], prompt_cache.read(prompt, mask)
    for level, (nodes, below) in enumerate(pairwise(path)):
        if level > 0:
            # Under "trie" a SID without siblings has probability 1 given its prefix: the model need not run.
            to_read = nodes[trie.leaves(level, nodes) > 1] if normalization == "trie" else nodes
            if len(to_read):
                tokens = trie.token_ids[level - 1][trie.codes[level - 1][to_read].long()]
                parents = torch.searchsorted(read, trie.parent(level - 1, to_read))
                states = prompt_cache.extend(tokens.expand(len(mask), -1), parents.expand(len(mask), -1))
            read = to_read
        parent = trie.parent(level, below)
        totals = totals[:, torch.searchsorted(nodes, parent)]
        if len(read):
            is_scored = torch.isin(parent, read)
            log_probs = _log_probs_of_children(prompt_cache, states, trie, level, read, normalization)
            slot = below - trie.first_child[level][parent]
            totals[:, is_scored] += log_probs[:, torch.searchsorted(read, parent[is_scored]), slot[is_scored]]
    return totals


def _log_probs_of_children(
    prompt_cache: PromptCache,
    states: torch.Tensor,
    trie: SidTrie,
    level: int,
    nodes: torch.Tensor,
    normalization: Normalization,
) -> torch.Tensor:
    """Compute log-probabilities `[rows, n, max_children]` of the children of `nodes` `[n]`, whose states are given."""
    assert trie.token_ids is not None
    _, codes, exists = trie.children(level, nodes)
    logits = prompt_cache.logits(states, trie.token_ids[level])
    norm = prompt_cache.log_norm(states, 1.0) if normalization == "full" else None
    codes, exists = (values.expand(len(states), -1, -1) for values in (codes, exists))
    return child_log_probs(logits, norm, codes, allowed=exists, normalization=normalization, temperature=1.0)
