"""Intrinsic metrics of codes: code usage, collisions, and how far related items share prefixes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.stats import entropy
from sklearn.metrics.cluster import contingency_matrix
from sklearn.neighbors import NearestNeighbors

from genrec_hf.data.cooccurrence import cooccurrence_counts


@dataclass(frozen=True)
class RelatedItems:
    """Items that are related by other data than their codes; one serves reports on any number of quantizers.

    Attributes:
        embeddings (`np.ndarray`): `[items, d]`, the embeddings that the codes were made from.
        neighbours (`np.ndarray`): `[items, n]`, rows of the nearest other items of each item by cosine.
        cooccurrences (`csr_matrix`, *optional*): `[items, items]`, how often two items are near each other in the
            training sequences.
        categories (`np.ndarray`, *optional*): `[items]`, number of each item's category, `-1` for none.
    """

    embeddings: np.ndarray
    neighbours: np.ndarray
    cooccurrences: csr_matrix | None = None
    categories: np.ndarray | None = None


def find_related_items(
    embeddings: np.ndarray,
    sequences: Sequence[np.ndarray] | None = None,
    categories: Sequence[str] | None = None,
    *,
    neighbours: int = 10,
    window: int = 10,
) -> RelatedItems:
    """Find the neighbors, co-occurrences and categories of all items, for `quantization_report`.

    Args:
        embeddings (`np.ndarray`): `[items, d]`, the embeddings that the codes are made from.
        sequences (`Sequence[np.ndarray]`, *optional*): training sequences of item rows.
        categories (`Sequence[str]`, *optional*): `[items]`; of a list with commas the first is used, empty text means
            none.
        neighbours (`int`, defaults to 10): number of nearest other items of each item.
        window (`int`, defaults to 10): number of events by which co-occurring items are apart at most.

    Returns:
        `RelatedItems`: `cooccurrences` is `None` without `sequences`, `categories` is `None` when no item has one.
    """
    cooccurrences = None if sequences is None else cooccurrence_counts(sequences, len(embeddings), window)
    labels = None
    if categories is not None and any(categories):
        first = np.array([category.split(",")[0].strip() for category in categories])
        names, labels = np.unique(first, return_inverse=True)
        labels = np.where(names[labels] == "", -1, labels)
    return RelatedItems(embeddings, _find_neighbours(embeddings, neighbours), cooccurrences, labels)


def quantization_report(
    codes: np.ndarray,
    unique_codes: np.ndarray,
    level_sizes: tuple[int, ...],
    *,
    related: RelatedItems,
    reconstruction_error: float | None = None,
    seconds: float | None = None,
    peak_mb: float | None = None,
) -> dict[str, Any]:
    """Compute the intrinsic metrics of one quantizer, for `report.json` and for choosing between quantizers.

    `perplexity = exp(H)` with `H` the entropy of the code frequencies of a level: the number of codes that would have
    the same entropy if used equally often. For each prefix length: `neighbour_hit_rate`, the fraction of items'
    nearest neighbors with the same prefix; `cooccurrence_hit_rate`, the fraction of co-occurring pairs with the same
    prefix; `purity`, the fraction of items in the most frequent category of their prefix. The first two come with
    their value by chance, the last with its value for codes shuffled among items: longer prefixes have fewer items,
    and so higher purity, whatever they mean. A metric is `None` where its data are missing.

    Args:
        codes (`np.ndarray`): `[items, levels]`, before collision resolution.
        unique_codes (`np.ndarray`): `[items, levels or more]`, after it.
        level_sizes (`tuple[int, ...]`): sizes of the levels of `codes`.
        related (`RelatedItems`): neighbors, co-occurrences and categories of the items.
        reconstruction_error (`float`, *optional*): the result of `unexplained_variance`.
        seconds (`float`, *optional*): time that fitting and encoding took.
        peak_mb (`float`, *optional*): peak memory of fitting and encoding, in MB.

    Returns:
        `dict`: `levels` (for each: `codes`, the level size; `used`, the codes that items have; `perplexity`; `entropy`
        in nats; `largest`, the items of the most frequent code), `collision_before` and `collision_after` (fractions
        of items that share all their codes with another), `largest_group` (items), `reconstruction_error`, `seconds`,
        `peak_mb`, and for each prefix length (list `[levels]`) `neighbour_hit_rate`, `neighbour_hit_rate_chance`,
        `cooccurrence_hit_rate`, `cooccurrence_hit_rate_chance`, `purity`, `purity_shuffled`.
    """
    groups = _group_sizes(codes)
    prefixes = [_number_rows(codes[:, : level + 1]) for level in range(codes.shape[1])]
    shuffled = np.random.default_rng(0).permutation(len(codes))
    purity = None if related.categories is None else [_purity(prefix, related.categories) for prefix in prefixes]
    purity_shuffled = (
        None if related.categories is None else [_purity(prefix[shuffled], related.categories) for prefix in prefixes]
    )
    hit_rates, chances = _cooccurrence_hit_rates(prefixes, related.cooccurrences)
    return {
        "levels": [_code_usage(codes[:, level], size) for level, size in enumerate(level_sizes)],
        "collision_before": float((groups > 1).mean()),
        "collision_after": float((_group_sizes(unique_codes) > 1).mean()),
        "largest_group": int(groups.max()),
        "reconstruction_error": reconstruction_error,
        "neighbour_hit_rate": [float((p[related.neighbours] == p[:, None]).mean()) for p in prefixes],
        "neighbour_hit_rate_chance": [_neighbour_hit_rate_by_chance(prefix) for prefix in prefixes],
        "cooccurrence_hit_rate": hit_rates,
        "cooccurrence_hit_rate_chance": chances,
        "purity": purity,
        "purity_shuffled": purity_shuffled,
        "seconds": seconds,
        "peak_mb": peak_mb,
    }


def unexplained_variance(vectors: np.ndarray, reconstruction: np.ndarray) -> float:
    """Compute the fraction of the variance of vectors that their reconstruction does not explain.

    Args:
        vectors (`np.ndarray`): `[items, d]`.
        reconstruction (`np.ndarray`): `[items, d]`.

    Returns:
        `float`: squared error as a fraction of the squared deviation from the mean vector; 0 is best.
    """
    return float(np.square(vectors - reconstruction).sum() / np.square(vectors - vectors.mean(axis=0)).sum())


def _code_usage(codes: np.ndarray, size: int) -> dict[str, float]:
    counts = np.bincount(codes, minlength=size)
    nats = float(entropy(counts))
    return {
        "codes": size,
        "used": int((counts > 0).sum()),
        "perplexity": float(np.exp(nats)),
        "entropy": nats,
        "largest": int(counts.max()),
    }


def _number_rows(codes: np.ndarray) -> np.ndarray:
    """Return a number `[items]` for each row of codes, equal for equal rows."""
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)


def _group_sizes(codes: np.ndarray) -> np.ndarray:
    group = _number_rows(codes)
    return np.bincount(group)[group]


def _find_neighbours(embeddings: np.ndarray, neighbours: int) -> np.ndarray:
    neighbours = min(neighbours, len(embeddings) - 1)
    if neighbours < 1:
        return np.zeros((len(embeddings), 0), dtype=np.int64)
    index = NearestNeighbors(n_neighbors=neighbours + 1, metric="cosine").fit(embeddings)
    neighbour_rows = index.kneighbors(embeddings, return_distance=False)
    return np.stack([row[row != item][:neighbours] for item, row in enumerate(neighbour_rows)])


def _neighbour_hit_rate_by_chance(group: np.ndarray) -> float:
    """Compute the expected hit rate of neighbors sampled at random from all other items."""
    sizes = np.bincount(group)[group]
    return float(((sizes - 1) / max(len(group) - 1, 1)).mean())


def _cooccurrence_hit_rates(
    prefixes: list[np.ndarray], cooccurrences: csr_matrix | None
) -> tuple[list[float] | None, list[float] | None]:
    """Compute the fraction of co-occurring pairs with the same prefix, and of pairs sampled by popularity alone."""
    if cooccurrences is None or cooccurrences.nnz == 0:
        return None, None
    pairs = cooccurrences.tocoo()
    hit_rates = [float(pairs.data[p[pairs.row] == p[pairs.col]].sum() / pairs.data.sum()) for p in prefixes]
    popularity = np.asarray(cooccurrences.sum(axis=1)).ravel() / pairs.data.sum()
    same_item = np.square(popularity).sum()
    same_prefix = [np.square(np.bincount(prefix, weights=popularity)).sum() for prefix in prefixes]
    return hit_rates, [float((probability - same_item) / (1 - same_item)) for probability in same_prefix]


def _purity(group: np.ndarray, categories: np.ndarray) -> float:
    known = categories >= 0
    counts = contingency_matrix(group[known], categories[known], sparse=True)
    return float(counts.max(axis=1).sum() / known.sum())
