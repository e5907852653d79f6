"""Loads any ranker that a recipe saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from genrec_hf.generation import SearchSettings
from genrec_hf.hub import load_recommender
from genrec_hf.models import Ease, ItemKnn, SasRec, TextKnn
from genrec_hf.models.sequence_models import load_sequence_model, model_type_of
from genrec_hf.repositories import find_folder
from genrec_hf.settings import SETTINGS_FILE

# Models with a method `rank`; `load_ranker` recognizes them by the `model_type` in their config.json.
SEQUENCE_MODELS: tuple[type[PreTrainedModel], ...] = (SasRec, ItemKnn, TextKnn, Ease)


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
        directory_or_repo (`str` or `Path`): output directory of a recipe, or its Hub repository.
        item_ids (`Sequence[str]`, *optional*): item id of each row that `rank` accepts and returns, such as
            `InteractionData.item_ids`; the rows of the ranker when not given.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.
        dataset (`Mapping`, *optional*): `InteractionData.info` of the data to evaluate on. A ranker that was trained
            on other data, or on another split, is refused. Not checked when not given.
        device (`str` or `torch.device`, *optional*): device of the model; the CPU, or the devices of `device_map`,
            when not given.
        search (`SearchSettings`, *optional*): settings of the beam search of a `Recommender`; other rankers score
            every item.
        classes (`Sequence[type]`, *optional*): further model classes with a method `rank`, recognized by the
            `model_type` of their config; see `load_sequence_model` for what else they need.
        model_kwargs: arguments of `load_recommender` for the language model, such as `dtype`; other rankers are loaded
            in float32.

    Returns:
        `Ranker`: a `Recommender` or a model with a method `rank`.

    Raises:
        FileNotFoundError: the directory or repository holds no ranker.
        ValueError: the ranker is for other items or other data, or its files are invalid.
    """
    folder = find_folder(directory_or_repo, revision, ["config.json", SETTINGS_FILE])
    known = {model.config_class.model_type: model for model in (*SEQUENCE_MODELS, *classes)}  # type: ignore[union-attr]
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
