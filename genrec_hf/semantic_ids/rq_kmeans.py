"""`RqKmeans`: residual k-means, the quantizer of OneRec and QARM, on scikit-learn's k-means."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.cluster import KMeans
from tqdm.auto import tqdm

from genrec_hf.semantic_ids.check import check_embeddings

CODEBOOKS_FILE = "codebooks.safetensors"
CONFIG_FILE = "quantizer.json"


class RqKmeans:
    """Residual k-means: level `l` clusters what the levels above it left over; for `recipes/build_sids.py`.

    `code_l = argmin_k ||r_l - c_lk||`, `r_{l+1} = r_l - c_{l,code_l}`, `r_0 = embedding`. After OneRec
    (arXiv:2502.18965), without its balancing step: clusters are as uneven as the data.

    Args:
        level_sizes (`Sequence[int]`): clusters of each level.
        seed (`int`, defaults to 0): of the k-means++ starts; the same seed gives the same codes.
        restarts (`int`, defaults to 4): k-means runs a level, the best kept.

    Example:
        >>> points = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0]], dtype=np.float32)
        >>> codes = RqKmeans(level_sizes=(2, 2)).fit(points).encode(points)
        >>> codes.shape, len({tuple(row) for row in codes.tolist()})
        ((4, 2), 4)
    """

    def __init__(self, level_sizes: Sequence[int] = (64, 64), seed: int = 0, restarts: int = 4) -> None:
        if not level_sizes or min(level_sizes) < 1:
            raise ValueError(
                f"level_sizes={tuple(level_sizes)}: every level needs at least one code, such as (64, 64)"
            )
        self.level_sizes = tuple(int(size) for size in level_sizes)
        self.seed = seed
        self.restarts = restarts
        self.codebooks: list[np.ndarray] = []

    def fit(self, embeddings: np.ndarray, progress: bool = True) -> "RqKmeans":
        """Learn the codebooks from embeddings `[items, d]`.

        Raises:
            ValueError: on NaN or constant embeddings, or fewer distinct items than codes on a level.
        """
        residual = check_embeddings(embeddings, fewest=max(self.level_sizes))
        self.codebooks = []
        for level, size in enumerate(tqdm(self.level_sizes, desc="Residual k-means", disable=not progress)):
            kmeans = KMeans(n_clusters=size, n_init=self.restarts, random_state=self.seed + level).fit(residual)
            self.codebooks.append(kmeans.cluster_centers_.astype(np.float32))
            residual = residual - self.codebooks[-1][kmeans.labels_]
        return self

    def encode(self, embeddings: np.ndarray) -> np.ndarray:
        """Codes `[items, levels]` of embeddings `[items, d]`, int64; several items may share one row of codes."""
        if not self.codebooks:
            raise ValueError("encode() before fit(): this RqKmeans has no codebooks yet, call fit(embeddings) first")
        residual = check_embeddings(embeddings, fewest=1, width=self.codebooks[0].shape[1])
        codes = np.empty((len(residual), len(self.codebooks)), dtype=np.int64)
        for level, codebook in enumerate(self.codebooks):
            codes[:, level] = _nearest(residual, codebook)
            residual = residual - codebook[codes[:, level]]
        return codes

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """Embeddings `[items, d]` that the codes `[items, levels]` stand for: the sum of their codebook rows."""
        return np.sum([codebook[codes[:, level]] for level, codebook in enumerate(self.codebooks)], axis=0)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write codebooks (safetensors) and settings (JSON) into `directory`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        save_file({str(level): book for level, book in enumerate(self.codebooks)}, directory / CODEBOOKS_FILE)
        config = {
            "quantizer": "RqKmeans",
            "level_sizes": self.level_sizes,
            "seed": self.seed,
            "restarts": self.restarts,
        }
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "RqKmeans":
        """Read a fitted quantizer back."""
        config = json.loads((Path(directory) / CONFIG_FILE).read_text(encoding="utf-8"))
        quantizer = cls(config["level_sizes"], config["seed"], config["restarts"])
        books = load_file(Path(directory) / CODEBOOKS_FILE)
        quantizer.codebooks = [books[str(level)] for level in range(len(books))]
        return quantizer


def _nearest(points: np.ndarray, codebook: np.ndarray, chunk: int = 8192) -> np.ndarray:
    """Index `[points]` of the nearest codebook row; chunked, so that a million items need no square of memory."""
    norms = (codebook**2).sum(axis=1)
    parts = [points[start : start + chunk] for start in range(0, len(points), chunk)]
    return np.concatenate([np.argmin(norms - 2 * part @ codebook.T, axis=1) for part in parts])
