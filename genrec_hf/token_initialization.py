"""First embeddings of SID tokens: from item texts, from centroids of the codes, from the mean row, or at random."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import RidgeCV

from genrec_hf.semantic_ids import SemanticIds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Penalties of the ridge regression, relative to the mean variance of the item vectors.
PENALTIES = np.logspace(-3, 3, 7)
# Number of items that the ridge regression is fitted on at most: it has one coefficient per dimension of the vectors.
FITTED_ITEMS = 20_000


def initialize_sid_rows(
    model: PreTrainedModel,
    token_ids: np.ndarray,
    semantic_ids: SemanticIds,
    *,
    rows: int,
    init: str,
    texts: Sequence[Sequence[int]] = (),
    item_vectors: np.ndarray | None = None,
    seed: int = 0,
) -> None:
    """Resize embedding and head of a model if they have too few rows, and set the rows of the SID tokens.

    Args:
        model (`PreTrainedModel`): changed in place.
        token_ids (`np.ndarray`): token ids of the codes, level by level, then of other new tokens such as markers,
            which get the mean of all old rows.
        semantic_ids (`SemanticIds`): the catalogue.
        rows (`int`): number of rows that are needed, the length of the tokenizer.
        init (`str`): `"text"` (`text_rows`), `"centroids"` (`centroid_rows`), `"mean"` or `"random"`, see
            `SidVocabulary.extend`.
        texts (`Sequence[Sequence[int]]`): token ids of the text of each item, for `"text"` and `"centroids"`.
        item_vectors (`np.ndarray`, *optional*): `[items, d]`, for `"centroids"`.
        seed (`int`, defaults to 0): random seed of `"random"` and `"centroids"`.
    """
    # Some checkpoints have more rows than their tokenizer has tokens (Qwen); those rows are used, not removed.
    rows_before = model.get_input_embeddings().get_parameter("weight").shape[0]
    if rows_before < rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    tables = [model.get_input_embeddings().get_parameter("weight")]
    head = model.get_output_embeddings().get_parameter("weight")
    if head is not tables[0]:
        tables.append(head)
    new_ids = torch.as_tensor(token_ids)
    old_count = min(rows_before, int(new_ids.min()))
    with torch.no_grad():
        for table in tables:
            old = table[:old_count].float()
            # Also for tokens of the tokenizer that had no row, such as padding, instead of rows of random size.
            table[rows_before:] = old.mean(dim=0).to(table)
            new = old.mean(dim=0).expand(len(new_ids), -1).clone()
            if init == "random":
                noise = torch.randn(new.shape, generator=torch.Generator().manual_seed(seed)).to(new)
                new += noise * old.std(dim=0)
            if init in ("text", "centroids"):
                items, vectors = text_vectors(old, texts)
                by_text = text_rows(
                    vectors, semantic_ids.codes[items], semantic_ids.level_sizes, mean_row=old.mean(dim=0)
                )
                new[: len(by_text)] = by_text
            if init == "centroids":
                assert item_vectors is not None
                by_centroid = centroid_rows(
                    old, items, vectors, semantic_ids=semantic_ids, item_vectors=item_vectors, seed=seed
                )
                new[: len(by_centroid)] = by_centroid
            table[new_ids] = new.to(table)


def text_vectors(old: torch.Tensor, texts: Sequence[Sequence[int]]) -> tuple[np.ndarray, torch.Tensor]:
    """Return the mean embedding of the text of each item that has one.

    Args:
        old (`torch.Tensor`): rows of the base vocabulary `[tokens, hidden]`.
        texts (`Sequence[Sequence[int]]`): `[items]` of token ids, maybe empty.

    Returns:
        `tuple[np.ndarray, torch.Tensor]`: rows of the items with a text `[n]`, and their vectors `[n, hidden]`.
    """
    items = np.array([item for item, ids in enumerate(texts) if len(ids)], dtype=np.int64)
    offsets = torch.tensor([0, *accumulate(len(texts[item]) for item in items)][:-1], dtype=torch.long)
    flat = torch.tensor([token for item in items for token in texts[item]], dtype=torch.long)
    vectors = torch.nn.functional.embedding_bag(flat.to(old.device), old, offsets.to(old.device), mode="mean")
    return items, vectors


def text_rows(
    vectors: torch.Tensor, codes: np.ndarray, level_sizes: Sequence[int], *, mean_row: torch.Tensor
) -> torch.Tensor:
    """Return for each code of each level the mean text vector of its items.

    Args:
        vectors (`torch.Tensor`): text vectors of items `[n, hidden]`.
        codes (`np.ndarray`): codes of the same items `[n, levels]`.
        level_sizes (`Sequence[int]`): number of codes of each level.
        mean_row (`torch.Tensor`): `[hidden]`, the row of codes without items.

    Returns:
        `torch.Tensor`: `[sum(level_sizes), hidden]`, level by level.
    """
    levels = zip(codes.T, level_sizes, strict=True)
    rows = torch.cat([_mean_by_code(vectors, level_codes, size) for level_codes, size in levels])
    return torch.where(rows.isnan(), mean_row, rows)


def centroid_rows(
    old: torch.Tensor,
    items: np.ndarray,
    vectors: torch.Tensor,
    *,
    semantic_ids: SemanticIds,
    item_vectors: np.ndarray,
    seed: int = 0,
) -> torch.Tensor:
    """Return for each code of each level its centroid, mapped into the embedding space of a language model.

    A ridge regression from item vectors to the text vectors of the same items gives the map `W`; its penalty has the
    least leave-one-out error of `PENALTIES`. The row of code `k` of level `l` is `m + a W c_lk`, with `m` the mean
    text vector, `c_lk` of `residual_centroids`, and one factor `a` such that the rows are as far from `m` as the old
    rows are from their mean (root mean square). A code without items gets the mean of the old rows.

    The level that numbers colliding items has no centroids, so that no rows are returned for it.

    Args:
        old (`torch.Tensor`): rows of the base vocabulary `[tokens, hidden]`.
        items (`np.ndarray`): rows of the items that have a text `[n]`, at least 2.
        vectors (`torch.Tensor`): their text vectors `[n, hidden]`.
        semantic_ids (`SemanticIds`): the catalogue.
        item_vectors (`np.ndarray`): vectors that were quantized `[items, d]`.
        seed (`int`, defaults to 0): random seed of the sample of `FITTED_ITEMS` items, if there are more.

    Returns:
        `torch.Tensor`: `[sum(level_sizes), hidden]` of the levels that have centroids.
    """
    fitted = np.random.default_rng(seed).permutation(len(items))[:FITTED_ITEMS]
    inputs, targets = item_vectors[items[fitted]], vectors[torch.as_tensor(fitted)].cpu().numpy()
    penalties = PENALTIES * np.maximum(inputs.var(axis=0).mean() * len(inputs), np.finfo(np.float32).tiny)
    weights = RidgeCV(alphas=penalties).fit(inputs, targets).coef_
    codes, level_sizes = _codes_with_centroids(semantic_ids)
    centroids = np.concatenate(residual_centroids(item_vectors, codes, level_sizes))
    shifts = torch.as_tensor(centroids @ weights.T).to(old)
    scale = old.var(dim=0, correction=0).sum().sqrt() / shifts.square().sum(dim=1).nanmean().sqrt()
    rows = vectors.mean(dim=0) + scale * shifts
    return torch.where(rows.isnan(), old.mean(dim=0), rows)


def residual_centroids(vectors: np.ndarray, codes: np.ndarray, level_sizes: Sequence[int]) -> list[np.ndarray]:
    """Compute the centroid of each code of each level: the mean of its items' residuals of the levels above.

    `r_0 = x - mean(x)`, `c_lk` the mean of `r_l` over the items with code `k` on level `l`, and
    `r_{l+1} = r_l - c_{l,code_l}`. For residual k-means these are its codebooks, the first one relative to the mean.
    They are computed from the items, so that they exist for every quantizer, in the space of the vectors (the
    codebooks of RQ-VAE are of latents), and follow codes that were reassigned after a collision. The plain mean of
    the vectors of a code of a lower level would also hold the average of its items' codes of the levels above.

    Args:
        vectors (`np.ndarray`): `[items, d]`.
        codes (`np.ndarray`): `[items, levels]`.
        level_sizes (`Sequence[int]`): number of codes of each level.

    Returns:
        `list[np.ndarray]`: `[level_sizes[l], d]` for each level, float32; NaN for a code without items.

    Example:
        >>> vectors = np.array([[0.0], [2.0], [10.0], [14.0]])
        >>> codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> [level.ravel().tolist() for level in residual_centroids(vectors, codes, (2, 2))]
        [[-5.5, 5.5], [-1.5, 1.5]]
    """
    residual = torch.as_tensor(vectors - vectors.mean(axis=0), dtype=torch.float32)
    centroids = []
    for level_codes, size in zip(codes.T, level_sizes, strict=True):
        centroids.append(_mean_by_code(residual, level_codes, size))
        residual = residual - centroids[-1][torch.tensor(level_codes)]
    return [level.numpy() for level in centroids]


def _codes_with_centroids(semantic_ids: SemanticIds) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return codes and level sizes without the extra level, whose codes number the items of a collision."""
    extra = semantic_ids.info.get("collisions") in ("extra-level", "random-level")
    levels = semantic_ids.levels - extra
    return semantic_ids.codes[:, :levels], semantic_ids.level_sizes[:levels]


def _mean_by_code(vectors: torch.Tensor, codes: np.ndarray, size: int) -> torch.Tensor:
    """Return the mean vector of the items with each code `[size, d]`; NaN for a code without items."""
    index = torch.tensor(codes, device=vectors.device)
    total = torch.zeros(size, vectors.shape[1], device=vectors.device).index_add_(0, index, vectors)
    return total / torch.bincount(index, minlength=size)[:, None]
