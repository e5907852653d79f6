"""Training of `RqVae` in torch: the model, its losses and the training loop.

Nearest codes, k-means initialization, moving averages and the reset of dead codes are those of
`vector-quantize-pytorch`, with one `VectorQuantize` per level. Its `ResidualVQ` is not used: it passes the decoder's
gradient to the encoder once per level, so that three levels triple it, and has one weight for commitment and codebook
loss, where TIGER has two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import nn
from tqdm.auto import tqdm
from vector_quantize_pytorch import VectorQuantize

from genrec_hf.internals.vector_quantize import codebook_of, rotate_to
from genrec_hf.semantic_ids.rq_vae_losses import (
    code_clusters,
    diversity_loss,
    info_nce,
    sample_partners,
    sinkhorn_codes,
)

if TYPE_CHECKING:
    from genrec_hf.semantic_ids.rq_vae import RqVae

WARM_UP_STEPS = 50
# Latents that k-means initialization uses at most, which bounds memory.
KMEANS_ITEMS = 65_536


@dataclass
class Behaviour:
    """Behavior data of the training items.

    Attributes:
        cooccurrence (`csr_matrix`, *optional*): `[items, items]`, counts.
        collaborative (`np.ndarray`, *optional*): `[items, c]`, vectors of a collaborative model.
    """

    cooccurrence: csr_matrix | None = None
    collaborative: np.ndarray | None = None

    def select(self, items: np.ndarray) -> Behaviour:
        """Return the data of some items, in the given order.

        Args:
            items (`np.ndarray`): item rows `[n]`.

        Returns:
            `Behaviour`: of `n` items, without pairs with other items.
        """
        pairs = None if self.cooccurrence is None else self.cooccurrence[items][:, items]
        return Behaviour(pairs, None if self.collaborative is None else self.collaborative[items])


@dataclass
class Quantized:
    """Quantized latents of a batch, with the losses of quantization.

    Attributes:
        vectors (`torch.Tensor`): `[items, latent]`, sums of codebook rows, with the gradient that `gradient` selects.
        codes (`torch.Tensor`): `[items, levels]`.
        commitment (`torch.Tensor`): commitment loss, summed over levels, a scalar.
        codebook (`torch.Tensor`): codebook loss, summed over levels, a scalar.
    """

    vectors: torch.Tensor
    codes: torch.Tensor
    commitment: torch.Tensor
    codebook: torch.Tensor


class RqVaeModel(nn.Module):
    """Encoder, residual codebooks and decoder of an `RqVae`.

    Args:
        settings (`RqVae`): the quantizer, whose settings are used.
        width (`int`): dimensions of the embeddings.
        batch (`int`): number of items per training step, to which the threshold for dead codes is scaled.
        collaborative (`int`, *optional*): dimensions of the collaborative vectors, for the map of `alignment`.
    """

    def __init__(self, settings: RqVae, width: int, batch: int, *, collaborative: int | None = None) -> None:
        super().__init__()
        self.settings = settings
        sizes = (width, *settings.hidden_sizes, settings.latent_size)
        self.encoder, self.decoder = _make_mlp(sizes), _make_mlp(sizes[::-1])
        self.levels = nn.ModuleList(self._make_level(size, batch) for size in settings.level_sizes)
        for level in settings.sinkhorn_levels:
            # The library has no argument for how codes are chosen, but calls this attribute to choose them.
            codebook_of(cast(VectorQuantize, self.levels[level])).gumbel_sample = self._sinkhorn_sample
        same_width = collaborative in (None, settings.latent_size)
        self.alignment = (
            nn.Identity() if same_width else nn.Linear(settings.latent_size, collaborative or 0, bias=False)
        )

    def _make_level(self, size: int, batch: int) -> VectorQuantize:
        settings = self.settings
        return VectorQuantize(
            dim=settings.latent_size,
            codebook_size=size,
            kmeans_init=settings.kmeans_init,
            kmeans_iters=settings.kmeans_iterations,
            decay=settings.ema_decay,
            ema_update=settings.ema,
            learnable_codebook=not settings.ema,
            # In items per batch; an equal share is batch / size.
            threshold_ema_dead_code=settings.dead_below * batch / size if settings.reset else 0,
            # `quantize` below computes losses and gradients.
            commitment_weight=0.0,
            route_gradients_to_input=False,
            rotation_trick=False,
        )

    def _sinkhorn_sample(self, logits: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        # `logits` are negative distances, [1, items, codes]; Sinkhorn is used in training only.
        if not self.training:
            codes = logits.argmax(dim=-1)
        else:
            squares = logits[0].detach().square()
            codes = sinkhorn_codes(squares, self.settings.sinkhorn_epsilon, self.settings.sinkhorn_iterations)[None]
        return codes, F.one_hot(codes, logits.shape[-1]).to(logits.dtype)

    def quantize(self, latent: torch.Tensor, frozen: bool = False) -> Quantized:
        """Quantize latents level by level.

        Args:
            latent (`torch.Tensor`): `[items, latent]`.
            frozen (`bool`, defaults to `False`): do not update the moving averages.

        Returns:
            `Quantized`: codes, quantized latents and losses.
        """
        residual, total = latent, torch.zeros_like(latent)
        commitment = codebook = latent.new_zeros(())
        codes = []
        for level in self.levels:
            rows, chosen, _ = level(residual, freeze_codebook=frozen)
            codes.append(chosen)
            commitment = commitment + _squared_distance(residual, rows.detach())
            codebook = codebook + _squared_distance(rows, residual.detach())
            total = total + rows
            residual = residual - rows.detach()
        if self.training and self.settings.gradient == "rotation":
            vectors = rotate_to(latent, total)
        else:
            vectors = latent + (total - latent).detach()
        return Quantized(vectors, torch.stack(codes, dim=1), commitment, codebook)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, Quantized]:
        """Encode, quantize and decode.

        Args:
            inputs (`torch.Tensor`): `[items, d]`, standardized embeddings.

        Returns:
            `tuple[torch.Tensor, Quantized]`: reconstructions `[items, d]`, and the quantized latents.
        """
        quantized = self.quantize(self.encoder(inputs))
        return self.decoder(quantized.vectors), quantized

    @property
    def codebooks(self) -> list[torch.Tensor]:
        """Codebook `[codes, latent]` of each level."""
        return [cast(VectorQuantize, level).codebook for level in self.levels]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return copies of all arrays that encoding and decoding need.

        Returns:
            `dict[str, np.ndarray]`: by name: `encoder.0.weight`, `encoder.0.bias` and so on, `decoder.0.weight` and so
            on, `codebook.0` and so on.
        """
        state = {
            f"{part}.{name}": value
            for part in ("encoder", "decoder")
            for name, value in getattr(self, part).state_dict().items()
        }
        state |= {f"codebook.{level}": rows for level, rows in enumerate(self.codebooks)}
        return {name: value.detach().numpy().copy() for name, value in state.items()}


class Trainer:
    """One training run of an `RqVaeModel`.

    Args:
        settings (`RqVae`): the quantizer, whose settings are used.
        inputs (`np.ndarray`): `[items, d]`, float32, standardized embeddings.
        behaviour (`Behaviour`): data of these items for the contrastive and the alignment loss.

    Attributes:
        history (`list[dict]`): one entry per epoch, as in `RqVae`.

    Raises:
        ValueError: when fewer distinct embeddings remain for training than the largest level has codes.
    """

    def __init__(self, settings: RqVae, inputs: np.ndarray, behaviour: Behaviour) -> None:
        self.settings = settings
        self.generator = np.random.default_rng(settings.seed)
        order = self.generator.permutation(len(inputs))
        held_out = round(settings.validation_share * len(inputs))
        self.validation = torch.from_numpy(inputs[order[:held_out]])
        self.inputs = torch.from_numpy(inputs[order[held_out:]])
        # Without the held-out items, which are not positives of others either.
        self.behaviour = behaviour.select(order[held_out:])
        _refuse_too_few(self.inputs, settings, held_out)
        vectors = self.behaviour.collaborative
        self.collaborative = None if vectors is None else torch.from_numpy(vectors)
        width = None if vectors is None else vectors.shape[1]
        self.batch = min(len(self.inputs), settings.batch_size, max(64, len(self.inputs) // 10))
        self.model = RqVaeModel(settings, inputs.shape[1], self.batch, collaborative=width)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        steps = settings.epochs * -(-len(self.inputs) // self.batch)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / WARM_UP_STEPS) * (1 + np.cos(np.pi * step / steps)) / 2
        )
        self.history: list[dict[str, Any]] = []

    def run(self, progress: bool) -> dict[str, np.ndarray]:
        """Train up to the last epoch, or until `patience` epochs in a row did not lower the validation error.

        Args:
            progress (`bool`): whether to show a progress bar.

        Returns:
            `dict[str, np.ndarray]`: arrays of the best epoch, as `RqVaeModel.arrays`.
        """
        if self.settings.kmeans_init:
            self.initialize_codebooks()
        lowest_error, arrays, epochs_since = float("inf"), self.model.arrays(), 0
        with tqdm(range(self.settings.epochs), desc="RQ-VAE", unit="epoch", disable=not progress) as bar:
            for epoch in bar:
                self.history.append({"epoch": epoch, **self.train_epoch(), "validation": self.validation_error()})
                error = self.history[-1]["validation"]
                bar.set_postfix(train=self.history[-1]["train"], validation=error)
                if error is None or error < lowest_error:
                    lowest_error, arrays, epochs_since = error or 0.0, self.model.arrays(), 0
                else:
                    epochs_since += 1
                if epochs_since == self.settings.patience:
                    break
        return arrays

    @torch.no_grad()
    def initialize_codebooks(self) -> None:
        """Initialize every level with k-means of the residuals of the levels above it, from the untrained encoder."""
        self.model.eval()
        sample = torch.randperm(len(self.inputs))[:KMEANS_ITEMS]
        # The library runs k-means in the first call, and counts the items of that call as those of one batch. They are
        # scaled to the size of a batch: otherwise averages would consist of untrained latents for hundreds of steps,
        # and dead codes would count as used for as long.
        self.model.quantize(self.model.encoder(self.inputs[sample]))
        scale = min(self.batch, len(sample)) / len(sample)
        for level in self.model.levels:
            codebook = codebook_of(cast(VectorQuantize, level))
            codebook.cluster_size.mul_(scale)
            codebook.embed_avg.mul_(scale)

    def train_epoch(self) -> dict[str, Any]:
        """Train for one pass over the training items.

        Returns:
            `dict`: `train`, the mean squared error per dimension, and `used_codes`, the number of codes used on each
            level.
        """
        self.model.train()
        clusters = self._cluster_codes()
        errors, used = 0.0, [torch.zeros(size, dtype=torch.bool) for size in self.settings.level_sizes]
        for items in torch.randperm(len(self.inputs)).split(self.batch):
            inputs = self.inputs[items]
            outputs, quantized = self.model(inputs)
            reconstruction = _squared_distance(outputs, inputs)
            loss = reconstruction + self.settings.commitment_weight * quantized.commitment
            if not self.settings.ema:
                loss = loss + self.settings.codebook_weight * quantized.codebook
            loss = loss + self.behaviour_losses(items, quantized) + self.diversity(quantized.codes, clusters)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            errors += reconstruction.item() * len(items)
            for level, codes in enumerate(quantized.codes.T):
                used[level][codes] = True
        return {"train": errors / self.inputs.numel(), "used_codes": [int(level.sum()) for level in used]}

    @torch.no_grad()
    def validation_error(self) -> float | None:
        """Compute the mean squared error per dimension of the held-out items, quantized as in `encode`.

        Returns:
            `float` or `None`: `None` when no items are held out.
        """
        if not len(self.validation):
            return None
        self.model.eval()
        errors = [
            _squared_distance(self.model(part)[0], part).item() * len(part) for part in self.validation.split(4096)
        ]
        return sum(errors) / self.validation.numel()

    def behaviour_losses(self, items: torch.Tensor, quantized: Quantized) -> torch.Tensor:
        """Compute the weighted sum of the contrastive loss and the alignment loss.

        Args:
            items (`torch.Tensor`): `[batch]`, rows of the training items.
            quantized (`Quantized`): their quantized latents.

        Returns:
            `torch.Tensor`: a scalar; 0 without behavior data.
        """
        settings, loss = self.settings, torch.zeros(())
        if self.behaviour.cooccurrence is not None:
            positions, partner_rows = sample_partners(self.behaviour.cooccurrence, items.numpy(), self.generator)
            anchors, partners = items[positions], torch.from_numpy(partner_rows)
            if len(positions) > 1:
                # Partners train the encoder but do not update the codebooks, which would move to popular items.
                positives = self.model.quantize(self.model.encoder(self.inputs[partners]), frozen=True)
                same_item = (partners == partners[:, None]) | (partners == anchors[:, None])
                contrastive = info_nce(
                    quantized.vectors[positions], positives.vectors, settings.temperature, excluded=same_item
                )
                loss = loss + settings.contrastive_weight * contrastive
        if self.collaborative is not None:
            vectors = self.collaborative[items]
            nonzero = vectors.any(dim=1)
            if nonzero.sum() > 1:
                mapped = self.model.alignment(quantized.vectors[nonzero])
                alignment = info_nce(mapped, vectors[nonzero], settings.temperature)
                loss = loss + settings.alignment_weight * alignment
        return loss

    def diversity(self, codes: torch.Tensor, clusters: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute the weighted sum of `diversity_loss` over levels.

        Args:
            codes (`torch.Tensor`): `[batch, levels]`.
            clusters (`Sequence[torch.Tensor]`): for each level the cluster of each code `[codes]`, or empty.

        Returns:
            `torch.Tensor`: a scalar; 0 without clusters.
        """
        loss = torch.zeros(())
        for codebook, level_codes, level_clusters in zip(self.model.codebooks, codes.T, clusters, strict=False):
            loss = loss + diversity_loss(codebook, level_codes, level_clusters, temperature=self.settings.temperature)
        return self.settings.diversity_weight * loss

    def _cluster_codes(self) -> list[torch.Tensor]:
        """Cluster the current codes of each level; return an empty list without `diversity_weight`."""
        if self.settings.diversity_weight == 0:
            return []
        codebooks = [codebook.detach().numpy() for codebook in self.model.codebooks]
        clusters, seed = self.settings.diversity_clusters, self.settings.seed
        return [code_clusters(codebook, clusters, seed) for codebook in codebooks]


def _make_mlp(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _squared_distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one - other).square().sum(dim=1).mean()


def _refuse_too_few(inputs: torch.Tensor, settings: RqVae, held_out: int) -> None:
    distinct = len(np.unique(inputs.numpy(), axis=0))
    if distinct < max(settings.level_sizes):
        raise ValueError(
            f"{distinct} distinct embeddings to train on for a level of {max(settings.level_sizes)} codes, after "
            f"{held_out} items are held out: set validation_share=0 or smaller level_sizes"
        )
