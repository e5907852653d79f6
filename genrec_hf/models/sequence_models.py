"""Models that rank items without a language model: a base for fitted ones, and loading that checks the catalogue."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel

from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.item_scores import ItemScorer
from genrec_hf.repositories import find_folder, name_broken_files, read_json
from genrec_hf.settings import refuse_other_data

Model = TypeVar("Model", bound=PreTrainedModel)
CHECKPOINT_FILES = ("config.json", "*.safetensors")


class FittedRanker(ItemScorer, PreTrainedModel):
    """Base of rankers that are fitted in closed form, and saved, loaded and pushed as any model.

    A subclass has a config with `items`, `catalogue` and `dataset`, see `load_sequence_model`, and `score_batch`.
    """

    main_input_name = "input_ids"

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        config: Any = self.config
        return config.items

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the fitted tensors as they are."""


def load_sequence_model(
    model_class: type[Model],
    directory_or_repo: str | Path,
    item_ids: Sequence[str] | None = None,
    *,
    revision: str | None = None,
    dataset: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Model:
    """Load a trained model in evaluation mode, and check that it is of the given items and data.

    Args:
        model_class (`type[PreTrainedModel]`): class of the model. Its config has `items`, `catalogue`
            (`catalogue_fingerprint` of the item ids, or `None`) and `dataset` (fingerprint of the data that it was
            trained on, or `None`).
        directory_or_repo (`str` or `Path`): output directory of a recipe, or a Hub repository.
        item_ids (`Sequence[str]`, *optional*): item ids in row order, such as `InteractionData.item_ids`; without
            them, the catalogue is not checked.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.
        dataset (`Mapping[str, Any]`, *optional*): `InteractionData.info` of the data on which the model will be
            evaluated, or with which its vectors will be used; without it, the data is not checked.
        kwargs: keyword arguments of `from_pretrained`.

    Returns:
        `PreTrainedModel`: the model.

    Raises:
        FileNotFoundError: there is no model of this class.
        ValueError: it was trained on other items, the same in another order, or other data or another split than
            `dataset`; or its files are broken.
    """
    folder = find_folder(directory_or_repo, revision, list(CHECKPOINT_FILES))
    model_type = model_class.config_class.model_type  # type: ignore[union-attr]
    if model_type_of(folder) != model_type:
        raise FileNotFoundError(
            f"{str(directory_or_repo)!r} is not the output of a recipe that trains a {model_type!r} model: train one "
            "first"
        )
    with name_broken_files(folder):
        loaded: Any = model_class.from_pretrained(folder, output_loading_info=True, **kwargs)
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{str(directory_or_repo)!r} lacks weights, such as {missing[0]!r}: copy it again")
    config: Any = model.config
    fingerprint = None if item_ids is None else catalogue_fingerprint(item_ids)
    if item_ids is not None and (config.items != len(item_ids) or config.catalogue not in (None, fingerprint)):
        raise ValueError(
            f"{str(directory_or_repo)!r} knows {config.items} items (fingerprint {config.catalogue}), not these "
            f"{len(item_ids)} ({fingerprint}): its rows would belong to other items; train it on this data set"
        )
    refuse_other_data(directory_or_repo, [] if config.dataset is None else [config.dataset], dataset)
    return model.eval()


def model_type_of(folder: Path) -> str | None:
    """Return the `model_type` of the checkpoint in a folder.

    Args:
        folder (`Path`): a local folder.

    Returns:
        `str` or `None`: `None` without a `config.json`, or if it names no type.
    """
    path = folder / "config.json"
    return read_json(path).get("model_type") if path.is_file() else None
