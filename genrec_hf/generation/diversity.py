"""Diverse lists: at most so many items under one prefix, and re-ranking by maximal marginal relevance (MMR)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genrec_hf.item_rows import is_whole
from genrec_hf.ranking import Histories, Ranking, Rows


@dataclass(frozen=True)
class PrefixCap:
    """At most `items` items of a list may share their first `length` codes.

    Held within the beam search, so that lists stay full: beams that a crowded prefix may not have go to others.

    Args:
        items (`int`): of one prefix in a list.
        length (`int`, defaults to 1): codes that make the prefix.

    Raises:
        ValueError: when one of them is no whole number, or below 1.
    """

    items: int
    length: int = 1

    def __post_init__(self) -> None:
        if not all(is_whole(value) and value >= 1 for value in (self.items, self.length)):
            raise ValueError(
                f"got items={self.items!r}, length={self.length!r}: both are counts, pass whole numbers, at least 1"
            )


class CappedBeams:
    """`BestBeams` under a `PrefixCap`.

    The last level keeps to the cap. Between the prefix and the last level a prefix may hold more beams than items, as
    the best item need not lie under the best beam, but never so many that too few prefixes are left for a list of `k`.

    Args:
        num_beams (`int`): hypotheses kept.
        k (`int`): length of the list.
        cap (`PrefixCap`): what is asked for.
        levels (`int`): codes of a SID.

    Raises:
        ValueError: when the prefix is as long as a SID.
    """

    def __init__(self, num_beams: int, k: int, *, cap: PrefixCap, levels: int) -> None:
        if cap.length >= levels:
            raise ValueError(f"a prefix of {cap.length} codes of SIDs of {levels}: take {levels - 1} or fewer")
        self.num_beams, self.cap, self.levels = num_beams, cap, levels
        self.between = max(cap.items, num_beams // -(-k // cap.items))
        self.prefix = torch.zeros(0)

    def __call__(self, level: int, totals: torch.Tensor, step: torch.Tensor, children: torch.Tensor) -> torch.Tensor:
        """See `genrec_hf.generation.decoding.Select`."""
        candidates = (totals[..., None] + step).flatten(1)
        if level >= self.cap.length:
            prefix = self.prefix[..., None].expand_as(step).flatten(1)
            most = self.cap.items if level == self.levels - 1 else self.between
            crowded = _place_in_group(candidates, prefix) >= most
            candidates = candidates.masked_fill(crowded, float("-inf"))
            if level == self.levels - 1:  # the void ones that fill up a short list stay void
                step.masked_fill_(crowded.view_as(step), float("-inf"))
        else:
            prefix = children.flatten(1)
        chosen = candidates.topk(min(self.num_beams, candidates.shape[1]), dim=1).indices
        self.prefix = prefix.gather(1, chosen)
        return chosen


def _place_in_group(scores: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """How many of the same group and row have a higher score, `[rows, n]`; of equals the first counts as higher."""
    best = scores.sort(dim=1, descending=True, stable=True).indices
    by_group = best.gather(1, group.gather(1, best).sort(dim=1, stable=True).indices)
    sorted_group = group.gather(1, by_group)
    at = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    begins = torch.ones_like(sorted_group, dtype=torch.bool)
    begins[:, 1:] = sorted_group[:, 1:] != sorted_group[:, :-1]
    begin = torch.where(begins, at, 0).cummax(dim=1).values
    return torch.empty_like(at).scatter_(1, by_group, at - begin)


class Mmr:
    """Re-ranks candidates so that a list does not say the same thing twice.

    Maximal marginal relevance (Carbonell and Goldstein 1998): item by item, the candidate of highest
    `relevance * r - (1 - relevance) * s`, with `s` its highest cosine similarity to an item already in the list. The
    paper leaves the scale of `r` open; here the log-probabilities of a request's candidates are mapped to [0, 1].

    Args:
        embeddings (`np.ndarray`): `[items, d]` in the rows of `semantic_ids`, such as the text embeddings that the
            SIDs were made from.
        relevance (`float`, defaults to 0.7): weight of relevance, in (0, 1]; 1 changes nothing.

    Raises:
        ValueError: when `relevance` is no number in (0, 1], or the embeddings are no table of finite numbers.
    """

    def __init__(self, embeddings: np.ndarray, relevance: float = 0.7) -> None:
        if not isinstance(relevance, float | int | np.number) or relevance is True or not 0 < relevance <= 1:
            raise ValueError(f"got relevance={relevance!r}: pass a number in (0, 1]; 1 changes nothing")
        table = np.asarray(embeddings)
        if table.ndim != 2 or not np.issubdtype(table.dtype, np.number):
            raise ValueError(f"got embeddings of shape {table.shape} and dtype {table.dtype}: pass numbers [items, d]")
        if not np.isfinite(table).all():
            raise ValueError("got NaN or infinite embeddings, which have no cosine: pass finite embeddings")
        wide = table.astype(np.float64)  # squares of float16 overflow
        norms = np.linalg.norm(wide, axis=1, keepdims=True)
        self.embeddings = (wide / np.where(norms > 0, norms, 1)).astype(np.float32)
        self.relevance = relevance

    def rerank(self, histories: Histories | Sequence[Rows], ranking: Ranking, k: int) -> Ranking:
        """The `k` of each list that are kept, in their order.

        Args:
            histories (`Histories` or `Sequence`): not read.
            ranking (`Ranking`): candidates `[users, n]`, with log-probabilities as scores.
            k (`int`): length of the lists, `n` at most.

        Returns:
            `Ranking`: `[users, k]`, with the scores of the candidates, which need not fall.

        Raises:
            ValueError: when a candidate has no embedding, or `k` is more than there are candidates.
        """
        items, scores = ranking.items, ranking.scores
        if k > items.shape[1] or items.max(initial=-1) >= len(self.embeddings):
            raise ValueError(
                f"got candidates up to item row {items.max(initial=-1)}, {items.shape[1]} a list, for k={k} and "
                f"embeddings of {len(self.embeddings)} items: give one embedding for each item of the ranker, and at "
                "least k candidates"
            )
        empty = items < 0
        low = np.where(empty, np.inf, scores).min(axis=1, keepdims=True)
        high = np.where(empty, -np.inf, scores).max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = np.where(high > low, (scores - low) / (high - low), 1.0)
        gain = np.where(empty, -np.inf, self.relevance * gain)
        vectors = self.embeddings[np.maximum(items, 0)]
        rows, similar = np.arange(len(items)), np.full(items.shape, -np.inf)
        kept = np.full((len(items), k), -1, dtype=np.int64)
        kept_scores = np.full((len(items), k), -np.inf, dtype=np.float32)
        for rank in range(k):
            penalty = 0.0 if rank == 0 else (1 - self.relevance) * similar
            best = (gain - penalty).argmax(axis=1)
            left = np.isfinite(gain[rows, best])
            kept[:, rank] = np.where(left, items[rows, best], -1)
            kept_scores[:, rank] = np.where(left, scores[rows, best], -np.inf)
            gain[rows, best] = -np.inf
            similar = np.maximum(similar, np.einsum("rnd,rd->rn", vectors, vectors[rows, best]))
        return Ranking(kept, kept_scores)
