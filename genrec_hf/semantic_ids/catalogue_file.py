"""Finds, reads and writes the safetensors file of codes and outside ids, without a Python object per item."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from genrec_hf.repositories import find_folder, refuse_broken_safetensors
from genrec_hf.semantic_ids.id_array import IdArray

CODES_FILE, CONFIG_FILE = "codes.safetensors", "semantic_ids.json"
# Subfolder of semantic ids in a data directory or a recommender's repository.
SUBFOLDER = "semantic_ids"
ID_TENSORS = ("item_ids.bytes", "item_ids.offsets")


def find_catalogue(directory_or_repo: str | Path, revision: str | None, other_files: Sequence[str]) -> Path:
    """Find the directory that holds semantic ids, downloading them from the Hub if necessary.

    Args:
        directory_or_repo (`str` or `Path`): directory or Hub repository, or one with a subfolder `semantic_ids/`.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.
        other_files (`Sequence[str]`): patterns of other files to download from the directory of the semantic ids.

    Returns:
        `Path`: the directory that holds `semantic_ids.json`.

    Raises:
        FileNotFoundError: when there is none.
    """
    names = [CODES_FILE, CONFIG_FILE, *other_files]
    folder = find_folder(directory_or_repo, revision, [*names, *(f"{SUBFOLDER}/{name}" for name in names)])
    for directory in (folder, folder / SUBFOLDER):
        if (directory / CONFIG_FILE).exists():
            return directory
    raise FileNotFoundError(
        f"{str(directory_or_repo)!r} holds no {CONFIG_FILE}, and neither does its subfolder {SUBFOLDER}/: build "
        "semantic ids first (recipes/build_sids.py)"
    )


def write_catalogue(partial: Path, codes: np.ndarray, item_ids: IdArray) -> None:
    """Write codes as int32 `[items, levels]`, and ids as UTF-8 bytes and offsets `[items + 1]` into them.

    Args:
        partial (`Path`): directory to write `codes.safetensors` into.
        codes (`np.ndarray`): `[items, levels]`.
        item_ids (`IdArray`): outside ids in row order.
    """
    ids = dict(zip(ID_TENSORS, item_ids.tensors(), strict=True))
    save_file({"codes": codes.astype(np.int32), **ids}, partial / CODES_FILE)


def read_catalogue(directory: Path, listed: Sequence[str] | None = None) -> tuple[np.ndarray, IdArray]:
    """Read codes and outside ids.

    Args:
        directory (`Path`): directory that holds `codes.safetensors`.
        listed (`Sequence[str]`, *optional*): ids from `semantic_ids.json`, where earlier versions wrote them; given,
            the ids in `codes.safetensors` are not read.

    Returns:
        `tuple[np.ndarray, IdArray]`: codes `[items, levels]`, and ids in row order.

    Raises:
        ValueError: when the file is broken, lacks a tensor, or holds ids that are not text.
    """
    file = directory / CODES_FILE
    refuse_broken_safetensors(file)
    with safe_open(file, "numpy") as tensors:
        names = ["codes", *(ID_TENSORS if listed is None else ())]
        missing = [name for name in names if name not in tensors.keys()]  # noqa: SIM118 - not a mapping
        if missing:
            raise ValueError(
                f"{str(file)!r} holds no {missing[0]!r}, so it and {CONFIG_FILE} do not belong together: copy "
                "both from one save"
            )
        codes, *ids = map(tensors.get_tensor, names)
    if listed is not None:
        return codes, IdArray.read(listed)
    try:
        return codes, IdArray.from_tensors(*ids)
    except ValueError as error:  # the errors of pyarrow are ValueErrors, too
        raise ValueError(f"{str(file)!r} holds item ids that are not text ({error}): copy it again") from error
