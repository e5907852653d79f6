"""`RqVae`: a residual-quantized autoencoder, the quantizer of TIGER, with losses of LC-Rec, LETTER and CoST."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from genrec_hf.checks import check_choice, check_least
from genrec_hf.semantic_ids.check import check_embeddings
from genrec_hf.semantic_ids.kmeans import nearest_codes
from genrec_hf.semantic_ids.quantizer import Quantizer

GRADIENTS = ("straight_through", "rotation")
CHUNK = 4096


@dataclass
class RqVae(Quantizer):
    """Autoencoder whose latent is quantized level by level: TIGER's semantic IDs; for `recipes/build_sids.py`.

    `z = encoder(x)`; `r_0 = z`, `code_l = argmin_k ||r_l - e_lk||^2`, `r_{l+1} = r_l - e_{l,code_l}`; the
    reconstruction is `decoder(sum_l e_{l,code_l})`. The loss is its squared error and, for each level,
    `||sg[r_l] - e_l||^2` (codebook loss) and `b ||r_l - sg[e_l]||^2` (commitment loss): TIGER, arXiv:2305.05065,
    section 3.1, with `b = 0.25`.

    Differs from TIGER by default: codebooks are exponential moving averages of the latents assigned to them (van den
    Oord et al., arXiv:1711.00937, appendix A.1) instead of trained by the codebook loss, which `ema=False` restores;
    codes with very few items are reset to a latent of the batch; inputs are centered and scaled; the optimizer is
    Adam with a cosine schedule, not Adagrad; the epoch of the lowest validation error is kept; the networks are
    smaller, and the latent has 3 dimensions, not 32. The fewer dimensions, the fewer items share their codes, and the
    larger the reconstruction error. Training runs on one thread, so that codes do not depend on the number of threads.
    Encoding returns the nearest codes, computed in double precision, without Sinkhorn and without random choices.

    Args:
        level_sizes (`Sequence[int]`): number of codes of each level; they may differ, such as `(2048, 1024, 512)`.
        seed (`int`, defaults to 0): random seed of weights, batches, initializations and held-out items.
        hidden_sizes (`Sequence[int]`, defaults to `(256, 128)`): widths of the encoder's hidden layers; those of the
            decoder are the reverse.
        latent_size (`int`, defaults to 3): dimensions of the latent and of the codebook rows.
        epochs (`int`, defaults to 60): maximum number of passes over the items.
        batch_size (`int`, defaults to 1024): maximum number of items per step; with fewer than 10,240 items a step has
            a tenth of them, but at least 64, so that an epoch has enough steps.
        learning_rate (`float`, defaults to 0.002): peak learning rate of Adam.
        commitment_weight (`float`, defaults to 0.25): weight `b` of the commitment loss.
        codebook_weight (`float`, defaults to 1.0): weight of the codebook loss; used with `ema=False` only.
        gradient (`str`, defaults to `"straight_through"`): how the decoder's gradient passes through quantization:
            `"straight_through"` copies it; `"rotation"` rotates and rescales it by the transformation that maps the
            latent to its quantized value (arXiv:2410.06424).
        kmeans_init (`bool`, defaults to `True`): initialize codebooks with k-means of the latents, instead of at
            random near 0.
        kmeans_iterations (`int`, defaults to 20): number of iterations of that k-means.
        ema (`bool`, defaults to `True`): codebooks are moving averages; `False` trains them by gradient.
        ema_decay (`float`, defaults to 0.9): weight of the old average in each update, from 0 to below 1.
        reset (`bool`, defaults to `True`): move dead codes to a random latent of the batch.
        dead_below (`float`, defaults to 0.1): a code is dead when it has fewer items than this fraction of an equal
            share.
        sinkhorn_levels (`Sequence[int]`, defaults to `()`): levels whose codes are assigned in training by optimal
            transport, so that all are used equally often; `-1` is the last level, as in LC-Rec (arXiv:2311.09049).
        sinkhorn_epsilon (`float`, defaults to 0.003): entropic regularization of Sinkhorn, for distances scaled to
            [-1, 1].
        sinkhorn_iterations (`int`, defaults to 20): number of Sinkhorn iterations per step.
        validation_share (`float`, defaults to 0.05): fraction of the items held out to select the epoch; 0 keeps the
            last epoch.
        patience (`int`, defaults to 30): number of epochs without a lower validation error after which training stops.
        contrastive_weight (`float`, defaults to 0.0): weight of the InfoNCE loss between the quantized latents of
            co-occurring items, with other items of the batch as negatives; requires `cooccurrence`. After CoST
            (arXiv:2404.14774), which contrasts an item's reconstruction with its own embedding; here positives come
            from behavior.
        alignment_weight (`float`, defaults to 0.0): weight of the InfoNCE loss between an item's collaborative vector
            and its quantized latent, through a learned linear map where widths differ; requires `collaborative`.
            LETTER (arXiv:2405.07314, collaborative regularization), with cosine similarity and a temperature instead
            of inner products.
        diversity_weight (`float`, defaults to 0.0): weight of LETTER's diversity regularization of the codebooks, with
            the same change; requires `ema=False`, since moving averages are not trained by a loss.
        diversity_clusters (`int`, defaults to 10): number of clusters of codes per level, for that regularization.
        temperature (`float`, defaults to 0.1): temperature of these three losses.

    Attributes:
        history (`list[dict]`): one entry per epoch of `fit`: `epoch`; `train` and `validation`, squared error as a
            fraction of the embeddings' variance, `validation` being `None` when nothing is held out; `used_codes`, the
            number of codes of each level that training used. Not saved.

    Raises:
        ValueError: when a setting is out of range.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
        >>> quantizer = RqVae(level_sizes=(8, 4), epochs=2, batch_size=64).fit(points, progress=False)
        >>> quantizer.encode(points).shape, [epoch["epoch"] for epoch in quantizer.history]
        ((200, 2), [0, 1])
    """

    hidden_sizes: Sequence[int] = (256, 128)
    latent_size: int = 3
    epochs: int = 60
    batch_size: int = 1024
    learning_rate: float = 2e-3
    commitment_weight: float = 0.25
    codebook_weight: float = 1.0
    gradient: str = "straight_through"
    kmeans_init: bool = True
    kmeans_iterations: int = 20
    ema: bool = True
    ema_decay: float = 0.9
    reset: bool = True
    dead_below: float = 0.1
    sinkhorn_levels: Sequence[int] = ()
    sinkhorn_epsilon: float = 0.003
    sinkhorn_iterations: int = 20
    validation_share: float = 0.05
    patience: int = 30
    contrastive_weight: float = 0.0
    alignment_weight: float = 0.0
    diversity_weight: float = 0.0
    diversity_clusters: int = 10
    temperature: float = 0.1
    history: list[dict[str, Any]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.hidden_sizes = tuple(int(size) for size in self.hidden_sizes)
        self.sinkhorn_levels = tuple(int(level) for level in self.sinkhorn_levels)
        self._check_ranges()
        check_choice("gradient", self.gradient, GRADIENTS)
        levels = len(self.level_sizes)
        if any(not -levels <= level < levels for level in self.sinkhorn_levels):
            raise ValueError(
                f"got sinkhorn_levels={self.sinkhorn_levels} for {levels} levels: they must be from 0 to "
                f"{levels - 1}, or (-1,) for the last"
            )
        if self.diversity_weight > 0 and self.ema:
            raise ValueError(
                f"got diversity_weight={self.diversity_weight} with ema=True, under which no loss trains the "
                "codebooks: set ema=False"
            )

    def _check_ranges(self) -> None:
        counts = ("latent_size", "epochs", "batch_size", "kmeans_iterations", "sinkhorn_iterations", "patience")
        check_least(1, **{name: getattr(self, name) for name in counts})
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"got hidden_sizes={self.hidden_sizes}: widths must be at least 1, such as (512, 256)")
        check_least(2, diversity_clusters=self.diversity_clusters)
        for name in ("learning_rate", "sinkhorn_epsilon", "temperature", "dead_below"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"got {name}={getattr(self, name)!r}: it must be above 0 and finite")
        for name in ("commitment", "codebook", "contrastive", "alignment", "diversity"):
            if not 0 <= getattr(self, f"{name}_weight") < np.inf:
                raise ValueError(
                    f"got {name}_weight={getattr(self, f'{name}_weight')!r}: it must be at least 0 and finite"
                )
        for name in ("ema_decay", "validation_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"got {name}={getattr(self, name)!r}: it must be at least 0 and below 1")

    def fit(
        self,
        embeddings: np.ndarray,
        progress: bool = True,
        *,
        cooccurrence: csr_matrix | None = None,
        collaborative: np.ndarray | None = None,
    ) -> "RqVae":
        """Train the autoencoder and its codebooks.

        Args:
            embeddings (`np.ndarray`): `[items, d]`.
            progress (`bool`, defaults to `True`): whether to show a progress bar.
            cooccurrence (`csr_matrix`, *optional*): `[items, items]` counts, from `cooccurrence_counts` of training
                sequences; required by `contrastive_weight`, whose loss leaves out items without co-occurrences.
            collaborative (`np.ndarray`, *optional*): `[items, c]` vectors of a collaborative model; required by
                `alignment_weight`, whose loss leaves out items with a row of zeros.

        Returns:
            `RqVae`: itself, fitted.

        Raises:
            ValueError: on embeddings that are not `[items, d]`, NaN or infinite values, or fewer distinct embeddings
                than codes of the largest level; on a weight without its data, data without its weight, or data of
                another shape.
        """
        embeddings = check_embeddings(embeddings, min_distinct=self._min_distinct())
        behaviour = self._check_behaviour(len(embeddings), cooccurrence, collaborative)
        self.tensors = self._fit(embeddings, progress, *behaviour)
        self.embedding_size = embeddings.shape[1]
        return self

    def _fit(
        self,
        embeddings: np.ndarray,
        progress: bool,
        cooccurrence: csr_matrix | None = None,
        collaborative: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        # Imported here: only training needs torch and vector-quantize-pytorch.
        from genrec_hf.semantic_ids.isolation import isolated
        from genrec_hf.semantic_ids.rq_vae_training import Behaviour, Trainer

        mean = embeddings.mean(axis=0, dtype=np.float64)
        # One scale for all dimensions, which keeps their relative variances.
        scale = np.sqrt(np.square(embeddings - mean).mean())
        inputs = ((embeddings - mean) / scale).astype(np.float32)
        with isolated(self.seed):
            trainer = Trainer(self, inputs, Behaviour(cooccurrence, collaborative))
            tensors = trainer.run(progress)
        self.history = trainer.history
        return tensors | {"mean": mean, "scale": np.array([scale])}

    def _encode(self, embeddings: np.ndarray) -> np.ndarray:
        parts = [embeddings[start : start + CHUNK] for start in range(0, len(embeddings), CHUNK)]
        return np.concatenate([self._encode_chunk(part.astype(np.float64)) for part in parts])

    def _encode_chunk(self, embeddings: np.ndarray) -> np.ndarray:
        # In double precision rounding does not change the nearest code, so that an item gets the same codes alone.
        residual = self._layers("encoder", (embeddings - self.tensors["mean"]) / self.tensors["scale"])
        codes = []
        for codebook in self.codebooks:
            codes.append(nearest_codes(residual, codebook))
            residual = residual - codebook[codes[-1]]
        return np.stack(codes, axis=1)

    def _reconstruct(self, codes: np.ndarray) -> np.ndarray:
        parts = [codes[start : start + CHUNK] for start in range(0, len(codes), CHUNK)]
        return np.concatenate([self._reconstruct_chunk(part) for part in parts])

    def _reconstruct_chunk(self, codes: np.ndarray) -> np.ndarray:
        latent = sum(codebook[codes[:, level]].astype(np.float64) for level, codebook in enumerate(self.codebooks))
        outputs = self._layers("decoder", np.asarray(latent))
        return (outputs * self.tensors["scale"] + self.tensors["mean"]).astype(np.float32)

    @property
    def codebooks(self) -> list[np.ndarray]:
        """Codebook `[codes, latent_size]` of each level."""
        return [self.tensors[f"codebook.{level}"] for level in range(len(self.level_sizes))]

    def _layers(self, part: str, values: np.ndarray) -> np.ndarray:
        """Run `encoder` or `decoder`: linear layers with ReLU between them, numbered as in `nn.Sequential`."""
        for layer in range(0, 2 * len(self.hidden_sizes) + 1, 2):
            values = np.maximum(values, 0) if layer else values
            values = values @ self.tensors[f"{part}.{layer}.weight"].T.astype(np.float64)
            values = values + self.tensors[f"{part}.{layer}.bias"]
        return values

    def _min_distinct(self) -> int:
        return max(*self.level_sizes, 2)

    def _check_behaviour(
        self, items: int, cooccurrence: csr_matrix | None, collaborative: np.ndarray | None
    ) -> tuple[csr_matrix | None, np.ndarray | None]:
        """Check the two kinds of behavior data: each must be given if and only if its weight is above 0."""
        for name, data, weight in (
            ("cooccurrence", cooccurrence, "contrastive_weight"),
            ("collaborative", collaborative, "alignment_weight"),
        ):
            if data is None and getattr(self, weight) > 0:
                raise ValueError(f"got {weight}={getattr(self, weight)} without {name}: pass fit(..., {name}=...)")
            if data is not None and getattr(self, weight) == 0:
                raise ValueError(f"got {name} with {weight}=0, which leaves it unused: set {weight} above 0")
        if cooccurrence is not None:
            cooccurrence = _check_counts(cooccurrence, items)
        if collaborative is not None:
            collaborative = check_embeddings(collaborative, min_distinct=1)
            if len(collaborative) != items:
                raise ValueError(
                    f"got {len(collaborative)} collaborative vectors for {items} items: pass one row per item"
                )
        return cooccurrence, collaborative


def _check_counts(cooccurrence: csr_matrix, items: int) -> csr_matrix:
    counts = csr_matrix(cooccurrence, dtype=np.float64, copy=True)
    if counts.shape != (items, items):
        raise ValueError(
            f"got cooccurrence of shape {list(counts.shape)} for {items} items: pass counts [items, items]"
        )
    if not np.isfinite(counts.data).all() or (counts.data < 0).any():
        raise ValueError(
            "got cooccurrence with values below 0, NaN or infinite: pass counts, as cooccurrence_counts returns"
        )
    # An item is no positive example for itself.
    counts.setdiag(0)
    counts.eliminate_zeros()
    if counts.nnz == 0:
        raise ValueError(
            "got cooccurrence without any pair of items: pass counts of training sequences with two or more items"
        )
    return counts
