"""Losses of `RqVae` other than reconstruction, and the assignment of codes by optimal transport."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix

from genrec_hf.semantic_ids.kmeans import k_means


@torch.no_grad()
def sinkhorn_codes(distances: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """Assign items to codes so that every code is used about equally often.

    Sinkhorn iterations (Cuturi, arXiv:1306.0895) give the transport plan between items and codes with uniform
    marginals and entropic regularization `epsilon`; an item gets the code with the largest entry in its row. As in the
    uniform semantic mapping of LC-Rec (arXiv:2311.09049), distances are first scaled to a range of 2, so that
    `epsilon` has no unit.

    Args:
        distances (`torch.Tensor`): `[items, codes]`, squared distances.
        epsilon (`float`): entropic regularization; a smaller value needs more iterations.
        iterations (`int`): number of Sinkhorn iterations.

    Returns:
        `torch.Tensor`: codes `[items]`, int64.
    """
    costs = distances.double()
    half_range = ((costs.max() - costs.min()) / 2).clamp(min=1e-12)
    # Scaling a row does not change the plan: the nearest code of every item is set to exp(0), so that no row vanishes.
    kernel = torch.exp((costs.min(dim=1, keepdim=True).values - costs) / (half_range * epsilon))
    # Rows sum to 1, columns to items / codes: marginals with different totals would let the factors grow without
    # bound.
    share = kernel.shape[0] / kernel.shape[1]
    columns = torch.ones(kernel.shape[1], dtype=kernel.dtype)
    for _ in range(iterations):
        rows = 1 / (kernel @ columns).clamp(min=1e-300)
        columns = share / (rows @ kernel).clamp(min=1e-300)
    return (kernel * columns).argmax(dim=1)


def info_nce(
    anchors: torch.Tensor, positives: torch.Tensor, temperature: float, *, excluded: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the InfoNCE loss with cosine similarities.

    `mean_i -log(exp(s_ii / t) / sum_j exp(s_ij / t))`, with `s_ij` the cosine of anchor `i` and positive `j`.

    Args:
        anchors (`torch.Tensor`): `[pairs, d]`.
        positives (`torch.Tensor`): `[pairs, d]`; those of other pairs are the negatives.
        temperature (`float`): `t`.
        excluded (`torch.Tensor`, *optional*): `bool` `[pairs, pairs]`, true where `j` must not be a negative of `i`;
            the diagonal is ignored.

    Returns:
        `torch.Tensor`: the loss, a scalar.
    """
    logits = F.normalize(anchors) @ F.normalize(positives).T / temperature
    if excluded is not None:
        diagonal = torch.eye(len(logits), dtype=torch.bool)
        logits = logits.masked_fill(excluded & ~diagonal, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(logits)))


def sample_partners(
    cooccurrence: csr_matrix, items: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sample one co-occurring item for each item, with probabilities proportional to the counts.

    Args:
        cooccurrence (`csr_matrix`): `[items, items]`, counts above 0.
        items (`np.ndarray`): item rows `[batch]`.
        generator (`np.random.Generator`): source of randomness.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: positions in `items` `[n]` of those with co-occurrences, and item rows `[n]`
        of their partners.
    """
    totals = np.concatenate([[0.0], np.cumsum(cooccurrence.data)])
    first, last = cooccurrence.indptr[items], cooccurrence.indptr[items + 1]
    positions = np.flatnonzero(last > first)
    first, last = first[positions], last[positions]
    points = totals[first] + generator.random(len(positions)) * (totals[last] - totals[first])
    # Rounding may move a point out of its row.
    entries = np.clip(np.searchsorted(totals, points, side="right") - 1, first, last - 1)
    return positions, cooccurrence.indices[entries].astype(np.int64)


def code_clusters(codebook: np.ndarray, clusters: int, seed: int) -> torch.Tensor:
    """Cluster the codes of a level into clusters of nearly equal size, with k-means and `sinkhorn_codes`.

    Args:
        codebook (`np.ndarray`): `[codes, latent]`.
        clusters (`int`): number of clusters; at most as many as there are distinct rows are used.
        seed (`int`): random seed of k-means.

    Returns:
        `torch.Tensor`: cluster of each code `[codes]`.
    """
    clusters = min(clusters, len(np.unique(codebook, axis=0)))
    centres, _ = k_means(codebook, clusters, seed=seed)
    return sinkhorn_codes(torch.cdist(torch.from_numpy(codebook), torch.from_numpy(centres)).square(), 0.01, 200)


def diversity_loss(
    codebook: torch.Tensor, codes: torch.Tensor, clusters: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """Compute LETTER's diversity regularization (arXiv:2405.07314), which pulls the codes of a cluster together.

    `mean_i -log(exp(s(c_i, p_i) / t) / sum_{k != c_i} exp(s(c_i, k) / t))` over the items of a batch, with `c_i` the
    code of item `i`, `p_i` a random other code of its cluster, and `s` the cosine; the paper uses inner products,
    which depend on the scale of the latents. Items whose code is alone in its cluster are left out.

    Args:
        codebook (`torch.Tensor`): `[codes, latent]`.
        codes (`torch.Tensor`): `[items]`.
        clusters (`torch.Tensor`): `[codes]`, from `code_clusters`.
        temperature (`float`): `t`.

    Returns:
        `torch.Tensor`: the loss, a scalar; 0 when every code is alone in its cluster.
    """
    same_cluster = (clusters[codes][:, None] == clusters).float()
    same_cluster[torch.arange(len(codes)), codes] = 0
    not_alone = same_cluster.any(dim=1)
    if not not_alone.any():
        return codebook.sum() * 0
    codes, positives = codes[not_alone], torch.multinomial(same_cluster[not_alone], 1).squeeze(1)
    normalized = F.normalize(codebook)
    logits = normalized[codes] @ normalized.T / temperature
    own_code = F.one_hot(codes, len(codebook)).bool()
    return F.cross_entropy(logits.masked_fill(own_code, -torch.inf), positives)
