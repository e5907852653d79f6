"""Beam search over the trie that reads each prompt once: beams are tokens of one sequence under an ancestry mask."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from genrec_hf.generation.trie import SidTrie
from genrec_hf.models import head_logits

Score = Literal["full", "level", "trie"]


def shares_prefixes(model: PreTrainedModel) -> bool:
    """Whether `search_sids` is exact for a model: full attention in every layer, masks given in four dimensions.

    Linear attention, sliding windows and flash attention read a mask in other ways; such models decode by plain
    `generate` with a `SidLogitsProcessor` instead.
    """
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    plain = set(layers) == {"full_attention"} and not (windowed and getattr(config, "layer_types", None) is None)
    return plain and hasattr(config, "rope_parameters") and config._attn_implementation in ("eager", "sdpa")


@torch.no_grad()
def search_sids(
    model: PreTrainedModel,
    trie: SidTrie,
    level_token_ids: Sequence[np.ndarray],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    width: int,
    deny: Sequence[np.ndarray] | None = None,
    score: Score = "full",
) -> tuple[np.ndarray, np.ndarray]:
    """The items of highest score for each prompt, by beam search held to the trie.

    The same beams as Hugging Face's beam search with a `SidLogitsProcessor`, and as many forwards as a SID has tokens:
    the prompt once, then the beams of a level side by side, each attending to the prompt and its own ancestors.

    Args:
        model (`PreTrainedModel`): a causal language model for which `shares_prefixes` holds.
        trie (`SidTrie`): the catalogue.
        level_token_ids (`Sequence[np.ndarray]`): token id of each code, an array a level.
        input_ids (`torch.Tensor`): prompts `[rows, length]`, left-padded.
        attention_mask (`torch.Tensor`): `[rows, length]`, 0 on padding.
        width (`int`): beams a row.
        deny (`Sequence[np.ndarray]`, *optional*): for each row, item rows that may not come out.
        score (`str`, defaults to `"full"`): normaliser of a token's probability: `"full"` the vocabulary, `"level"`
            the codes of its level, `"trie"` its legal siblings.

    Returns:
        `tuple`: items `[rows, found]`, best first, `-1` where nothing is left; log-probabilities `[rows, found]`.
        `found` is `width`, or fewer when the catalogue is smaller.

    Raises:
        ValueError: when the model's scores hold NaN.
    """
    tokens = [torch.as_tensor(ids, device=input_ids.device) for ids in level_token_ids]
    dead = None if deny is None else [trie.dead_nodes(items) for items in deny]
    cache = DynamicCache(config=model.config)
    positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    visible = attention_mask.bool()[:, None, :]
    hidden = model.base_model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, past_key_values=cache
    ).last_hidden_state[:, -1:]
    last_position = positions[:, -1:]
    beam_scores = torch.zeros(len(input_ids), 1, device=input_ids.device)
    nodes = np.zeros((len(input_ids), 1), dtype=np.int64)
    for level in range(trie.levels):
        children, legal = _children(trie, level, nodes, dead)
        step = _token_scores(model, hidden, tokens[level], trie.codes[level][children], legal, score)
        candidates = (beam_scores[..., None] + step).flatten(1)
        beam_scores, chosen = candidates.topk(min(width, candidates.shape[1]), dim=1)
        nodes = np.take_along_axis(children.reshape(len(nodes), -1), chosen.cpu().numpy(), axis=1)
        if level == trie.levels - 1:
            break
        parents = (chosen // children.shape[2])[..., None]
        itself = torch.eye(nodes.shape[1], dtype=torch.bool, device=input_ids.device).expand(len(nodes), -1, -1)
        visible = visible.expand(-1, children.shape[1], -1).gather(1, parents.expand(-1, -1, visible.shape[2]))
        visible = torch.cat([visible, itself], dim=2)
        last_position = last_position + 1
        hidden = model.base_model(
            input_ids=tokens[level][torch.as_tensor(trie.codes[level][nodes], device=input_ids.device)],
            attention_mask=torch.zeros_like(visible, dtype=model.dtype).masked_fill(~visible, float("-inf"))[:, None],
            position_ids=last_position.expand(-1, nodes.shape[1]),
            past_key_values=cache,
        ).last_hidden_state
    scores = beam_scores.float().cpu().numpy()
    return np.where(np.isfinite(scores), trie.items(nodes), -1), scores


def _children(
    trie: SidTrie, level: int, nodes: np.ndarray, dead: list[list[np.ndarray]] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Children `[rows, beams, most]` of `nodes` `[rows, beams]`, and which of these places hold a legal one."""
    first, stop = trie.first_child[level][nodes], trie.first_child[level][nodes + 1]
    children = first[..., None] + np.arange(int((stop - first).max()))
    legal = children < stop[..., None]
    children = np.where(legal, children, 0)
    for row, dead_levels in enumerate(dead or []):
        legal[row] &= ~np.isin(children[row], dead_levels[level])
    return children, legal


def _token_scores(
    model: PreTrainedModel,
    hidden: torch.Tensor,
    tokens: torch.Tensor,
    codes: np.ndarray,
    legal: np.ndarray,
    score: Score,
) -> torch.Tensor:
    """Log-probabilities `[rows, beams, most]` of children with `codes`; `-inf` where none is legal."""
    head: nn.Module = model.get_output_embeddings()
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    index = torch.as_tensor(codes, device=hidden.device)
    illegal = ~torch.as_tensor(legal, device=hidden.device)
    logits = head(hidden) if score == "full" else head_logits(head, hidden, tokens)
    logits = logits.float() if softcap is None else softcap * torch.tanh(logits.float() / softcap)
    if logits.isnan().any():
        raise ValueError("the model's scores hold NaN: any choice would be arbitrary; check dtype and weights")
    if score == "trie":
        siblings = logits.gather(2, index).masked_fill(illegal, float("-inf"))
        return siblings.log_softmax(dim=-1).masked_fill(illegal, float("-inf"))
    index = tokens[index] if score == "full" else index
    return logits.log_softmax(dim=-1).gather(2, index).masked_fill(illegal, float("-inf"))
