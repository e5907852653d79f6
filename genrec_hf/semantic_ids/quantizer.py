"""`Quantizer`, the base class of all quantizers, including custom ones: settings, checks, saving and loading."""

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

from genrec_hf.directories import as_directory, write_files
from genrec_hf.repositories import find_folder, read_json, refuse_broken_safetensors
from genrec_hf.semantic_ids.check import check_embeddings
from genrec_hf.semantic_ids.reassignment import Distances

CONFIG_FILE = "quantizer.json"
TENSORS_FILE = "quantizer.safetensors"
# Subfolders that may hold a quantizer: in its own folder, in a SemanticIds folder, in a recommender's repository.
SUBFOLDERS = ("", "quantizer", "semantic_ids/quantizer")
# Floats that `distances` reconstructs at once: half a MiB, which fits into a processor's cache.
RECONSTRUCTION_CHUNK = 1 << 17
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

# Types of settings: what `isinstance` checks, and their names in messages.
NUMBERS: dict[type, type] = {int: Integral, float: Real}
TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", tuple: "whole numbers"}

Self = TypeVar("Self", bound="Quantizer")


@dataclass
class Quantizer(ABC):
    """Base class of quantizers, which map embeddings `[items, d]` to codes `[items, levels]`.

    For a custom quantizer, write a dataclass that inherits from this class. Its fields are its settings: each has
    a default of type `bool`, `int`, `float`, `str` or a tuple of `int`, and a value of another type raises; a
    `__post_init__` of yours calls `super().__post_init__()` first. The public methods `fit`, `encode`, `reconstruct`
    and `distances` check their arguments and call these methods of yours:

    - `_fit(embeddings, progress)`: learn from embeddings `[items, d]`; return the learned arrays by name.
    - `_encode(embeddings)`: return codes `[items, levels]`, with `0 <= codes[i, l] < level_sizes[l]`.
    - `_reconstruct(codes)` (*optional*): return the embeddings `[items, d]` that codes represent. It enables
      `distances`, and with them the collision strategies `"nearest"` and `"sinkhorn"`, and the reconstruction error in
      reports.
    - `_min_distinct()` (*optional*): return how many distinct embeddings `fit` needs; by default, as many as the
      largest level has codes.

    `_encode` and `_reconstruct` may read the settings and `self.tensors` only, which are what `save_pretrained`
    writes. The codes of an item must not depend on the other items of the call, since `SemanticIds.add` encodes new
    items without the old ones.

    `from_pretrained` of your class reads it back. `load_quantizer`, and with it a `SemanticIds` that was loaded from
    disk, knows the classes of this library only: pass yours to `SemanticIds(..., quantizer=...)` again before `add`.

    Args:
        level_sizes (`Sequence[int]`, defaults to `(256, 256, 256)`): number of codes of each level, each at least 1.
        seed (`int`, defaults to 0): random seed; the same seed gives the same codes, on any number of threads.

    Attributes:
        tensors (`dict[str, np.ndarray]`): what `_fit` returned; empty before `fit`.
        embedding_size (`int` or `None`): the `d` that `fit` saw; `None` before `fit`.

    Raises:
        ValueError: when a setting has another type than its default, or `level_sizes` is empty or holds a size below
            1.

    Example:
        >>> @dataclass
        ... class MedianSplit(Quantizer):  # level l: whether dimension l is above its median
        ...     level_sizes: Sequence[int] = (2, 2)
        ...
        ...     def _fit(self, embeddings, progress):
        ...         return {"medians": np.median(embeddings, axis=0)}
        ...
        ...     def _encode(self, embeddings):
        ...         above = embeddings > self.tensors["medians"]
        ...         return above[:, : len(self.level_sizes)].astype(np.int64)
        >>> embeddings = np.array([[0, 5], [1, 6], [2, 7], [3, 4]], dtype=np.float32)
        >>> MedianSplit().fit(embeddings).encode(embeddings).tolist()
        [[0, 0], [0, 1], [1, 1], [1, 0]]
    """

    level_sizes: Sequence[int] = (256, 256, 256)
    seed: int = 0
    tensors: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)
    embedding_size: int | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for setting in fields(self):
            default_type, value = type(setting.default), getattr(self, setting.name)
            if setting.init and not _has_type(default_type, value):
                raise ValueError(
                    f"got {setting.name}={value!r}: it must be {TYPE_NAMES[default_type]}, such as {setting.default!r}"
                )
        self.level_sizes = tuple(int(size) for size in self.level_sizes)
        if not self.level_sizes or min(self.level_sizes) < 1:
            raise ValueError(
                f"got level_sizes={self.level_sizes}: every level needs at least one code, such as (64, 64)"
            )

    def fit(self: Self, embeddings: np.ndarray, progress: bool = True) -> Self:
        """Learn the codebooks from the embeddings of a catalogue.

        Embeddings are checked and converted to float32, then given to `_fit`, whose result is kept as `tensors`.
        A quantizer may be fitted again; nothing of the earlier fit is kept.

        Args:
            embeddings (`np.ndarray`): `[items, d]`, one row per item.
            progress (`bool`, defaults to `True`): whether to show a progress bar.

        Returns:
            `Quantizer`: itself, fitted, so that `Quantizer(...).fit(embeddings)` is one expression.

        Raises:
            ValueError: on embeddings that are not `[items, d]`, NaN or infinite values, or fewer distinct embeddings
                than `_min_distinct()`, by default the number of codes of the largest level.
        """
        embeddings = check_embeddings(embeddings, min_distinct=self._min_distinct())
        self.tensors = self._fit(embeddings, progress)
        self.embedding_size = embeddings.shape[1]
        return self

    def encode(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the codes of embeddings, which may be of other items than those fitted.

        An item gets the same codes alone as among others. Several items may get the same codes: `resolve_collisions`
        makes them unique.

        Args:
            embeddings (`np.ndarray`): `[items, d]`, with the `d` of `fit`.

        Returns:
            `np.ndarray`: codes `[items, levels]`, int64, `0 <= codes[i, l] < level_sizes[l]`.

        Raises:
            ValueError: before `fit`, on NaN or infinite values, or on another shape or another `d` than fitted.
        """
        self._refuse_unfitted()
        return self._encode(check_embeddings(embeddings, min_distinct=1, embedding_size=self.embedding_size)).astype(
            np.int64
        )

    def reconstruct(self, codes: np.ndarray) -> np.ndarray | None:
        """Return the embeddings that codes represent, for instance sums of codebook rows.

        Args:
            codes (`np.ndarray`): `[items, levels]`.

        Returns:
            `np.ndarray` or `None`: `[items, d]`; `None` for a quantizer whose codes represent no embedding.

        Raises:
            ValueError: before `fit`.
        """
        self._refuse_unfitted()
        return self._reconstruct(np.asarray(codes))

    def distances(self, embeddings: np.ndarray) -> Distances | None:
        """Return a function for the distances of items to codes, as `resolve_collisions` and `SemanticIds.add` use it.

        The distance is the squared Euclidean distance between an embedding and the reconstruction of codes. The
        function reconstructs every alternative code of a level when called; nothing is computed here. For residual
        quantizers of embeddings it is the distance of the last residual to the codes of the last level; LC-Rec's is
        that of the latent residual of an RQ-VAE, before the decoder.

        Args:
            embeddings (`np.ndarray`): `[items, d]`, with the `d` of `fit`.

        Returns:
            `Distances` or `None`: `(items [n], codes [n, levels], level) -> distances [n, level_sizes[level]]`, where
            `items` are rows of `embeddings`, and entry `[i, c]` is the distance of `items[i]` to `codes[i]` with the
            code of `level` replaced by `c`; `None` when `reconstruct` returns `None`.

        Raises:
            ValueError: before `fit`, on NaN or infinite values, or on another shape or another `d` than fitted.

        Example:
            >>> from genrec_hf.semantic_ids import RqKmeans
            >>> embeddings = np.array([[0.0], [1.0], [4.0]], dtype=np.float32)
            >>> quantizer = RqKmeans(level_sizes=(3,)).fit(embeddings, progress=False)
            >>> distances = quantizer.distances(embeddings)(np.array([0]), quantizer.encode(embeddings[:1]), level=0)
            >>> sorted(distances[0].tolist())  # of item 0 to the codes of the three items
            [0.0, 1.0, 16.0]
        """
        self._refuse_unfitted()
        embeddings = check_embeddings(embeddings, min_distinct=1, embedding_size=self.embedding_size)
        if self.reconstruct(np.zeros((1, len(self.level_sizes)), dtype=np.int64)) is None:
            return None

        def distances(items: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
            size, embedding_size = self.level_sizes[level], embeddings.shape[1]
            parts, step = (
                [np.empty((0, size), dtype=np.float32)],
                max(1, RECONSTRUCTION_CHUNK // (size * embedding_size)),
            )
            for start in range(0, len(items), step):
                alternatives = codes[start : start + step].repeat(size, axis=0)
                alternatives[:, level] = np.tile(np.arange(size), len(alternatives) // size)
                reconstruction = self._reconstruct(alternatives)
                assert reconstruction is not None
                difference = reconstruction.reshape(-1, size, embedding_size)
                difference = difference - embeddings[items[start : start + step], None]
                parts.append(np.einsum("nsd,nsd->ns", difference, difference))
            return np.concatenate(parts)

        return distances

    @abstractmethod
    def _fit(self, embeddings: np.ndarray, progress: bool) -> dict[str, np.ndarray]:
        """Learn from the embeddings of a catalogue; every quantizer implements this.

        Args:
            embeddings (`np.ndarray`): `[items, d]`, float32, finite, with at least `_min_distinct()` distinct rows.
            progress (`bool`): whether to show a progress bar.

        Returns:
            `dict[str, np.ndarray]`: the learned arrays by name, all that `_encode` and `_reconstruct` need in addition
            to the settings. They become `tensors`, and are saved as safetensors.
        """

    @abstractmethod
    def _encode(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the codes of embeddings; every quantizer implements this.

        Args:
            embeddings (`np.ndarray`): `[items, d]`, float32, finite, with the `d` of `_fit`.

        Returns:
            `np.ndarray`: codes `[items, levels]` of an integer type, `0 <= codes[i, l] < level_sizes[l]`; row `i`
            depends on `embeddings[i]` only.
        """

    def _reconstruct(self, codes: np.ndarray) -> np.ndarray | None:
        """Return the embeddings that codes represent; implement it where codes represent embeddings.

        Args:
            codes (`np.ndarray`): `[items, levels]`, any codes of the levels, also those that no item has.

        Returns:
            `np.ndarray` or `None`: `[items, d]`, float32; by default `None`.
        """
        return None

    def _min_distinct(self) -> int:
        """Return how many distinct embeddings `fit` needs; by default the number of codes of the largest level."""
        return max(self.level_sizes)

    def _refuse_unfitted(self) -> None:
        if self.embedding_size is None:
            raise ValueError(
                f"{type(self).__name__} is used before fit: call fit(embeddings) first, or load a fitted one with "
                "from_pretrained"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of the constructor by name, as JSON values."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self) if setting.init}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the fitted quantizer into a directory.

        `quantizer.safetensors` holds `tensors`; `quantizer.json` holds the class name, `settings` and
        `embedding_size`. A subclass has nothing to add, as long as it keeps all that it learns in `tensors`.

        Args:
            directory (`str` or `Path`): created if it does not exist.

        Raises:
            ValueError: before `fit`.
        """
        self._refuse_unfitted()
        config = {"quantizer": type(self).__name__, "embedding_size": self.embedding_size, "settings": self.settings}
        with write_files(as_directory(directory, "directory"), last=CONFIG_FILE) as partial:
            arrays = {name: np.ascontiguousarray(value) for name, value in self.tensors.items()}
            save_file(arrays, partial / TENSORS_FILE)
            (partial / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")

    @classmethod
    def from_pretrained(cls: type[Self], directory_or_repo: str | Path, revision: str | None = None) -> Self:
        """Load a fitted quantizer of this class.

        Args:
            directory_or_repo (`str` or `Path`): directory or Hub repository that holds the quantizer, or semantic ids
                or a recommender that were saved with it.
            revision (`str`, *optional*): branch, tag or commit of the Hub repository.

        Returns:
            `Quantizer`: of this class, fitted.

        Raises:
            FileNotFoundError: when no quantizer is there.
            ValueError: when it is of another class or has other settings, or one of its files is broken.
        """
        directory = _find_quantizer(directory_or_repo, revision)
        config = _read_config(directory)
        if config["quantizer"] != cls.__name__:
            raise ValueError(
                f"{str(directory)!r} holds a {config['quantizer']}, not a {cls.__name__}: load it with load_quantizer"
            )
        try:
            quantizer = cls(**config["settings"])
        except TypeError as error:
            raise ValueError(
                f"{str(directory / CONFIG_FILE)!r} has other settings than a {cls.__name__} ({error}): load it with "
                "the version of genrec_hf that wrote it, or fit again"
            ) from error
        refuse_broken_safetensors(directory / TENSORS_FILE)
        quantizer.tensors = load_file(directory / TENSORS_FILE)
        quantizer.embedding_size = config["embedding_size"]
        return quantizer


def quantizer_class(name: str) -> type[Quantizer]:
    """Return the class of a name, importing its module, and with it the libraries that only this class needs.

    Args:
        name (`str`): a key of `QUANTIZERS`, such as `"RqVae"`.

    Returns:
        `type[Quantizer]`: the class.
    """
    quantizer: type[Quantizer] = getattr(importlib.import_module(f"{__package__}.{QUANTIZERS[name]}"), name)
    return quantizer


def load_quantizer(directory_or_repo: str | Path, revision: str | None = None) -> Quantizer:
    """Load a fitted quantizer of any class of this library, which its `quantizer.json` names.

    Args:
        directory_or_repo (`str` or `Path`): as in `Quantizer.from_pretrained`.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.

    Returns:
        `Quantizer`: fitted.

    Raises:
        FileNotFoundError: when no quantizer is there.
        ValueError: when it names a class that is not in this library, or one of its files is broken.
    """
    directory = _find_quantizer(directory_or_repo, revision)
    name = _read_config(directory)["quantizer"]
    if name not in QUANTIZERS:
        raise ValueError(
            f"{str(directory)!r} holds a quantizer {name!r}, this genrec_hf knows {', '.join(QUANTIZERS)}: upgrade "
            "genrec_hf, or load your own class with its from_pretrained"
        )
    return quantizer_class(name).from_pretrained(directory)


def _has_type(default_type: type, value: Any) -> bool:
    """Return whether a setting has the type of its default: `"False"` would pass for true, and 1.5 for 1 epoch."""
    if default_type is tuple:
        return isinstance(value, Iterable) and not isinstance(value, str) and all(_has_type(int, one) for one in value)
    if default_type is bool or isinstance(value, bool):
        return default_type is bool and isinstance(value, bool)
    return isinstance(value, NUMBERS.get(default_type, default_type))


def _find_quantizer(directory_or_repo: str | Path, revision: str | None) -> Path:
    """Find the folder that holds a quantizer: the one named, or one of its `SUBFOLDERS`."""
    names = [name for subfolder in SUBFOLDERS for name in _files(subfolder)]
    folder = find_folder(directory_or_repo, revision, names)
    for subfolder in SUBFOLDERS:
        if (folder / subfolder / CONFIG_FILE).is_file():
            return folder / subfolder
    raise FileNotFoundError(
        f"{str(directory_or_repo)!r} holds no {CONFIG_FILE}: save a fitted quantizer there with save_pretrained"
    )


def _files(subfolder: str) -> list[str]:
    return [str(Path(subfolder) / name) for name in (CONFIG_FILE, TENSORS_FILE)]


def _read_config(directory: Path) -> dict[str, Any]:
    return read_json(directory / CONFIG_FILE, "quantizer", "embedding_size", "settings")
