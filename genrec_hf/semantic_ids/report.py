"""What codes look like in figures: use, collisions, and what items with a common prefix have in common."""

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
    """Which items belong together, by other signs than their codes: made once, for reports of any number of codes.

    Attributes:
        embeddings (`np.ndarray`): `[items, d]`, what the codes were made from.
        neighbours (`np.ndarray`): `[items, n]`, the rows of each item's nearest others by cosine.
        together (`csr_matrix`, *optional*): `[items, items]`, how often two items stand near each other in the
            training sequences.
        categories (`np.ndarray`, *optional*): `[items]`, the category of each item as a number, `-1` for none.
    """

    embeddings: np.ndarray
    neighbours: np.ndarray
    together: csr_matrix | None = None
    categories: np.ndarray | None = None


def find_related_items(
    embeddings: np.ndarray,
    sequences: Sequence[np.ndarray] | None = None,
    categories: Sequence[str] | None = None,
    *,
    neighbours: int = 10,
    window: int = 10,
) -> RelatedItems:
    """Collect what reports hold codes against.

    Args:
        embeddings (`np.ndarray`): `[items, d]`, what the codes are made from.
        sequences (`Sequence[np.ndarray]`, *optional*): training sequences of item rows.
        categories (`Sequence[str]`, *optional*): of each item, the first before a comma counts; empty for none.
        neighbours (`int`, defaults to 10): nearest others of each item.
        window (`int`, defaults to 10): events between items that are chosen together, at most.
    """
    together = None if sequences is None else cooccurrence_counts(sequences, len(embeddings), window)
    labels = None
    if categories is not None and any(categories):
        first = np.array([category.split(",")[0].strip() for category in categories])
        names, labels = np.unique(first, return_inverse=True)
        labels = np.where(names[labels] == "", -1, labels)
    return RelatedItems(embeddings, _nearest_others(embeddings, neighbours), together, labels)


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
    """Figures of one quantizer, for `report.json` and for choosing between quantizers.

    `perplexity = exp(H)` with `H` the entropy of a level's code use: the number of codes in even use. For each prefix
    length: `neighbour_hit_rate`, the share of items' nearest neighbours that share the prefix; `together_hit_rate`,
    the share of pairs chosen together that share it; `purity`, the share of items in the commonest category of their
    prefix. The first two come with what chance gives, the last with its value for codes shuffled among items: longer
    prefixes hold fewer items and are purer whatever they mean. A figure is `None` where its data are missing.

    Args:
        codes (`np.ndarray`): `[items, levels]`, before collision resolution.
        unique_codes (`np.ndarray`): `[items, levels or more]`, after it.
        level_sizes (`tuple[int, ...]`): sizes of the levels of `codes`.
        related (`RelatedItems`): which items belong together.
        reconstruction_error (`float`, *optional*): from `lost_variance`.
        seconds (`float`, *optional*): that fitting and encoding took.
        peak_mb (`float`, *optional*): memory that they took.

    Returns:
        `dict`: `levels` (for each: `codes`, `used`, `perplexity`, `entropy`, `largest`), `collision_before` and
        `collision_after` (shares of items that share their codes with another), `largest_group` (items),
        `reconstruction_error`, the rates above, `seconds`, `peak_mb`.
    """
    groups = _group_sizes(codes)
    prefixes = [_groups(codes[:, : level + 1]) for level in range(codes.shape[1])]
    shuffled = np.random.default_rng(0).permutation(len(codes))
    purity = None if related.categories is None else [_purity(prefix, related.categories) for prefix in prefixes]
    by_chance = (
        None if related.categories is None else [_purity(prefix[shuffled], related.categories) for prefix in prefixes]
    )
    together, together_chance = _together(prefixes, related.together)
    return {
        "levels": [_level(codes[:, level], size) for level, size in enumerate(level_sizes)],
        "collision_before": float((groups > 1).mean()),
        "collision_after": float((_group_sizes(unique_codes) > 1).mean()),
        "largest_group": int(groups.max()),
        "reconstruction_error": reconstruction_error,
        "neighbour_hit_rate": [float((p[related.neighbours] == p[:, None]).mean()) for p in prefixes],
        "neighbour_hit_rate_chance": [_chance(prefix) for prefix in prefixes],
        "together_hit_rate": together,
        "together_hit_rate_chance": together_chance,
        "purity": purity,
        "purity_shuffled": by_chance,
        "seconds": seconds,
        "peak_mb": peak_mb,
    }


def lost_variance(vectors: np.ndarray, reconstruction: np.ndarray) -> float:
    """Share of the variance of `vectors` `[items, d]` that is not in their `reconstruction`, likewise; 0 is best."""
    return float(np.square(vectors - reconstruction).sum() / np.square(vectors - vectors.mean(axis=0)).sum())


def _level(codes: np.ndarray, size: int) -> dict[str, float]:
    counts = np.bincount(codes, minlength=size)
    nats = float(entropy(counts))
    return {
        "codes": size,
        "used": int((counts > 0).sum()),
        "perplexity": float(np.exp(nats)),
        "entropy": nats,
        "largest": int(counts.max()),
    }


def _groups(codes: np.ndarray) -> np.ndarray:
    """A number `[items]` for each item, equal for equal rows of codes."""
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)


def _group_sizes(codes: np.ndarray) -> np.ndarray:
    group = _groups(codes)
    return np.bincount(group)[group]


def _nearest_others(embeddings: np.ndarray, neighbours: int) -> np.ndarray:
    neighbours = min(neighbours, len(embeddings) - 1)
    if neighbours < 1:
        return np.zeros((len(embeddings), 0), dtype=np.int64)
    index = NearestNeighbors(n_neighbors=neighbours + 1, metric="cosine").fit(embeddings)
    near = index.kneighbors(embeddings, return_distance=False)
    return np.stack([row[row != item][:neighbours] for item, row in enumerate(near)])


def _chance(group: np.ndarray) -> float:
    """Share of all other items of the same group: what neighbours picked at random would give."""
    sizes = np.bincount(group)[group]
    return float(((sizes - 1) / max(len(group) - 1, 1)).mean())


def _together(
    prefixes: list[np.ndarray], together: csr_matrix | None
) -> tuple[list[float] | None, list[float] | None]:
    """Share of pairs with a common prefix, and the same for pairs that only popularity brings together."""
    if together is None or together.nnz == 0:
        return None, None
    pairs = together.tocoo()
    rates = [float(pairs.data[p[pairs.row] == p[pairs.col]].sum() / pairs.data.sum()) for p in prefixes]
    share = np.asarray(together.sum(axis=1)).ravel() / pairs.data.sum()
    itself = np.square(share).sum()
    chances = [(np.square(np.bincount(prefix, weights=share)).sum() - itself) / (1 - itself) for prefix in prefixes]
    return rates, [float(chance) for chance in chances]


def _purity(group: np.ndarray, categories: np.ndarray) -> float:
    known = categories >= 0
    counts = contingency_matrix(group[known], categories[known], sparse=True)
    return float(counts.max(axis=1).sum() / known.sum())
