"""`Lsh` and `RandomCodes`: codes without learning, as controls for the learned quantizers."""

import hashlib
from dataclasses import dataclass

import numpy as np

from genrec_hf.semantic_ids.quantizer import Quantizer


@dataclass
class Lsh(Quantizer):
    """Locality-sensitive hashing: the code of a level encodes the sides of `log2(size)` random hyperplanes.

    `code_l = sum_b 2^b [w_lb . (x - mean) > 0]` with `w ~ N(0, I)`: the control of TIGER (arXiv:2305.05065), but with
    hyperplanes through the mean of the fitted items instead of the origin, since text embeddings lie on one side of
    the origin. Similar items get similar codes; the levels are not ordered from coarse to fine.

    Args:
        level_sizes (`Sequence[int]`): number of codes of each level, powers of two.
        seed (`int`, defaults to 0): random seed of the hyperplanes.

    Raises:
        ValueError: when a level size is not a power of two.

    Example:
        >>> points = np.array([[1.0, 2.0], [-1.0, -2.0]], dtype=np.float32)
        >>> codes = Lsh(level_sizes=(4, 8)).fit(points).encode(points)
        >>> (codes[0] + codes[1]).tolist()  # opposite sides of every plane
        [3, 7]
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(size < 2 or size & (size - 1) for size in self.level_sizes):
            raise ValueError(
                f"got level_sizes={self.level_sizes}: each hyperplane doubles the number of codes, so they must be "
                "powers of two"
            )

    def _min_distinct(self) -> int:
        return 1

    def _fit(self, embeddings: np.ndarray, progress: bool) -> dict[str, np.ndarray]:
        if (embeddings == embeddings[0]).all():
            raise ValueError(
                f"the embeddings of all {len(embeddings)} items are the same, so no hyperplane separates them: embed "
                "the items again"
            )
        bits = sum(size.bit_length() - 1 for size in self.level_sizes)
        planes = np.random.default_rng(self.seed).standard_normal((bits, embeddings.shape[1]))
        return {"planes": planes, "mean": embeddings.mean(axis=0, dtype=np.float64)}

    def _encode(self, embeddings: np.ndarray, chunk: int = 8192) -> np.ndarray:
        planes, mean = self.tensors["planes"], self.tensors["mean"]
        parts = [embeddings[start : start + chunk] - mean for start in range(0, len(embeddings), chunk)]
        sides = np.concatenate([part @ planes.T > 0 for part in parts])
        codes, start = [], 0
        for size in self.level_sizes:
            bits = size.bit_length() - 1
            codes.append(sides[:, start : start + bits] @ (1 << np.arange(bits)))
            start += bits
        return np.stack(codes, axis=1)


@dataclass
class RandomCodes(Quantizer):
    """Random codes: uniform and independent on each level; the control of TIGER (arXiv:2305.05065).

    They are a keyed hash (BLAKE2b, key = `seed`) of the bytes of an item's embedding, so that an item gets the same
    codes alone, in a batch, and in another process. Identical embeddings get identical codes, as with every quantizer;
    the smallest change of an embedding changes the codes.

    Args:
        level_sizes (`Sequence[int]`): number of codes of each level.
        seed (`int`, defaults to 0): key of the hash.

    Example:
        >>> points = np.eye(3, dtype=np.float32)
        >>> quantizer = RandomCodes(level_sizes=(256, 256)).fit(points)
        >>> bool((quantizer.encode(points)[1] == quantizer.encode(points[1:2])[0]).all())
        True
    """

    def _min_distinct(self) -> int:
        return 1

    def _fit(self, embeddings: np.ndarray, progress: bool) -> dict[str, np.ndarray]:
        return {}

    def _encode(self, embeddings: np.ndarray) -> np.ndarray:
        # Adding zero turns -0.0 into 0.0, which it equals.
        rows = np.ascontiguousarray(embeddings + np.float32(0), dtype="<f4")
        codes = np.empty((len(rows), len(self.level_sizes)), dtype=np.int64)
        key = str(self.seed).encode()
        for level, size in enumerate(self.level_sizes):
            person = level.to_bytes(4, "little")
            hashes = [hashlib.blake2b(row, digest_size=7, key=key, person=person).digest() for row in rows]
            codes[:, level] = [int.from_bytes(digest, "little") % size for digest in hashes]
        return codes
