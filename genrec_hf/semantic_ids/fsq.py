"""`Fsq`: an autoencoder whose latent numbers are rounded, finite scalar quantization."""

from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from genrec_hf.checks import check_least
from genrec_hf.semantic_ids.kmeans import draw
from genrec_hf.semantic_ids.quantizer import Quantizer

if TYPE_CHECKING:
    import torch


@dataclass
class Fsq(Quantizer):
    """Finite scalar quantization (Mentzer et al., arXiv:2309.15505): a few bounded numbers, rounded; no codebook.

    An encoder with one hidden layer gives each level a few numbers; each is bounded by `tanh` and rounded to one of 3
    to 8 values, and the code of a level numbers the combinations: `(8, 8, 4)` values for 256 codes, see `fsq_values`.
    A decoder reconstructs the embedding; the loss is the mean squared error, gradients pass the rounding unchanged.
    The rounding is `FSQ` of `vector-quantize-pytorch`.

    Differs from the paper: what is quantized are fixed embeddings, not images; one latent is cut into the levels of a
    SID where the paper has one code a position; values are chosen to multiply to the level's size exactly, and may be
    3 or 4, where the paper advises 5 or more: level sizes such as 240 = 8 x 6 x 5 or 64 = 8 x 8 meet that. Levels are
    equals: a prefix is no coarser reading of the item, unlike residual codes.

    Training is in float32 on one thread, and leaves torch's random state as it was.

    Args:
        level_sizes (`Sequence[int]`): codes of each level, products of numbers from 3 to 8.
        seed (`int`, defaults to 0): of the initial weights and of the batches.
        hidden (`int`, defaults to 256): width of the hidden layers.
        steps (`int`, defaults to 2000): batches of training.
        batch_size (`int`, defaults to 512): items a batch, drawn with replacement.
        learning_rate (`float`, defaults to 1e-3): of Adam at the start; it falls to zero along a cosine.

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
            raise ValueError(f"got learning_rate={self.learning_rate!r}; give a number above 0, such as 1e-3")
        self._values = [fsq_values(size) for size in self.level_sizes]

    def _fit(self, embeddings: np.ndarray, progress: bool) -> dict[str, np.ndarray]:
        # Only training and rounding need torch.
        from genrec_hf.semantic_ids.isolation import isolated

        with isolated(self.seed):
            return self._train(embeddings, progress)

    def _train(self, embeddings: np.ndarray, progress: bool) -> dict[str, np.ndarray]:
        import torch

        some = draw(embeddings, 65_536, self.seed)
        mean = some.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = np.square(some - mean).mean(dtype=np.float64) ** 0.5
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
        """Encoder and decoder, and the rounding of each level, which learns nothing."""
        from torch import nn
        from vector_quantize_pytorch import FSQ

        numbers = sum(map(len, self._values))
        encoder = nn.Sequential(nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, numbers))
        decoder = nn.Sequential(nn.Linear(numbers, self.hidden), nn.ReLU(), nn.Linear(self.hidden, width))
        return nn.ModuleDict({"encoder": encoder, "decoder": decoder}), [FSQ(values) for values in self._values]

    def _round(self, latents: "torch.Tensor", roundings: list[Any]) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Rounded latents `[items, numbers]` and codes `[items, levels]`."""
        import torch

        parts = latents.split([len(values) for values in self._values], dim=1)
        pairs = [rounding(part[None]) for rounding, part in zip(roundings, parts, strict=True)]
        return torch.cat([pair[0][0] for pair in pairs], dim=1), torch.stack([pair[1][0] for pair in pairs], dim=1)

    def _load(self) -> tuple["torch.nn.ModuleDict", list[Any]]:
        """In double precision, where the order of a sum does not decide how a number is rounded."""
        import torch

        with torch.random.fork_rng(devices=[]):  # Layers draw weights when made.
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
    """How many values each rounded number of a level takes: from 3 to 8, as few numbers as can be, the most even.

    Raises:
        ValueError: where no such numbers multiply to `size`.

    Example:
        >>> fsq_values(256), fsq_values(240), fsq_values(64)
        ([8, 8, 4], [8, 6, 5], [8, 8])
    """
    for numbers in range(1, size.bit_length()):
        choices: list[tuple[int, ...]] = list(combinations_with_replacement(range(3, 9), numbers))
        fits = [values for values in choices if prod(values) == size]
        if fits:
            most_even = min(fits, key=lambda values: values[-1] - values[0])
            return list(reversed(most_even))
    raise ValueError(
        f"got a level of {size} codes; FSQ makes sizes that are products of numbers from 3 to 8: give one such as "
        "15, 64, 240 or 256"
    )
