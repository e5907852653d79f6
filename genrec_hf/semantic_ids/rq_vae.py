"""`RqVae`: a residual-quantized autoencoder, the quantizer of TIGER, with additions of LC-Rec, LETTER and CoST."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from genrec_hf.checks import check_choice, check_least
from genrec_hf.semantic_ids.check import check_embeddings
from genrec_hf.semantic_ids.kmeans import nearest
from genrec_hf.semantic_ids.quantizer import Quantizer

GRADIENTS = ("straight_through", "rotation")
CHUNK = 4096


@dataclass
class RqVae(Quantizer):
    """Autoencoder whose latent is quantized level by level: TIGER's semantic IDs; for `recipes/build_sids.py`.

    `z = encoder(x)`; `r_0 = z`, `code_l = argmin_k ||r_l - e_lk||^2`, `r_{l+1} = r_l - e_{l,code_l}`; what codes stand
    for is `decoder(sum_l e_{l,code_l})`. The loss is its squared error and, of each level, `||sg[r_l] - e_l||^2`
    (codebook) and `b ||r_l - sg[e_l]||^2` (commitment): TIGER, arXiv:2305.05065, section 3.1, with `b = 0.25`.

    What differs by default: codebooks are moving averages of the latents that chose them (van den Oord et al.,
    arXiv:1711.00937, appendix A.1) in place of the codebook loss, which `ema=False` brings back; codes that hardly any
    item chooses move to a latent of the batch; inputs are centred and brought to one scale; Adam with a cosine
    schedule stands for Adagrad; the epoch of the lowest validation error is kept; the networks are smaller, and the
    latent is 3 wide and not 32. The narrower the latent, the fewer items share their codes and the larger the error
    of reconstruction. Training runs on one thread, so that codes do not depend on the threads there are. Encoding
    takes the nearest codes, in double precision: neither Sinkhorn nor chance has a part in it.

    Args:
        level_sizes (`Sequence[int]`): codes of each level; they may differ, such as `(2048, 1024, 512)`.
        seed (`int`, defaults to 0): of weights, batches, starts and held-out items.
        hidden_sizes (`Sequence[int]`, defaults to `(256, 128)`): widths of the encoder's hidden layers; the
            decoder has them in reverse.
        latent_size (`int`, defaults to 3): width of the latent and of the codebook rows.
        epochs (`int`, defaults to 60): passes over the items, at most.
        batch_size (`int`, defaults to 1024): items a step, at most; of fewer than 10,240 items a tenth, or 64, so that
            an epoch has steps enough.
        learning_rate (`float`, defaults to 0.002): of Adam, at its highest.
        commitment_weight (`float`, defaults to 0.25): `b` above.
        codebook_weight (`float`, defaults to 1.0): of the second term above; read with `ema=False` only.
        gradient (`str`, defaults to `"straight_through"`): how the decoder's gradient passes the codes: copied, or
            `"rotation"`, turned and scaled as the latent is to become what its codes stand for (arXiv:2410.06424).
        kmeans_init (`bool`, defaults to `True`): start codebooks with k-means of the latents, not at random near 0.
        kmeans_iterations (`int`, defaults to 20): of that k-means.
        ema (`bool`, defaults to `True`): codebooks are moving averages; `False` learns them by gradient.
        ema_decay (`float`, defaults to 0.9): share of the old average that a step keeps.
        reset (`bool`, defaults to `True`): move dead codes to a random latent of the batch.
        dead_below (`float`, defaults to 0.1): a code is dead below this part of its even share of the items.
        sinkhorn_levels (`Sequence[int]`): levels that training fills evenly by optimal transport; `-1` is the last, as
            in LC-Rec (arXiv:2311.09049).
        sinkhorn_epsilon (`float`, defaults to 0.003): smoothing, for distances that span [-1, 1].
        sinkhorn_iterations (`int`, defaults to 20): of Sinkhorn, each step.
        validation_share (`float`, defaults to 0.05): items held out to choose the epoch; 0 keeps the last.
        patience (`int`, defaults to 30): epochs without a lower validation error before training stops.
        contrastive_weight (`float`, defaults to 0.0): of the InfoNCE loss between what the codes of co-occurring items
            stand for, other items of the batch being negatives; needs `cooccurrence`. After CoST (arXiv:2404.14774),
            which contrasts an item's reconstruction with its own embedding; which items go together is from behaviour
            here.
        alignment_weight (`float`, defaults to 0.0): of the InfoNCE loss between an item's collaborative vector and
            what its codes stand for, through a learnt linear map where widths differ; needs `collaborative`. LETTER
            (arXiv:2405.07314, collaborative regularization) with cosines and a temperature for its inner products.
        diversity_weight (`float`, defaults to 0.0): of LETTER's diversity regularization of the codebooks, with the
            same change; needs `ema=False`, since an average follows no loss.
        diversity_clusters (`int`, defaults to 10): groups of codes a level, for that regulariser.
        temperature (`float`, defaults to 0.1): of these three losses.

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
    # One entry an epoch: `epoch`, `train` and `validation` (squared error as a share of the embeddings' variance, or
    # `None` with nothing held out), `used_codes` of each level in training. Not saved.
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
                f"got sinkhorn_levels={self.sinkhorn_levels} for {levels} levels; give levels from 0 to {levels - 1}, "
                "or (-1,) for the last"
            )
        if self.diversity_weight > 0 and self.ema:
            raise ValueError(
                f"got diversity_weight={self.diversity_weight} with ema=True; moving averages follow no loss, give "
                "ema=False"
            )

    def _check_ranges(self) -> None:
        counts = ("latent_size", "epochs", "batch_size", "kmeans_iterations", "sinkhorn_iterations", "patience")
        check_least(1, **{name: getattr(self, name) for name in counts})
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"got hidden_sizes={self.hidden_sizes}; give widths of 1 or more, such as (512, 256)")
        check_least(2, diversity_clusters=self.diversity_clusters)
        for name in ("learning_rate", "sinkhorn_epsilon", "temperature", "dead_below"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"got {name}={getattr(self, name)!r}; give a number above 0")
        for name in ("commitment", "codebook", "contrastive", "alignment", "diversity"):
            if not 0 <= getattr(self, f"{name}_weight") < np.inf:
                raise ValueError(f"got {name}_weight={getattr(self, f'{name}_weight')!r}; give 0 or more")
        for name in ("ema_decay", "validation_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"got {name}={getattr(self, name)!r}; give a share from 0 to below 1")

    def fit(
        self,
        embeddings: np.ndarray,
        progress: bool = True,
        *,
        cooccurrence: csr_matrix | None = None,
        collaborative: np.ndarray | None = None,
    ) -> "RqVae":
        """Learn from embeddings, and from behaviour where its weights are above 0.

        Args:
            embeddings (`np.ndarray`): `[items, d]`.
            progress (`bool`, defaults to `True`): show a bar.
            cooccurrence (`csr_matrix`, *optional*): `[items, items]` counts, from `cooccurrence_counts` of training
                sequences; for `contrastive_weight`. Items without any are left to their embeddings.
            collaborative (`np.ndarray`, *optional*): `[items, c]` vectors of a collaborative model; for
                `alignment_weight`. A row of zeros is an item that has none.

        Raises:
            ValueError: on NaN or constant embeddings, or fewer distinct items than the codes of a level; on a weight
                without its data, data without its weight, or data of another shape.
        """
        embeddings = check_embeddings(embeddings, fewest=self._fewest())
        behaviour = self._behaviour(len(embeddings), cooccurrence, collaborative)
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
        # Only training needs torch and the library of codebooks.
        from genrec_hf.semantic_ids.isolation import isolated
        from genrec_hf.semantic_ids.rq_vae_training import Behaviour, Trainer

        mean = embeddings.mean(axis=0, dtype=np.float64)
        # One scale for all dimensions: which of them matter is the encoder's of the text to say.
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
        # In double precision the order of a sum cannot decide between codes: an item gets the same alone.
        residual = self._layers("encoder", (embeddings - self.tensors["mean"]) / self.tensors["scale"])
        codes = []
        for codebook in self.codebooks:
            codes.append(nearest(residual, codebook))
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
        """Rows `[codes, latent_size]` of each level."""
        return [self.tensors[f"codebook.{level}"] for level in range(len(self.level_sizes))]

    def _layers(self, part: str, values: np.ndarray) -> np.ndarray:
        """Run `encoder` or `decoder`: linear layers, ReLU between them; their names count both."""
        for layer in range(0, 2 * len(self.hidden_sizes) + 1, 2):
            values = np.maximum(values, 0) if layer else values
            values = values @ self.tensors[f"{part}.{layer}.weight"].T.astype(np.float64)
            values = values + self.tensors[f"{part}.{layer}.bias"]
        return values

    def _fewest(self) -> int:
        return max(*self.level_sizes, 2)

    def _behaviour(
        self, items: int, cooccurrence: csr_matrix | None, collaborative: np.ndarray | None
    ) -> tuple[csr_matrix | None, np.ndarray | None]:
        """The two kinds of behaviour, checked: each there if and only if its weight is above 0."""
        for name, data, weight in (
            ("cooccurrence", cooccurrence, "contrastive_weight"),
            ("collaborative", collaborative, "alignment_weight"),
        ):
            if data is None and getattr(self, weight) > 0:
                raise ValueError(f"got {weight}={getattr(self, weight)} and no {name}: pass fit(..., {name}=...)")
            if data is not None and getattr(self, weight) == 0:
                raise ValueError(f"got {name} and {weight}=0, which leaves it unused: give {weight} above 0")
        if cooccurrence is not None:
            cooccurrence = _check_counts(cooccurrence, items)
        if collaborative is not None:
            collaborative = check_embeddings(collaborative, fewest=1)
            if len(collaborative) != items:
                raise ValueError(f"got {len(collaborative)} collaborative vectors for {items} items: one row an item")
        return cooccurrence, collaborative


def _check_counts(cooccurrence: csr_matrix, items: int) -> csr_matrix:
    counts = csr_matrix(cooccurrence, dtype=np.float64, copy=True)
    if counts.shape != (items, items):
        raise ValueError(f"got cooccurrence {list(counts.shape)} for {items} items: pass counts [items, items]")
    if not np.isfinite(counts.data).all() or (counts.data < 0).any():
        raise ValueError("got cooccurrence with values below 0 or NaN: pass counts, see cooccurrence_counts")
    # An item is no news to itself.
    counts.setdiag(0)
    counts.eliminate_zeros()
    if counts.nnz == 0:
        raise ValueError("got cooccurrence without any pair of items: pass training sequences of two items or more")
    return counts
