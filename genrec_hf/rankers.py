"""Loads any ranker that a recipe saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from genrec_hf.generation import SearchSettings
from genrec_hf.hub import load_recommender
from genrec_hf.models import SasRec
from genrec_hf.models.sequence_models import load_sequence_model, model_type_of
from genrec_hf.repositories import find_folder
from genrec_hf.settings import SETTINGS_FILE

# Models that rank by themselves; `load_ranker` knows them by the `model_type` in their config.json.
SEQUENCE_MODELS: tuple[type[PreTrainedModel], ...] = (SasRec,)


def load_ranker(
    directory_or_repo: str | Path,
    item_ids: Sequence[str] | None = None,
    *,
    revision: str | None = None,
    dataset: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    search: SearchSettings | None = None,
    classes: Sequence[type[PreTrainedModel]] = (),
    **model_kwargs: Any,
) -> Any:
    """Load a ranker that a recipe saved: a `Recommender`, or a model of `SEQUENCE_MODELS`.

    Args:
        directory_or_repo (`str` or `Path`): output directory of a recipe, or a Hub repository of one.
        item_ids (`Sequence[str]`, *optional*): outside id of each row that `rank` is to take and give, such as
            `InteractionData.item_ids`; the rows of the ranker itself when not given.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.
        dataset (`Mapping`, *optional*): `InteractionData.info` of the data that it is to be evaluated on; a ranker
            that was trained on other data, or another split, is refused.
        device (`str` or `torch.device`, *optional*): where it goes; the CPU, or where `device_map` puts it, when not
            given.
        search (`SearchSettings`, *optional*): how a `Recommender` searches; other rankers score every item.
        classes (`Sequence[type]`, *optional*): more models that rank, known by the `model_type` of their config; see
            `load_sequence_model` for what else it holds.
        model_kwargs: of `load_recommender` for the language model, such as `dtype`; other rankers load in float32.

    Returns:
        `Ranker`: with the method `rank`.

    Raises:
        FileNotFoundError: nothing that ranks is there.
        ValueError: it is of other items or other data, or its files are broken.
    """
    folder = find_folder(directory_or_repo, revision, ["config.json", SETTINGS_FILE])
    known = {each.config_class.model_type: each for each in (*SEQUENCE_MODELS, *classes)}  # type: ignore[union-attr]
    if (folder / SETTINGS_FILE).is_file():
        recommender = load_recommender(directory_or_repo, revision, dataset=dataset, **model_kwargs)
        recommender.search = recommender.search if search is None else search
        if device is not None:
            recommender.model.to(device)
        return recommender if item_ids is None else recommender.with_items(item_ids)
    model_class = known.get(model_type_of(folder) or "")
    if model_class is None:
        raise FileNotFoundError(
            f"{str(directory_or_repo)!r} is not the output of a training recipe: it holds neither {SETTINGS_FILE} of "
            f"a recommender nor a model of the type {' or '.join(known)}"
        )
    ranker: Any = load_sequence_model(model_class, directory_or_repo, item_ids, revision=revision, dataset=dataset)
    return ranker if device is None else ranker.to(device)
