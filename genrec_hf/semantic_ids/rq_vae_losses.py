"""What `RqVae` adds to reconstruction: even codes by optimal transport, and the losses that see behaviour."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix

from genrec_hf.semantic_ids.kmeans import k_means


@torch.no_grad()
def sinkhorn_codes(distances: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """Codes `[items]` that use every code about equally often, from squared distances `[items, codes]`.

    The plan of transport between items and codes with even totals on both sides, smoothed by `epsilon`, comes from
    Sinkhorn's iterations (Cuturi, arXiv:1306.0895); an item takes the code that gets most of it. As in the uniform
    semantic mapping of LC-Rec (arXiv:2311.09049), distances are first scaled to a range of 2, so that `epsilon` has no
    unit.

    Args:
        distances (`torch.Tensor`): `[items, codes]`, squared distances.
        epsilon (`float`): smoothing; the smaller, the sharper, and the more iterations are needed.
        iterations (`int`): of Sinkhorn.
    """
    costs = distances.double()
    half = ((costs.max() - costs.min()) / 2).clamp(min=1e-12)
    # Factors of a row are free: the nearest code of every item at exp(0), so that no row vanishes.
    kernel = torch.exp((costs.min(dim=1, keepdim=True).values - costs) / (half * epsilon))
    # Each item sends 1 and each code gets the same: totals that differ would make the factors grow without bound.
    share = kernel.shape[0] / kernel.shape[1]
    columns = torch.ones(kernel.shape[1], dtype=kernel.dtype)
    for _ in range(iterations):
        rows = 1 / (kernel @ columns).clamp(min=1e-300)
        columns = share / (rows @ kernel).clamp(min=1e-300)
    return (kernel * columns).argmax(dim=1)


def info_nce(
    anchors: torch.Tensor, positives: torch.Tensor, temperature: float, *, excluded: torch.Tensor | None = None
) -> torch.Tensor:
    """`mean_i -log(exp(s_ii / t) / sum_j exp(s_ij / t))`, `s_ij` the cosine of anchor `i` and positive `j`.

    Args:
        anchors (`torch.Tensor`): `[pairs, d]`.
        positives (`torch.Tensor`): `[pairs, d]`; those of other pairs are the negatives.
        temperature (`float`): `t`.
        excluded (`torch.Tensor`, *optional*): `[pairs, pairs]`, true where `j` is no negative of `i`; the diagonal is
            ignored.
    """
    logits = F.normalize(anchors) @ F.normalize(positives).T / temperature
    if excluded is not None:
        own = torch.eye(len(logits), dtype=torch.bool)
        logits = logits.masked_fill(excluded & ~own, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(logits)))


def draw_partners(
    cooccurrence: csr_matrix, items: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One co-occurring item for each of `items`, drawn by count: positions in `items` that have any, and partners."""
    totals = np.concatenate([[0.0], np.cumsum(cooccurrence.data)])
    first, last = cooccurrence.indptr[items], cooccurrence.indptr[items + 1]
    has = np.flatnonzero(last > first)
    first, last = first[has], last[has]
    points = totals[first] + generator.random(len(has)) * (totals[last] - totals[first])
    # Rounding may carry a point over the edge of its row.
    drawn = np.clip(np.searchsorted(totals, points, side="right") - 1, first, last - 1)
    return has, cooccurrence.indices[drawn].astype(np.int64)


def code_clusters(codebook: np.ndarray, clusters: int, seed: int) -> torch.Tensor:
    """Cluster `[codes]` of every code, of nearly equal sizes: k-means, evened out by `sinkhorn_codes`."""
    clusters = min(clusters, len(np.unique(codebook, axis=0)))
    centres, _ = k_means(codebook, clusters, seed=seed)
    return sinkhorn_codes(torch.cdist(torch.from_numpy(codebook), torch.from_numpy(centres)).square(), 0.01, 200)


def diversity_loss(
    codebook: torch.Tensor, codes: torch.Tensor, clusters: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """LETTER's diversity regularization (arXiv:2405.07314): codes of a cluster attract each other, all others repel.

    `mean_i -log(exp(s(c_i, p_i) / t) / sum_{k != c_i} exp(s(c_i, k) / t))` over the items of a batch, with `c_i` the
    code of item `i`, `p_i` another code of its cluster, drawn at random, and `s` the cosine; the paper's inner product
    depends on the scale of the latents. Items whose code is alone in its cluster are left out.

    Args:
        codebook (`torch.Tensor`): `[codes, latent]`.
        codes (`torch.Tensor`): `[items]`.
        clusters (`torch.Tensor`): `[codes]`, from `code_clusters`.
        temperature (`float`): `t`.
    """
    mates = (clusters[codes][:, None] == clusters).float()
    mates[torch.arange(len(codes)), codes] = 0
    has = mates.any(dim=1)
    if not has.any():
        return codebook.sum() * 0
    codes, positives = codes[has], torch.multinomial(mates[has], 1).squeeze(1)
    unit = F.normalize(codebook)
    logits = unit[codes] @ unit.T / temperature
    itself = F.one_hot(codes, len(codebook)).bool()
    return F.cross_entropy(logits.masked_fill(itself, -torch.inf), positives)
