"""The file of codes and outside ids, safetensors: nothing of it becomes a Python object an item."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from genrec_hf.repositories import refuse_broken_safetensors
from genrec_hf.semantic_ids.id_array import IdArray

CODES_FILE = "codes.safetensors"
ID_TENSORS = ("item_ids.bytes", "item_ids.offsets")


def write_catalogue(partial: Path, codes: np.ndarray, item_ids: IdArray) -> None:
    """Write codes as int32 `[items, levels]`, and ids as UTF-8 bytes and offsets `[items + 1]` into them."""
    ids = dict(zip(ID_TENSORS, item_ids.tensors(), strict=True))
    save_file({"codes": codes.astype(np.int32), **ids}, partial / CODES_FILE)


def read_catalogue(directory: Path, listed: Sequence[str] | None = None) -> tuple[np.ndarray, IdArray]:
    """Codes and ids.

    Args:
        directory (`Path`): where the file is.
        listed (`Sequence[str]`, *optional*): ids from elsewhere, where the file has none: earlier versions wrote them
            into the settings.

    Raises:
        ValueError: when the file is broken, or lacks what is asked for.
    """
    file = directory / CODES_FILE
    refuse_broken_safetensors(file)
    with safe_open(file, "numpy") as tensors:
        names = ["codes", *(ID_TENSORS if listed is None else ())]
        lacking = [name for name in names if name not in tensors.keys()]  # noqa: SIM118 - no mapping
        if lacking:
            raise ValueError(
                f"{str(file)!r} holds no {lacking[0]!r}: it and the settings beside it do not belong together; copy "
                "both from one save"
            )
        codes, *ids = map(tensors.get_tensor, names)
    if listed is not None:
        return codes, IdArray.read(listed)
    try:
        return codes, IdArray.from_tensors(*ids)
    except ValueError as error:  # pyarrow's too
        raise ValueError(f"{str(file)!r} holds item ids that are no text ({error}): copy it again") from error
