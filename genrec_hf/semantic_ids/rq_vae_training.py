"""The training of `RqVae`: the model, its losses and its loop, in torch.

Nearest codes, k-means starts, moving averages and the reset of dead codes are those of `vector-quantize-pytorch`, one
`VectorQuantize` a level. Its `ResidualVQ` is not used: it passes the decoder's gradient to the encoder once for each
level, so that three levels treble it, and weighs commitment and codebook loss alike, where TIGER weighs them apart.
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
    draw_partners,
    info_nce,
    sinkhorn_codes,
)

if TYPE_CHECKING:
    from genrec_hf.semantic_ids.rq_vae import RqVae

WARM_UP_STEPS = 50
# Latents that k-means starts from: enough for any codebook, and a bound on memory.
KMEANS_ITEMS = 65_536


@dataclass
class Behaviour:
    """What is known of the training items beside their embeddings."""

    cooccurrence: csr_matrix | None = None
    collaborative: np.ndarray | None = None

    def of(self, items: np.ndarray) -> Behaviour:
        """The same of some items `[items]`, in this order."""
        pairs = None if self.cooccurrence is None else self.cooccurrence[items][:, items]
        return Behaviour(pairs, None if self.collaborative is None else self.collaborative[items])


@dataclass
class Quantized:
    """Codes `[items, levels]`, what they stand for `[items, latent]`, and the two losses of the codes."""

    vectors: torch.Tensor
    codes: torch.Tensor
    commitment: torch.Tensor
    codebook: torch.Tensor


class RqVaeModel(nn.Module):
    """Encoder, residual codebooks and decoder for the `RqVae` that is `settings`, and steps of `batch` items."""

    def __init__(self, settings: RqVae, width: int, batch: int, *, collaborative: int | None = None) -> None:
        super().__init__()
        self.settings = settings
        sizes = (width, *settings.hidden_sizes, settings.latent_size)
        self.encoder, self.decoder = _perceptron(sizes), _perceptron(sizes[::-1])
        self.levels = nn.ModuleList(self._level(size, batch) for size in settings.level_sizes)
        for level in settings.sinkhorn_levels:
            # The library has no argument for its choice of codes, and calls this attribute for it.
            codebook_of(cast(VectorQuantize, self.levels[level])).gumbel_sample = self._sinkhorn_sample
        same = collaborative in (None, settings.latent_size)
        self.alignment = nn.Identity() if same else nn.Linear(settings.latent_size, collaborative or 0, bias=False)

    def _level(self, size: int, batch: int) -> VectorQuantize:
        settings = self.settings
        return VectorQuantize(
            dim=settings.latent_size,
            codebook_size=size,
            kmeans_init=settings.kmeans_init,
            kmeans_iters=settings.kmeans_iterations,
            decay=settings.ema_decay,
            ema_update=settings.ema,
            learnable_codebook=not settings.ema,
            # In items of a batch; a code that gets its even share gets batch / size of them.
            threshold_ema_dead_code=settings.dead_below * batch / size if settings.reset else 0,
            # Losses and gradients are those of `quantize` below.
            commitment_weight=0.0,
            route_gradients_to_input=False,
            rotation_trick=False,
        )

    def _sinkhorn_sample(self, logits: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        # `logits` are distances below zero, [1, items, codes]; only training spreads the codes evenly.
        if not self.training:
            codes = logits.argmax(dim=-1)
        else:
            squares = logits[0].detach().square()
            codes = sinkhorn_codes(squares, self.settings.sinkhorn_epsilon, self.settings.sinkhorn_iterations)[None]
        return codes, F.one_hot(codes, logits.shape[-1]).to(logits.dtype)

    def quantize(self, latent: torch.Tensor, frozen: bool = False) -> Quantized:
        """Quantize latents `[items, latent]` level by level; `frozen` leaves the moving averages where they are."""
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
        """Reconstructions `[items, d]` of inputs `[items, d]`, and how they were quantized."""
        quantized = self.quantize(self.encoder(inputs))
        return self.decoder(quantized.vectors), quantized

    @property
    def codebooks(self) -> list[torch.Tensor]:
        """Rows `[codes, latent]` of each level."""
        return [cast(VectorQuantize, level).codebook for level in self.levels]

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies of what encoding and decoding need, by name: layers `encoder.0.weight` and so on, `codebook.0`."""
        state = {
            f"{part}.{name}": value
            for part in ("encoder", "decoder")
            for name, value in getattr(self, part).state_dict().items()
        }
        state |= {f"codebook.{level}": rows for level, rows in enumerate(self.codebooks)}
        return {name: value.detach().numpy().copy() for name, value in state.items()}


class Trainer:
    """One training run of a model on inputs `[items, d]`, which are standardised."""

    def __init__(self, settings: RqVae, inputs: np.ndarray, behaviour: Behaviour) -> None:
        self.settings = settings
        self.generator = np.random.default_rng(settings.seed)
        order = self.generator.permutation(len(inputs))
        held_out = round(settings.validation_share * len(inputs))
        self.validation = torch.from_numpy(inputs[order[:held_out]])
        self.inputs = torch.from_numpy(inputs[order[held_out:]])
        # Held-out items are nobody's partners either.
        self.behaviour = behaviour.of(order[held_out:])
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
        """Train to the last epoch, or until `patience` epochs in a row were no better; the arrays of the best."""
        if self.settings.kmeans_init:
            self.start_codebooks()
        best, arrays, since = float("inf"), self.model.arrays(), 0
        with tqdm(range(self.settings.epochs), desc="RQ-VAE", unit="epoch", disable=not progress) as bar:
            for epoch in bar:
                self.history.append({"epoch": epoch, **self.train_epoch(), "validation": self.validation_error()})
                error = self.history[-1]["validation"]
                bar.set_postfix(train=self.history[-1]["train"], validation=error)
                if error is None or error < best:
                    best, arrays, since = error or 0.0, self.model.arrays(), 0
                else:
                    since += 1
                if since == self.settings.patience:
                    break
        return arrays

    @torch.no_grad()
    def start_codebooks(self) -> None:
        """Start every level with k-means of what the levels above it leave of the latents of the untrained encoder."""
        self.model.eval()
        drawn = torch.randperm(len(self.inputs))[:KMEANS_ITEMS]
        # The library runs it inside the first call, and counts the items of that call as those of one batch. Without
        # the cut to a batch's size, averages would hold on to the untrained latents for hundreds of steps, and a code
        # that died would count as used for as long.
        self.model.quantize(self.model.encoder(self.inputs[drawn]))
        share = min(self.batch, len(drawn)) / len(drawn)
        for level in self.model.levels:
            codebook = codebook_of(cast(VectorQuantize, level))
            codebook.cluster_size.mul_(share)
            codebook.embed_avg.mul_(share)

    def train_epoch(self) -> dict[str, Any]:
        """One pass over the training items: mean squared error a dimension, and the codes used on each level."""
        self.model.train()
        clusters = self._clusters()
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
        """Mean squared error a dimension of the held-out items, with the codes that `encode` gives."""
        if not len(self.validation):
            return None
        self.model.eval()
        errors = [
            _squared_distance(self.model(part)[0], part).item() * len(part) for part in self.validation.split(4096)
        ]
        return sum(errors) / self.validation.numel()

    def behaviour_losses(self, items: torch.Tensor, quantized: Quantized) -> torch.Tensor:
        """Contrast of items `[batch]` with partners, and alignment with their collaborative vectors, weighted."""
        settings, loss = self.settings, torch.zeros(())
        if self.behaviour.cooccurrence is not None:
            has, drawn = draw_partners(self.behaviour.cooccurrence, items.numpy(), self.generator)
            anchors, partners = items[has], torch.from_numpy(drawn)
            if len(has) > 1:
                # Partners teach the encoder and count for no codebook: items chosen often would take over the codes.
                positives = self.model.quantize(self.model.encoder(self.inputs[partners]), frozen=True)
                same = (partners == partners[:, None]) | (partners == anchors[:, None])
                contrast = info_nce(quantized.vectors[has], positives.vectors, settings.temperature, excluded=same)
                loss = loss + settings.contrastive_weight * contrast
        if self.collaborative is not None:
            vectors = self.collaborative[items]
            known = vectors.any(dim=1)
            if known.sum() > 1:
                mapped = self.model.alignment(quantized.vectors[known])
                aligned = info_nce(mapped, vectors[known], settings.temperature)
                loss = loss + settings.alignment_weight * aligned
        return loss

    def diversity(self, codes: torch.Tensor, clusters: Sequence[torch.Tensor]) -> torch.Tensor:
        """`diversity_loss` of the codes `[batch, levels]`, summed over levels and weighted."""
        loss = torch.zeros(())
        for rows, chosen, groups in zip(self.model.codebooks, codes.T, clusters, strict=False):
            loss = loss + diversity_loss(rows, chosen, groups, temperature=self.settings.temperature)
        return self.settings.diversity_weight * loss

    def _clusters(self) -> list[torch.Tensor]:
        """Clusters of the codes of each level as they stand; none without the loss that reads them."""
        if self.settings.diversity_weight == 0:
            return []
        rows = [each.detach().numpy() for each in self.model.codebooks]
        return [code_clusters(each, self.settings.diversity_clusters, self.settings.seed) for each in rows]


def _perceptron(sizes: Sequence[int]) -> nn.Sequential:
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
            f"{held_out} items are held out: give validation_share=0, or ask for fewer codes"
        )
