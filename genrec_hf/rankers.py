"""Loads any ranker that a recipe saved."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.fused_files import FOLDER, MODEL_TYPE, FusedConfig, read_fused_config
from genrec_hf.fused_ranker import FusedRanker
from genrec_hf.fusion import Scores
from genrec_hf.generation import BeamScores, Recommender, SearchSettings
from genrec_hf.hub import load_recommender
from genrec_hf.models import Ease, ItemKnn, SasRec, TextKnn
from genrec_hf.models.sequence_models import load_sequence_model, model_type_of
from genrec_hf.repositories import find_folder
from genrec_hf.settings import SETTINGS_FILE, refuse_other_data

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
    """Load a ranker that a recipe saved: a `Recommender`, a model of `SEQUENCE_MODELS`, or a `FusedRanker` of these.

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
        `Ranker`: a `Recommender`, a `FusedRanker` or a model with a method `rank`.

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
    if model_type_of(folder) == MODEL_TYPE:
        settings = {"dataset": dataset, "device": device, "search": search, "classes": classes, **model_kwargs}
        return _load_fused(directory_or_repo, item_ids, revision, settings)
    model_class = known.get(model_type_of(folder) or "")
    if model_class is None:
        raise FileNotFoundError(
            f"{str(directory_or_repo)!r} is not the output of a training recipe: it holds neither {SETTINGS_FILE} of "
            f"a recommender nor a model of the type {' or '.join([*known, MODEL_TYPE])}"
        )
    ranker: Any = load_sequence_model(model_class, directory_or_repo, item_ids, revision=revision, dataset=dataset)
    return ranker if device is None else ranker.to(device)


def _load_fused(
    directory_or_repo: str | Path, item_ids: Sequence[str] | None, revision: str | None, settings: dict[str, Any]
) -> FusedRanker:
    """Load a fused ranker, each of its rankers with the given settings of `load_ranker`."""
    folder = find_folder(directory_or_repo, revision)
    config = read_fused_config(folder)
    if item_ids is not None and config.catalogue != catalogue_fingerprint(item_ids):
        raise ValueError(
            f"{str(directory_or_repo)!r} knows {config.items} items (fingerprint {config.catalogue}), not these "
            f"{len(item_ids)} ({catalogue_fingerprint(item_ids)}): its rows would belong to other items; fuse its "
            "rankers for this data set"
        )
    refuse_other_data(directory_or_repo, [] if config.dataset is None else [config.dataset], settings["dataset"])
    sources = {name: folder / FOLDER / name for name in config.weights}
    rankers = {name: _load_scores(source, item_ids, config, settings) for name, source in sources.items()}
    return FusedRanker(
        rankers,
        config.weights,
        config.normalizations,
        catalogue=config.catalogue,
        dataset=config.dataset,
        sources=sources,
    )


def _load_scores(
    folder: Path, item_ids: Sequence[str] | None, config: FusedConfig, settings: Mapping[str, Any]
) -> Scores:
    """Load one of the rankers of a fused one."""
    k, search = config.beams.get(folder.name), settings["search"]
    if k is not None:
        search = replace(search or SearchSettings(), num_beams=max(k, (search and search.num_beams) or k))
    ranker: Any = load_ranker(folder, item_ids, **{**settings, "search": search})
    if item_ids is None and isinstance(ranker, Recommender):
        fingerprint = catalogue_fingerprint(ranker.semantic_ids.item_ids)
        if fingerprint != config.catalogue:
            raise ValueError(
                f"{str(folder)!r} has its items in another order (fingerprint {fingerprint}) than the fused ranker "
                f"({config.catalogue}): a row would stand for another item; pass item_ids"
            )
    return ranker if k is None else BeamScores(ranker, k)
