"""Collaborative vectors of a data set's items, from SASRec or a file, and controls without collaborative signal."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import load_file

from genrec_hf.checks import check_choice
from genrec_hf.data.dataset import InteractionData
from genrec_hf.models.sasrec import load_sasrec
from genrec_hf.repositories import refuse_broken_safetensors

CONTROLS = ("none", "shuffled", "random")


def collaborative_vectors(
    source: str | Path,
    data: InteractionData,
    *,
    control: Literal["none", "shuffled", "random"] = "none",
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Load the collaborative vectors of a data set's items.

    An item without a training event has no vector, even if the matrix has a row for it: no interactions determine that
    row.

    Args:
        source (`str` or `Path`): output directory of `train_sasrec.py`, or a Hub repository of one, trained on this
            split of the data; or a file with a matrix `[items, vector_size]` in the data set's row order, as `.npy` or
            as the only tensor of a `.safetensors`, such as the item factors of implicit or RecTools.
        data (`InteractionData`): data set; only its training events are read.
        control (`str`, defaults to `"none"`): control condition without collaborative signal. `"shuffled"` permutes
            the vectors of the known items; `"random"` samples normal vectors with the same mean and standard deviation
            in each dimension.
        seed (`int`, defaults to 0): seed of the controls.

    Returns:
        `tuple`: vectors `[items, vector_size]`, float32, and known `[items]`, bool.

    Raises:
        FileNotFoundError: there is no `source`.
        ValueError: the source is of other items or of another split, its file is broken or holds no matrix, or the
            control is unknown.
    """
    check_choice("control", control, CONTROLS)
    vectors = _load_matrix(source, data)
    known = np.zeros(len(data.item_ids), dtype=bool)
    known[np.concatenate(data.training_sequences())] = True
    rng = np.random.default_rng(seed)
    if control == "shuffled":
        vectors[known] = vectors[known][rng.permutation(int(known.sum()))]
    elif control == "random":
        known_vectors = vectors[known]
        vectors[known] = rng.normal(known_vectors.mean(axis=0), known_vectors.std(axis=0), known_vectors.shape)
    return vectors, known


def _load_matrix(name: str | Path, data: InteractionData) -> np.ndarray:
    source = Path(name)
    if source.suffix not in (".npy", ".safetensors"):
        return load_sasrec(name, data.item_ids, dataset=data.info).item_vectors.copy()
    if not source.is_file():
        raise FileNotFoundError(
            f"there is no file {str(source)!r}: pass a matrix of vectors, or the output directory of train_sasrec.py"
        )
    if source.suffix == ".npy":
        vectors = np.load(source, allow_pickle=False)
    else:
        refuse_broken_safetensors(source)
        tensors = load_file(source)
        if len(tensors) != 1:
            raise ValueError(
                f"{str(source)!r} holds {len(tensors)} tensors: save a file with only the matrix of vectors"
            )
        (vectors,) = tensors.values()
    if vectors.ndim != 2 or len(vectors) != len(data.item_ids):
        raise ValueError(
            f"{str(source)!r} holds an array of shape {vectors.shape} for {len(data.item_ids)} items: its rows would "
            "belong to other items; save one row for each item, in the order of items.parquet"
        )
    return vectors.astype(np.float32)


def check_vectors(vectors: Any, known: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Check collaborative vectors, and convert them.

    Args:
        vectors (`np.ndarray` or `torch.Tensor`): `[items, vector_size]`.
        known (`np.ndarray` or `torch.Tensor`, *optional*): `[items]`, which items have a vector; all when `None`.

    Returns:
        `tuple`: vectors `[items, vector_size]`, float32, with zeros for unknown items, and known `[items]`, bool, both
        on the CPU.

    Raises:
        ValueError: a shape does not fit, no item is known, or a known vector has NaN or is all zeros.
    """
    matrix = torch.as_tensor(vectors).detach().float().cpu()
    if matrix.dim() != 2 or not matrix.numel():
        raise ValueError(f"got vectors of shape {tuple(matrix.shape)}: the shape must be [items, vector_size]")
    mask = torch.ones(len(matrix), dtype=torch.bool) if known is None else torch.as_tensor(known).bool().cpu()
    if mask.shape != (len(matrix),) or not mask.any():
        raise ValueError(
            f"got known of shape {tuple(mask.shape)} with {int(mask.sum())} true values for {len(matrix)} vectors: "
            "pass one value for each vector, at least one of them true"
        )
    matrix = torch.where(mask[:, None], matrix, 0)
    broken = ~matrix.isfinite().all(dim=1) | (mask & ~matrix.any(dim=1))
    if broken.any():
        raise ValueError(
            f"{int(broken.sum())} of {int(mask.sum())} known vectors hold NaN or are all zeros, the first is of item "
            f"row {int(broken.nonzero()[0])}: for an item without a vector, set known[item] = False"
        )
    return matrix, mask
