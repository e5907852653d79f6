"""`Fsq`: finite scalar quantization, an autoencoder whose latent values are rounded."""

from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from genrec_hf.checks import check_least
from genrec_hf.semantic_ids.kmeans import subsample
from genrec_hf.semantic_ids.quantizer import Quantizer

if TYPE_CHECKING:
    import torch


@dataclass
class Fsq(Quantizer):
    """Finite scalar quantization (Mentzer et al., arXiv:2309.15505): a few bounded values per level, rounded.

    An encoder with one hidden layer outputs a few values for each level; each is bounded by `tanh` and rounded to one
    of 3 to 8 values, and the code of a level is the index of their combination: for 256 codes, three values rounded to
    `(8, 8, 4)` values, see `fsq_values`. There is no codebook. A decoder reconstructs the embedding; the loss is the
    mean squared error, with straight-through gradients. The rounding is `FSQ` of `vector-quantize-pytorch`.

    Differs from the paper: the inputs are fixed embeddings, not images; one latent is split into the levels of a SID,
    where the paper has one code per position; the numbers of rounded values multiply to the level size exactly, and
    may be 3 or 4, where the paper recommends 5 or more, as with the level sizes 240 = 8 x 6 x 5 or 64 = 8 x 8. The
    levels are not ordered from coarse to fine, unlike those of residual quantizers.

    Training is in float32 on one thread, and does not change torch's global random state.

    Args:
        level_sizes (`Sequence[int]`): number of codes of each level, products of integers from 3 to 8.
        seed (`int`, defaults to 0): random seed of the initial weights and of the batches.
        hidden (`int`, defaults to 256): width of the hidden layers.
        steps (`int`, defaults to 2000): number of training steps.
        batch_size (`int`, defaults to 512): number of items per step, sampled with replacement.
        learning_rate (`float`, defaults to 1e-3): initial learning rate of Adam, with a cosine schedule to zero.

    Raises:
        ValueError: when a setting is out of range, or a level size is not such a product.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        >>> quantizer = Fsq(level_sizes=(9, 16), hidden=16, steps=20).fit(points, progress=False)
        >>> quantizer.encode(points).shape, quantizer.reconstruct(quantizer.encode(points)).shape
        ((64, 2), (64, 4))
    """

    hidden: int = 256
    steps: int = 2000
    batch_size: int = 512
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(1, hidden=self.hidden, steps=self.steps, batch_size=self.batch_size)
        if not self.learning_rate > 0:
            raise ValueError(f"got learning_rate={self.learning_rate!r}: it must be above 0, such as 1e-3")
        self._values = [fsq_values(size) for size in self.level_sizes]

    def _fit(self, embeddings: np.ndarray, progress: bool) -> dict[str, np.ndarray]:
        # Imported here: only training and rounding need torch.
        from genrec_hf.semantic_ids.isolation import isolated

        with isolated(self.seed):
            return self._train(embeddings, progress)

    def _train(self, embeddings: np.ndarray, progress: bool) -> dict[str, np.ndarray]:
        import torch

        sample = subsample(embeddings, 65_536, self.seed)
        mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = np.square(sample - mean).mean(dtype=np.float64) ** 0.5
        network, roundings = self._network(embeddings.shape[1])
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        rng = np.random.default_rng(self.seed)
        for _ in tqdm(range(self.steps), desc="FSQ", disable=not progress):
            items = rng.integers(len(embeddings), size=self.batch_size)
            batch = torch.from_numpy((embeddings[items] - mean) / np.float32(spread))
            loss = (network["decoder"](self._round(network["encoder"](batch), roundings)[0]) - batch).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        weights = {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}
        return weights | {"mean": mean, "spread": np.array([spread], dtype=np.float32)}

    def _network(self, width: int) -> tuple["torch.nn.ModuleDict", list[Any]]:
        """Build the encoder and decoder, and the rounding of each level, which has no weights."""
        from torch import nn
        from vector_quantize_pytorch import FSQ

        latent_size = sum(map(len, self._values))
        encoder = nn.Sequential(nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, latent_size))
        decoder = nn.Sequential(nn.Linear(latent_size, self.hidden), nn.ReLU(), nn.Linear(self.hidden, width))
        return nn.ModuleDict({"encoder": encoder, "decoder": decoder}), [FSQ(values) for values in self._values]

    def _round(self, latents: "torch.Tensor", roundings: list[Any]) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Round latents `[items, latent]`, and return them with the codes `[items, levels]`."""
        import torch

        parts = latents.split([len(values) for values in self._values], dim=1)
        pairs = [rounding(part[None]) for rounding, part in zip(roundings, parts, strict=True)]
        return torch.cat([pair[0][0] for pair in pairs], dim=1), torch.stack([pair[1][0] for pair in pairs], dim=1)

    def _load(self) -> tuple["torch.nn.ModuleDict", list[Any]]:
        """Load the fitted network in double precision, so that sums in another order round to the same values."""
        import torch

        with torch.random.fork_rng(devices=[]):  # Layers sample initial weights.
            network, roundings = self._network(self.tensors["mean"].shape[0])
        names = network.state_dict().keys()
        network.load_state_dict({name: torch.from_numpy(self.tensors[name]) for name in names})
        return network.double(), [rounding.double() for rounding in roundings]

    def _encode(self, embeddings: np.ndarray, chunk: int = 8192) -> np.ndarray:
        import torch

        (network, roundings), codes = self._load(), []
        with torch.no_grad():
            for start in range(0, len(embeddings), chunk):
                part = embeddings[start : start + chunk].astype(np.float64) - self.tensors["mean"]
                latents = network["encoder"](torch.from_numpy(part / self.tensors["spread"]))
                codes.append(self._round(latents, roundings)[1].numpy())
        return np.concatenate(codes)

    def _reconstruct(self, codes: np.ndarray) -> np.ndarray:
        import torch

        network, roundings = self._load()
        with torch.no_grad():
            columns = zip(roundings, torch.from_numpy(codes).T, strict=True)
            latents = torch.cat([rounding.indices_to_codes(column) for rounding, column in columns], dim=1)
            points = network["decoder"](latents.double()).numpy()
        return (points * self.tensors["spread"] + self.tensors["mean"]).astype(np.float32)


def fsq_values(size: int) -> list[int]:
    """Factorize a level size into the numbers of values that the latents of the level are rounded to.

    Args:
        size (`int`): number of codes of the level.

    Returns:
        `list[int]`: factors from 3 to 8 in descending order, as few as possible, then as equal as possible.

    Raises:
        ValueError: when `size` is not a product of integers from 3 to 8.

    Example:
        >>> fsq_values(256), fsq_values(240), fsq_values(64)
        ([8, 8, 4], [8, 6, 5], [8, 8])
    """
    for count in range(1, size.bit_length()):
        candidates: list[tuple[int, ...]] = list(combinations_with_replacement(range(3, 9), count))
        factorizations = [factors for factors in candidates if prod(factors) == size]
        if factorizations:
            most_equal = min(factorizations, key=lambda factors: factors[-1] - factors[0])
            return list(reversed(most_equal))
    raise ValueError(
        f"got a level of {size} codes: level sizes of FSQ must be products of integers from 3 to 8, such as 15, 64, "
        "240 or 256"
    )
