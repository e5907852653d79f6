"""`Quantizer`: what every quantizer of embeddings shares: settings, checks and files."""

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors.numpy import load_file, save_file

from genrec_hf.directories import as_directory, filling
from genrec_hf.repositories import find_folder, read_json, refuse_broken_safetensors
from genrec_hf.semantic_ids.check import check_embeddings
from genrec_hf.semantic_ids.reassignment import Distances

CONFIG_FILE = "quantizer.json"
TENSORS_FILE = "quantizer.safetensors"
# Where one is in a folder or repository: alone, in semantic ids, or in a recommender.
PLACES = ("", "quantizer", "semantic_ids/quantizer")
# Numbers reconstructed at once for distances, as many as a processor's cache holds: half a MiB.
AT_ONCE = 1 << 17
# Class and module of every quantizer that a file may name; a module is imported when a file names it.
QUANTIZERS = {
    "RqKmeans": "rq_kmeans",
    "RqVae": "rq_vae",
    "ProductQuantizer": "product",
    "HierarchicalKmeans": "hierarchical",
    "Fsq": "fsq",
    "Lsh": "controls",
    "RandomCodes": "controls",
}

# Types of settings, as messages call them.
NUMBERS: dict[type, type] = {int: Integral, float: Real}
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", tuple: "whole numbers"}

Self = TypeVar("Self", bound="Quantizer")


@dataclass
class Quantizer(ABC):
    """Embeddings `[items, d]` to codes `[items, levels]`; subclasses are dataclasses whose fields are their settings.

    Args:
        level_sizes (`Sequence[int]`): codes of each level.
        seed (`int`, defaults to 0): the same seed gives the same codes, on any number of threads.
    """

    level_sizes: Sequence[int] = (256, 256, 256)
    seed: int = 0
    # What `fit` learnt, by name, and the width of the embeddings that it saw.
    tensors: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)
    embedding_size: int | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            kind, value = type(each.default), getattr(self, each.name)
            if each.init and not _is_a(kind, value):
                raise ValueError(f"got {each.name}={value!r}; give {KINDS[kind]}, such as {each.default!r}")
        self.level_sizes = tuple(int(size) for size in self.level_sizes)
        if not self.level_sizes or min(self.level_sizes) < 1:
            raise ValueError(f"level_sizes={self.level_sizes}: every level needs at least one code, such as (64, 64)")

    def fit(self: Self, embeddings: np.ndarray, progress: bool = True) -> Self:
        """Learn from embeddings `[items, d]`; `progress=False` shows no bar.

        Raises:
            ValueError: on NaN or constant embeddings, or fewer distinct items than the codes of a level.
        """
        embeddings = check_embeddings(embeddings, fewest=self._fewest())
        self.tensors = self._fit(embeddings, progress)
        self.embedding_size = embeddings.shape[1]
        return self

    def encode(self, embeddings: np.ndarray) -> np.ndarray:
        """Codes `[items, levels]` of embeddings `[items, d]`, int64; several items may share one row of codes.

        Raises:
            ValueError: before `fit`, on NaN, or on embeddings of another width than those fitted.
        """
        self._refuse_unfitted()
        return self._encode(check_embeddings(embeddings, fewest=1, embedding_size=self.embedding_size)).astype(
            np.int64
        )

    def reconstruct(self, codes: np.ndarray) -> np.ndarray | None:
        """Embeddings `[items, d]` that the codes `[items, levels]` stand for; `None` where codes stand for none."""
        self._refuse_unfitted()
        return self._reconstruct(np.asarray(codes))

    def distances(self, embeddings: np.ndarray) -> Distances | None:
        """How far items are from what other codes stand for, for `resolve_collisions` and `SemanticIds.add`.

        Squared Euclidean distance of an embedding to the reconstruction of codes, worked out by reconstructing them
        all when asked. For residual quantizers of embeddings this is the distance of the last residual to the codes of
        the last level; LC-Rec's is of the latent residual of an RQ-VAE, before the decoder.

        Args:
            embeddings (`np.ndarray`): `[items, d]`.

        Returns:
            `Distances` or `None`: see `genrec_hf.semantic_ids.reassignment`; `None` when codes stand for no embedding.
        """
        self._refuse_unfitted()
        embeddings = check_embeddings(embeddings, fewest=1, embedding_size=self.embedding_size)
        if self.reconstruct(np.zeros((1, len(self.level_sizes)), dtype=np.int64)) is None:
            return None

        def distances(items: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
            size = self.level_sizes[level]
            parts, step = [np.empty((0, size), dtype=np.float32)], max(1, AT_ONCE // (size * embeddings.shape[1]))
            for start in range(0, len(items), step):
                each = codes[start : start + step].repeat(size, axis=0)
                each[:, level] = np.tile(np.arange(size), len(each) // size)
                difference = self._reconstruct(each)
                assert difference is not None
                difference = difference.reshape(-1, size, embeddings.shape[1])
                difference = difference - embeddings[items[start : start + step], None]
                parts.append(np.einsum("nsd,nsd->ns", difference, difference))
            return np.concatenate(parts)

        return distances

    @abstractmethod
    def _fit(self, embeddings: np.ndarray, progress: bool) -> dict[str, np.ndarray]:
        """What is learnt from checked float32 embeddings, by name."""

    @abstractmethod
    def _encode(self, embeddings: np.ndarray) -> np.ndarray: ...

    def _reconstruct(self, codes: np.ndarray) -> np.ndarray | None:
        return None

    def _fewest(self) -> int:
        """Distinct embeddings that fitting needs."""
        return max(self.level_sizes)

    def _refuse_unfitted(self) -> None:
        if self.embedding_size is None:
            raise ValueError(f"{type(self).__name__} used before fit: call fit(embeddings) first, or from_pretrained")

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON holds them."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def save_pretrained(self, directory: str | Path) -> None:
        """Write what was learnt (safetensors) and the settings (JSON) into `directory`."""
        self._refuse_unfitted()
        config = {"quantizer": type(self).__name__, "embedding_size": self.embedding_size, "settings": self.settings}
        with filling(as_directory(directory, "directory"), last=CONFIG_FILE) as partial:
            arrays = {name: np.ascontiguousarray(value) for name, value in self.tensors.items()}
            save_file(arrays, partial / TENSORS_FILE)
            (partial / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")

    @classmethod
    def from_pretrained(cls: type[Self], directory_or_repo: str | Path, revision: str | None = None) -> Self:
        """Read a fitted quantizer back, from a folder or Hub repository, or the semantic ids in it.

        Raises:
            FileNotFoundError: when none is there.
            ValueError: when it is one of another class, or a file of it is broken.
        """
        directory = _find(directory_or_repo, revision)
        config = _read_config(directory)
        if config["quantizer"] != cls.__name__:
            raise ValueError(
                f"{str(directory)!r} holds a {config['quantizer']}, not a {cls.__name__}: read it with load_quantizer"
            )
        try:
            quantizer = cls(**config["settings"])
        except TypeError as error:
            raise ValueError(
                f"{str(directory / CONFIG_FILE)!r} has other settings than a {cls.__name__}: {error}"
            ) from error
        refuse_broken_safetensors(directory / TENSORS_FILE)
        quantizer.tensors = load_file(directory / TENSORS_FILE)
        quantizer.embedding_size = config["embedding_size"]
        return quantizer


def quantizer_class(name: str) -> type[Quantizer]:
    """The class of a name in `QUANTIZERS`; its module is imported now, and with it what only this class needs."""
    quantizer: type[Quantizer] = getattr(importlib.import_module(f"{__package__}.{QUANTIZERS[name]}"), name)
    return quantizer


def load_quantizer(directory_or_repo: str | Path, revision: str | None = None) -> Quantizer:
    """Read a fitted quantizer of any class, which its `quantizer.json` names, as `Quantizer.from_pretrained` does.

    Raises:
        FileNotFoundError: when none is there.
        ValueError: when it names a class that is not in this library, or a file of it is broken.
    """
    directory = _find(directory_or_repo, revision)
    name = _read_config(directory)["quantizer"]
    if name not in QUANTIZERS:
        raise ValueError(
            f"{str(directory)!r} holds a quantizer {name!r}, this genrec_hf knows {', '.join(QUANTIZERS)}: upgrade "
            "genrec_hf, or read your own class with its from_pretrained"
        )
    return quantizer_class(name).from_pretrained(directory)


def _is_a(kind: type, value: Any) -> bool:
    """Whether a setting has the type of its default: `"False"` would pass for true, and 1.5 for a number of epochs."""
    if kind is tuple:
        return isinstance(value, Iterable) and not isinstance(value, str) and all(_is_a(int, each) for each in value)
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    return isinstance(value, NUMBERS.get(kind, kind))


def _find(directory_or_repo: str | Path, revision: str | None) -> Path:
    """The folder of a quantizer: the one named, or that of the semantic ids in it."""
    folder = find_folder(directory_or_repo, revision, [name for place in PLACES for name in _files(place)])
    for place in PLACES:
        if (folder / place / CONFIG_FILE).is_file():
            return folder / place
    raise FileNotFoundError(f"{str(directory_or_repo)!r} holds no {CONFIG_FILE}: save one with save_pretrained")


def _files(place: str) -> list[str]:
    return [str(Path(place) / name) for name in (CONFIG_FILE, TENSORS_FILE)]


def _read_config(directory: Path) -> dict[str, Any]:
    return read_json(directory / CONFIG_FILE, "quantizer", "embedding_size", "settings")
