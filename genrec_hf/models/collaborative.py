"""Collaborative vectors of a data set's items, from SASRec or a file, and the controls that carry no signal."""

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
    """Vectors of a data set's items, and which items have one.

    Items without a training event have none, whatever stands in the matrix: nobody's behaviour made it.

    Args:
        source (`str` or `Path`): output directory of `train_sasrec.py`, or a Hub repository of one, trained on this
            split of the data; or a matrix `[items, d]` in the data set's row
            order, as `.npy` or as the one tensor of a `.safetensors`, from implicit, RecTools or anything else.
        data (`InteractionData`): the data set; its training events alone are looked at.
        control (`str`, defaults to `"none"`): `"shuffled"` gives known items each other's vectors, `"random"` normal
            ones of the same mean and spread: what a model gains with these is not collaborative.
        seed (`int`, defaults to 0): of the controls.

    Returns:
        `tuple`: vectors `[items, d]`, float32, and known `[items]`, bool.

    Raises:
        FileNotFoundError: nothing is at `source`.
        ValueError: it is of other items, or no matrix; or the control is not known.
    """
    check_choice("control", control, CONTROLS)
    vectors = _read(source, data)
    known = np.zeros(len(data.item_ids), dtype=bool)
    known[np.concatenate(data.training_sequences())] = True
    rng = np.random.default_rng(seed)
    if control == "shuffled":
        vectors[known] = vectors[known][rng.permutation(int(known.sum()))]
    elif control == "random":
        told = vectors[known]
        vectors[known] = rng.normal(told.mean(axis=0), told.std(axis=0), told.shape)
    return vectors, known


def _read(name: str | Path, data: InteractionData) -> np.ndarray:
    source = Path(name)
    if source.suffix not in (".npy", ".safetensors"):
        return load_sasrec(name, data.item_ids, dataset=data.info).item_vectors.copy()
    if not source.is_file():
        raise FileNotFoundError(f"{str(source)!r} is not there: name a matrix, or the output of train_sasrec.py")
    if source.suffix == ".npy":
        vectors = np.load(source, allow_pickle=False)
    else:
        refuse_broken_safetensors(source)
        tensors = load_file(source)
        if len(tensors) != 1:
            raise ValueError(f"{str(source)!r} holds {len(tensors)} tensors; save the matrix of vectors alone")
        (vectors,) = tensors.values()
    if vectors.ndim != 2 or len(vectors) != len(data.item_ids):
        raise ValueError(
            f"{str(source)!r} holds a matrix {vectors.shape} for {len(data.item_ids)} items: its rows would stand for "
            "other items; give one row an item, in the order of items.parquet"
        )
    return vectors.astype(np.float32)


def check_vectors(vectors: Any, known: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors `[items, d]`, float32, and known `[items]`, bool, on the CPU; the rows of unknown items are zeros.

    Raises:
        ValueError: on a matrix of another shape, one with NaN or zeros where a vector is known, or none known.
    """
    matrix = torch.as_tensor(vectors).detach().float().cpu()
    if matrix.dim() != 2 or not matrix.numel():
        raise ValueError(f"got vectors of shape {tuple(matrix.shape)}; give [items, vector_size], a row an item")
    mask = torch.ones(len(matrix), dtype=torch.bool) if known is None else torch.as_tensor(known).bool().cpu()
    if mask.shape != (len(matrix),) or not mask.any():
        raise ValueError(f"got known of shape {tuple(mask.shape)}, {int(mask.sum())} true, for {len(matrix)} vectors")
    matrix = torch.where(mask[:, None], matrix, 0)
    broken = ~matrix.isfinite().all(dim=1) | (mask & ~matrix.any(dim=1))
    if broken.any():
        raise ValueError(
            f"{int(broken.sum())} of {int(mask.sum())} known vectors hold NaN or are all zeros, the first is of item "
            f"row {int(broken.nonzero()[0])}: an item without a vector must be said to be one, by known[item] = False"
        )
    return matrix, mask
