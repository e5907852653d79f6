"""Behaviour beside text: item vectors that also know which items are chosen together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from sklearn.decomposition import TruncatedSVD

from genrec_hf.data import load_embeddings
from genrec_hf.data.cooccurrence import cooccurrence_counts
from genrec_hf.semantic_ids.quantizer import Quantizer


def cooccurrence_embeddings(
    sequences: Sequence[np.ndarray],
    embeddings: np.ndarray,
    weight: float,
    *,
    seed: int = 0,
    window: int = 10,
    components: int = 64,
) -> np.ndarray:
    """Text embeddings with a factorisation of co-occurrence beside them, for quantizers.

    `[(1 - w) e_i ; w v_i]`, both of length one, with `v` the first singular vectors of the positive pointwise mutual
    information `max(0, log c_ij C / (c_i c_j))` of items at most `window` events apart (Levy and Goldberg, 2014). An
    item without co-occurrences has `v_i = 0` and is placed by its text alone, and so are items that come later
    (`cold_embeddings`).

    Args:
        sequences (`Sequence[np.ndarray]`): training sequences of item rows, oldest first.
        embeddings (`np.ndarray`): text embeddings `[items, d]`.
        weight (`float`): `w`, from 0 (the embeddings come back as they are) to 1.
        seed (`int`, defaults to 0): of the factorisation.
        window (`int`, defaults to 10): events.
        components (`int`, defaults to 64): singular vectors.

    Returns:
        `np.ndarray`: `[items, d + components]` float32, or `[items, d]` with `weight=0`.
    """
    if weight == 0:
        return embeddings
    behaviour = cooccurrence_vectors(sequences, len(embeddings), seed, window=window, components=components)
    return np.concatenate([(1 - weight) * _unit(embeddings), weight * _unit(behaviour)], axis=1).astype(np.float32)


def cooccurrence_vectors(
    sequences: Sequence[np.ndarray], items: int, seed: int = 0, *, window: int = 10, components: int = 64
) -> np.ndarray:
    """The factorisation of co-occurrence alone, `[items, components]` float32, as in `cooccurrence_embeddings`.

    Raises:
        ValueError: when nothing co-occurs.
    """
    counts = cooccurrence_counts(sequences, items, window).tocoo()
    if counts.nnz == 0:
        raise ValueError(
            "no training sequence holds two items: nothing co-occurs; use text alone (behaviour weight 0)"
        )
    totals = np.asarray(counts.sum(axis=1)).ravel()
    information = np.log(counts.data * totals.sum() / (totals[counts.row] * totals[counts.col]))
    matrix = coo_matrix((np.maximum(information, 0), (counts.row, counts.col)), shape=counts.shape).tocsr()
    return TruncatedSVD(min(components, items - 1), random_state=seed).fit_transform(matrix).astype(np.float32)


def behaviour_data(
    quantizer: Quantizer, sequences: Sequence[np.ndarray], item_ids: Sequence[str], *, collaborative: str | None = None
) -> dict[str, Any]:
    """What a quantizer's `fit` takes beside embeddings, by the weights in its settings.

    Args:
        quantizer (`Quantizer`): not fitted yet.
        sequences (`Sequence[np.ndarray]`): training sequences of item rows, oldest first.
        item_ids (`Sequence[str]`): outside ids in row order.
        collaborative (`str`, *optional*): file of item vectors of a collaborative filter, from `save_embeddings`; ours
            from co-occurrence when not given.

    Returns:
        `dict`: `cooccurrence` (counts within 10 events) and `collaborative`, each where a weight asks for it.

    Raises:
        ValueError: when a file is given that no weight asks for.
    """
    wanted: dict[str, Any] = {}
    if getattr(quantizer, "contrastive_weight", 0) > 0:
        wanted["cooccurrence"] = cooccurrence_counts(sequences, len(item_ids), 10)
    if getattr(quantizer, "alignment_weight", 0) > 0:
        wanted["collaborative"] = (
            load_embeddings(collaborative, item_ids)
            if collaborative
            else cooccurrence_vectors(sequences, len(item_ids), quantizer.seed)
        )
    elif collaborative:
        raise ValueError(
            f"got collaborative={collaborative!r}, which nothing would read: rq-vae does with alignment_weight above 0"
        )
    return wanted


def cold_embeddings(embeddings: np.ndarray, weight: float, components: int = 64) -> np.ndarray:
    """The vectors of items that nobody has chosen yet, `[(1 - w) e_i ; 0]`, for `SemanticIds.add`.

    What `cooccurrence_embeddings` gives an item without co-occurrences. New items that were chosen meanwhile count as
    not chosen: a factorisation of newer events would have other axes than the one that the quantizer saw.

    Args:
        embeddings (`np.ndarray`): text embeddings `[n, d]` of the same encoder.
        weight (`float`): `w` of the catalogue's vectors.
        components (`int`, defaults to 64): of their behaviour part, `semantic_ids.quantizer.embedding_size - d`; in a catalogue of
            64 items or fewer it is less than 64.

    Returns:
        `np.ndarray`: `[n, d + components]` float32, or `[n, d]` with `weight=0`.

    Example:
        >>> cold_embeddings(np.array([[0.0, 2.0]]), weight=0.5, components=1).tolist()
        [[0.0, 0.5, 0.0]]
    """
    if weight == 0:
        return embeddings
    if not 0 < weight <= 1 or components < 1:
        raise ValueError(
            f"weight={weight}, components={components}: pass those of the catalogue, 0 to 1, and 1 or more"
        )
    silent = np.zeros((len(embeddings), components))
    return np.concatenate([(1 - weight) * _unit(embeddings), silent], axis=1).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
