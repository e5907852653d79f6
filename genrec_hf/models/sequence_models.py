"""Loads models that rank the rows of one catalogue by themselves, such as `SasRec`, for the items that are meant."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel

from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.repositories import find_folder, naming_broken_files, read_json
from genrec_hf.settings import refuse_other_data

Model = TypeVar("Model", bound=PreTrainedModel)
CHECKPOINT_FILES = ("config.json", "*.safetensors")


def load_sequence_model(
    model_class: type[Model],
    directory_or_repo: str | Path,
    item_ids: Sequence[str] | None = None,
    *,
    revision: str | None = None,
    dataset: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Model:
    """A trained model in evaluation mode.

    Args:
        model_class (`type`): of the model; its config has `items`, `catalogue` (`catalogue_fingerprint` of the item
            ids) and `dataset` (fingerprint of the data that it was trained on), the last two perhaps `None`.
        directory_or_repo (`str` or `Path`): where a recipe saved it, or a Hub repository.
        item_ids (`Sequence[str]`, *optional*): outside ids in row order, as `InteractionData.item_ids`; without them
            nothing checks that its rows stand for the items that are meant.
        revision (`str`, *optional*): of the Hub repository.
        dataset (`Mapping`, *optional*): `InteractionData.info` of what it is to be evaluated on, or vectors of it are
            to be trained with; a model that was trained on other data, or another split, is refused.
        kwargs: of `from_pretrained`.

    Raises:
        FileNotFoundError: no model is there.
        ValueError: it was trained on other items, on these in another order, or on other data than `dataset`; or its
            files are broken.
    """
    folder = find_folder(directory_or_repo, revision, list(CHECKPOINT_FILES))
    wanted = model_class.config_class.model_type  # type: ignore[union-attr]
    if model_type_of(folder) != wanted:
        raise FileNotFoundError(
            f"{str(directory_or_repo)!r} is not the output of a recipe that trains a {wanted!r} model: train one first"
        )
    with naming_broken_files(folder):
        loaded: Any = model_class.from_pretrained(folder, output_loading_info=True, **kwargs)
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{str(directory_or_repo)!r} lacks weights, such as {missing[0]!r}: copy it again")
    config: Any = model.config
    ours = None if item_ids is None else catalogue_fingerprint(item_ids)
    if item_ids is not None and (config.items != len(item_ids) or config.catalogue not in (None, ours)):
        raise ValueError(
            f"{str(directory_or_repo)!r} knows {config.items} items (fingerprint {config.catalogue}), not "
            f"these {len(item_ids)} ({ours}): its rows would stand for other items; train it on this data set"
        )
    refuse_other_data(directory_or_repo, [] if config.dataset is None else [config.dataset], dataset)
    return model.eval()


def model_type_of(folder: Path) -> str | None:
    """`model_type` of the checkpoint in a folder; `None` where there is none."""
    path = folder / "config.json"
    return read_json(path).get("model_type") if path.is_file() else None
