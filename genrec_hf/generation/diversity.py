"""Diverse lists: a maximum of items per SID prefix, and re-ranking by maximal marginal relevance (MMR)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genrec_hf.item_rows import is_whole
from genrec_hf.ranking import Histories, Ranking, Rows


@dataclass(frozen=True)
class PrefixCap:
    """Maximum number of items in a list whose SIDs begin with the same codes.

    The cap is applied within the beam search, so that lists stay full: beams beyond the cap of one prefix go to other
    prefixes.

    Args:
        items (`int`): maximum number of items with the same prefix in a list.
        length (`int`, defaults to 1): number of codes in the prefix; less than the levels of the SIDs.

    Raises:
        ValueError: one of them is not a whole number, or below 1.

    Example:
        ```python
        recommender.recommend(histories, k=10, search=SearchSettings(num_beams=50, prefix_cap=PrefixCap(2)))
        ```
    """

    items: int
    length: int = 1

    def __post_init__(self) -> None:
        if not all(is_whole(value) and value >= 1 for value in (self.items, self.length)):
            raise ValueError(
                f"got items={self.items!r}, length={self.length!r}: both must be whole numbers, at least 1"
            )


class CappedBeams:
    """Selection of the most probable candidates of each level under a `PrefixCap`.

    The last level keeps to the cap. At the levels between the prefix and the last one, a prefix may hold more beams
    than `cap.items`, because the most probable item is not always below the most probable beam; the number is limited
    so that enough prefixes remain for a list of `k` items.

    Args:
        num_beams (`int`): number of hypotheses kept for each prompt.
        k (`int`): length of the list.
        cap (`PrefixCap`): the maximum of items per prefix.
        levels (`int`): codes of a SID.

    Raises:
        ValueError: the prefix is not shorter than a SID.
    """

    def __init__(self, num_beams: int, k: int, *, cap: PrefixCap, levels: int) -> None:
        if cap.length >= levels:
            raise ValueError(
                f"got a prefix of {cap.length} codes for SIDs of {levels}: each prefix would be one SID; pass a "
                f"length of at most {levels - 1}"
            )
        self.num_beams, self.cap, self.levels = num_beams, cap, levels
        self.max_beams_per_prefix = max(cap.items, num_beams // -(-k // cap.items))
        self.prefix = torch.zeros(0)

    def __call__(self, level: int, totals: torch.Tensor, step: torch.Tensor, children: torch.Tensor) -> torch.Tensor:
        """Select as `genrec_hf.generation.decoding.Select` says."""
        candidates = (totals[..., None] + step).flatten(1)
        if level >= self.cap.length:
            prefix = self.prefix[..., None].expand_as(step).flatten(1)
            most = self.cap.items if level == self.levels - 1 else self.max_beams_per_prefix
            over_cap = _rank_in_group(candidates, prefix) >= most
            candidates = candidates.masked_fill(over_cap, float("-inf"))
            if level == self.levels - 1:  # a list that is too short is filled up with empty ranks, not with these
                step.masked_fill_(over_cap.view_as(step), float("-inf"))
        else:
            prefix = children.flatten(1)
        selected = candidates.topk(min(self.num_beams, candidates.shape[1]), dim=1).indices
        self.prefix = prefix.gather(1, selected)
        return selected


def _rank_in_group(scores: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Count, for each entry `[rows, n]`, those of the same row and group that score higher, or equal and earlier."""
    by_score = scores.sort(dim=1, descending=True, stable=True).indices
    by_group = by_score.gather(1, group.gather(1, by_score).sort(dim=1, stable=True).indices)
    sorted_group = group.gather(1, by_group)
    position = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    is_start = torch.ones_like(sorted_group, dtype=torch.bool)
    is_start[:, 1:] = sorted_group[:, 1:] != sorted_group[:, :-1]
    start = torch.where(is_start, position, 0).cummax(dim=1).values
    return torch.empty_like(position).scatter_(1, by_group, position - start)


class Mmr:
    """Reranker for diversity by maximal marginal relevance (MMR; Carbonell and Goldstein 1998).

    Builds each list item by item: the next item is the candidate with the highest
    `relevance * r - (1 - relevance) * s`, where `s` is its highest cosine similarity to an item that is already in the
    list. The paper leaves the scale of `r` open; here `r` is the log-probability of the candidate, mapped linearly to
    [0, 1] over the candidates of a user.

    Args:
        embeddings (`np.ndarray`): `[items, d]`, in the row order of the ranker's items, such as the text embeddings
            that the SIDs were made from.
        relevance (`float`, defaults to 0.7): weight of relevance against similarity, in (0, 1]; 1 keeps the order of
            the candidates.

    Raises:
        ValueError: `relevance` is not a number in (0, 1], or the embeddings are not a matrix of finite numbers.

    Example:
        ```python
        recommender.recommend(histories, k=10, search=SearchSettings(num_beams=50), reranker=Mmr(embeddings))
        ```
    """

    def __init__(self, embeddings: np.ndarray, relevance: float = 0.7) -> None:
        if not isinstance(relevance, float | int | np.number) or relevance is True or not 0 < relevance <= 1:
            raise ValueError(f"got relevance={relevance!r}: pass a number in (0, 1]")
        table = np.asarray(embeddings)
        if table.ndim != 2 or not np.issubdtype(table.dtype, np.number):
            raise ValueError(f"got embeddings of shape {table.shape} and dtype {table.dtype}: pass numbers [items, d]")
        if not np.isfinite(table).all():
            raise ValueError("got NaN or infinite embeddings, which have no cosine: pass finite embeddings")
        table = table.astype(np.float64)  # squares of float16 overflow
        norms = np.linalg.norm(table, axis=1, keepdims=True)
        self.embeddings = (table / np.where(norms > 0, norms, 1)).astype(np.float32)
        self.relevance = relevance

    def rerank(self, histories: Histories | Sequence[Rows], ranking: Ranking, k: int) -> Ranking:
        """Select `k` candidates for each user, in the order of MMR.

        Args:
            histories (`Histories` or `Sequence`): not used.
            ranking (`Ranking`): candidates `[users, n]`, with log-probabilities as scores.
            k (`int`): length of the lists, at most `n`.

        Returns:
            `Ranking`: `[users, k]`, with the scores of the candidates, which are not sorted.

        Raises:
            ValueError: a candidate has no embedding, or `k` is larger than the number of candidates.
        """
        items, scores = ranking.items, ranking.scores
        if k > items.shape[1] or items.max(initial=-1) >= len(self.embeddings):
            raise ValueError(
                f"got {items.shape[1]} candidates a list, with item rows up to {items.max(initial=-1)}, for k={k} and "
                f"embeddings of {len(self.embeddings)} items: pass one embedding for each item of the ranker, and at "
                "least k candidates"
            )
        empty = items < 0
        low = np.where(empty, np.inf, scores).min(axis=1, keepdims=True)
        high = np.where(empty, -np.inf, scores).max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = np.where(high > low, (scores - low) / (high - low), 1.0)
        gain = np.where(empty, -np.inf, self.relevance * gain)
        vectors = self.embeddings[np.maximum(items, 0)]
        rows, similarity = np.arange(len(items)), np.full(items.shape, -np.inf)
        reranked = np.full((len(items), k), -1, dtype=np.int64)
        reranked_scores = np.full((len(items), k), -np.inf, dtype=np.float32)
        for rank in range(k):
            penalty = 0.0 if rank == 0 else (1 - self.relevance) * similarity
            best = (gain - penalty).argmax(axis=1)
            is_item = np.isfinite(gain[rows, best])
            reranked[:, rank] = np.where(is_item, items[rows, best], -1)
            reranked_scores[:, rank] = np.where(is_item, scores[rows, best], -np.inf)
            gain[rows, best] = -np.inf
            similarity = np.maximum(similarity, np.einsum("rnd,rd->rn", vectors, vectors[rows, best]))
        return Ranking(reranked, reranked_scores)
