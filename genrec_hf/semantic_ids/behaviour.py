"""Item vectors from behavior: a factorization of co-occurrences, concatenated to text embeddings or on its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from sklearn.decomposition import TruncatedSVD

from genrec_hf.data import InteractionData, load_embeddings
from genrec_hf.data.cooccurrence import cooccurrence_counts
from genrec_hf.data.item_embeddings import EMBEDDINGS_FILE, find_embeddings
from genrec_hf.semantic_ids.artefact import SemanticIds
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
    """Concatenate text embeddings and a factorization of co-occurrences, as input of quantizers.

    The result is `[(1 - w) e_i ; w v_i]`, with `e_i` and `v_i` scaled to length one, and `v` the first singular
    vectors of the positive pointwise mutual information `max(0, log c_ij C / (c_i c_j))` of items at most `window`
    events apart (Levy and Goldberg, 2014). An item without co-occurrences has `v_i = 0`, so that its text alone
    determines its codes; so have items that are added later (`cold_embeddings`).

    Args:
        sequences (`Sequence[np.ndarray]`): training sequences of item rows, oldest first.
        embeddings (`np.ndarray`): text embeddings `[items, d]`.
        weight (`float`): `w`, from 0 (the embeddings are returned unchanged) to 1.
        seed (`int`, defaults to 0): random seed of the factorization.
        window (`int`, defaults to 10): number of events by which co-occurring items are apart at most.
        components (`int`, defaults to 64): number of singular vectors; at most `items - 1` are used.

    Returns:
        `np.ndarray`: `[items, d + components]` float32, or `[items, d]` with `weight=0`.

    Raises:
        ValueError: when no two items co-occur.
    """
    if weight == 0:
        return embeddings
    behaviour = cooccurrence_vectors(sequences, len(embeddings), seed, window=window, components=components)
    parts = [(1 - weight) * _normalize(embeddings), weight * _normalize(behaviour)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def cooccurrence_vectors(
    sequences: Sequence[np.ndarray], items: int, seed: int = 0, *, window: int = 10, components: int = 64
) -> np.ndarray:
    """Factorize co-occurrences into one vector per item, the `v` of `cooccurrence_embeddings` before scaling.

    Args:
        sequences (`Sequence[np.ndarray]`): training sequences of item rows, oldest first.
        items (`int`): number of items of the catalogue.
        seed (`int`, defaults to 0): random seed of the factorization.
        window (`int`, defaults to 10): number of events by which co-occurring items are apart at most.
        components (`int`, defaults to 64): number of singular vectors; at most `items - 1` are used.

    Returns:
        `np.ndarray`: `[items, components]`, float32; a row of zeros for an item without co-occurrences.

    Raises:
        ValueError: when no two items co-occur.
    """
    counts = cooccurrence_counts(sequences, items, window).tocoo()
    if counts.nnz == 0:
        raise ValueError(
            "no training sequence has two items, so nothing co-occurs: use text alone (behaviour_weight=0)"
        )
    totals = np.asarray(counts.sum(axis=1)).ravel()
    information = np.log(counts.data * totals.sum() / (totals[counts.row] * totals[counts.col]))
    matrix = coo_matrix((np.maximum(information, 0), (counts.row, counts.col)), shape=counts.shape).tocsr()
    return TruncatedSVD(min(components, items - 1), random_state=seed).fit_transform(matrix).astype(np.float32)


def behaviour_data(
    quantizer: Quantizer, sequences: Sequence[np.ndarray], item_ids: Sequence[str], *, collaborative: str | None = None
) -> dict[str, Any]:
    """Compute the arguments of a quantizer's `fit` that come from behavior and have a weight in its settings.

    Args:
        quantizer (`Quantizer`): not fitted.
        sequences (`Sequence[np.ndarray]`): training sequences of item rows, oldest first.
        item_ids (`Sequence[str]`): outside ids in row order.
        collaborative (`str`, *optional*): file of item vectors of a collaborative model, written by `save_embeddings`;
            by default `cooccurrence_vectors` are used.

    Returns:
        `dict`: `cooccurrence` (counts within 10 events) if `contrastive_weight` is above 0, and `collaborative`
        (vectors `[items, c]`) if `alignment_weight` is above 0.

    Raises:
        ValueError: when `collaborative` is given and `alignment_weight` is 0, or when no two items co-occur.
    """
    fit_arguments: dict[str, Any] = {}
    if getattr(quantizer, "contrastive_weight", 0) > 0:
        fit_arguments["cooccurrence"] = cooccurrence_counts(sequences, len(item_ids), 10)
    if getattr(quantizer, "alignment_weight", 0) > 0:
        fit_arguments["collaborative"] = (
            load_embeddings(collaborative, item_ids)
            if collaborative
            else cooccurrence_vectors(sequences, len(item_ids), quantizer.seed)
        )
    elif collaborative:
        raise ValueError(
            f"got collaborative={collaborative!r}, which only rq-vae with alignment_weight above 0 uses: choose "
            "that quantizer and setting, or leave collaborative out"
        )
    return fit_arguments


def quantized_vectors(semantic_ids: SemanticIds, data: InteractionData, data_dir: str | Path) -> np.ndarray:
    """Return the item vectors that `recipes/build_sids.py` gave to the quantizer.

    They are the embeddings in `data_dir` or, if `semantic_ids.info` has a `behaviour_weight`, their
    `cooccurrence_embeddings` with the same weight and seed. Semantic ids made elsewhere have none: the embeddings are
    returned.

    Args:
        semantic_ids (`SemanticIds`): the catalogue.
        data (`InteractionData`): data set with the same items in the same rows.
        data_dir (`str` or `Path`): its folder, with `item_embeddings.safetensors`.

    Returns:
        `np.ndarray`: `[items, d]`, float32.

    Raises:
        FileNotFoundError: `data_dir` has no item embeddings.
        ValueError: they are of other items, or the file is broken.
    """
    embeddings = find_embeddings(data_dir, data.item_ids)
    if embeddings is None:
        raise FileNotFoundError(
            f"got data_dir={str(data_dir)!r} without {EMBEDDINGS_FILE}, and the centroids of SID codes are computed "
            "from item embeddings: run recipes/build_sids.py, which writes the file, or pass --init text"
        )
    weight, seed = semantic_ids.info.get("behaviour_weight", 0), semantic_ids.info.get("seed", 0)
    return cooccurrence_embeddings(data.training_sequences(), embeddings, weight, seed=seed)


def cold_embeddings(embeddings: np.ndarray, weight: float, components: int = 64) -> np.ndarray:
    """Return the vectors of cold items, `[(1 - w) e_i ; 0]`, for `SemanticIds.add`.

    They are those of `cooccurrence_embeddings` for an item without co-occurrences. New items that have events by now
    are treated as if they had none: a factorization of newer events would have other axes than the one that the
    quantizer was fitted on.

    Args:
        embeddings (`np.ndarray`): text embeddings `[n, d]`, from the encoder of the catalogue.
        weight (`float`): `w` of the catalogue's vectors, from 0 to 1.
        components (`int`, defaults to 64): number of columns of the behavior part, which is
            `semantic_ids.quantizer.embedding_size - d`; in a catalogue of 64 items or fewer it is less than 64.

    Returns:
        `np.ndarray`: `[n, d + components]` float32, or `[n, d]` with `weight=0`.

    Raises:
        ValueError: when `weight` is not from 0 to 1, or `components` is below 1.

    Example:
        >>> cold_embeddings(np.array([[0.0, 2.0]]), weight=0.5, components=1).tolist()
        [[0.0, 0.5, 0.0]]
    """
    if weight == 0:
        return embeddings
    if not 0 < weight <= 1 or components < 1:
        raise ValueError(
            f"got weight={weight} and components={components}: pass those of the catalogue, a weight from 0 to 1 and "
            "at least 1 component"
        )
    no_behaviour = np.zeros((len(embeddings), components))
    return np.concatenate([(1 - weight) * _normalize(embeddings), no_behaviour], axis=1).astype(np.float32)


def _normalize(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
