"""Reads `genrec_hf.json` of a saved recommender: the settings of its prompts, and the data it was trained on."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from transformers import PreTrainedTokenizerBase

from genrec_hf.repositories import find_folder, read_json
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.tasks.prompts import Form

# Key in `init_kwargs` of a tokenizer: fingerprints of the training data, which are passed on from stage to stage with
# the tokenizer, as the semantic IDs are.
DATA_KEY = "genrec_hf_data"
SETTINGS_FILE, FORMAT_VERSION = "genrec_hf.json", 1
TITLES_FILE = "item_titles.json"
NORMALIZATIONS = ("full", "level", "trie")


def read_settings(directory: Path) -> dict[str, Any]:
    """Read the settings of a saved recommender: `max_history`, `normalization`, `markers`, `form` and more.

    Args:
        directory (`Path`): output directory of a training recipe.

    Returns:
        `dict`: the settings by name, all present and of a valid value.

    Raises:
        FileNotFoundError: the directory holds no recommender.
        ValueError: the file is not JSON, was written by a later version, or a setting is missing or has an invalid
            value.
    """
    file = directory / SETTINGS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{str(directory)!r} holds no {SETTINGS_FILE}: it is not the output of a training recipe, or the run did "
            "not finish; name the output_dir of a finished run"
        )
    settings = read_json(file)
    version = settings.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"{str(directory)!r} has format {version}, this genrec_hf reads up to {FORMAT_VERSION}: upgrade genrec_hf"
        )
    # Files of earlier versions lack these settings; these defaults are what they used.
    settings = {"form": "plain", "titles": False, "dataset": None, "base_model_is_local": False} | settings
    for name, (is_valid, values) in _VALID.items():
        if name not in settings or not is_valid(settings[name]):
            got = repr(settings[name]) if name in settings else "nothing"
            raise ValueError(
                f"{str(file)!r} has {name}={got}, where only {values} is possible: the file was changed or belongs to "
                "another model; copy the file that was saved with these weights"
            )
    return settings


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


_VALID: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format_version": (_is_count, f"a whole number from 1 to {FORMAT_VERSION}"),
    "max_history": (_is_count, "a whole number of at least 1"),
    "normalization": (NORMALIZATIONS.__contains__, "'full', 'level' or 'trie'"),
    "markers": (_is_bool, "true or false"),
    "form": (get_args(Form).__contains__, "'plain' or 'chat'"),
    "titles": (_is_bool, "true or false"),
    "base_model": (lambda value: value is None or isinstance(value, str), "a text or null"),
    "base_model_is_local": (_is_bool, "true or false"),
    "dataset": (lambda value: value is None or isinstance(value, dict), "an object or null"),
}


def read_prompting(
    directory_or_repo: str | Path | None, semantic_ids: SemanticIds, revision: str | None = None
) -> dict[str, Any]:
    """Read the settings of a saved recommender that its prompts depend on.

    Args:
        directory_or_repo (`str` or `Path`): output directory of a training recipe, or a Hub repository of one.
        semantic_ids (`SemanticIds`): the catalogue, for the titles.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.

    Returns:
        `dict`: `max_history`, `normalization`, `markers`, `form` and `titles`. `titles` is `None` if prompts have no
        titles; otherwise `[items]` in row order, `""` for an item without a title.

    Raises:
        FileNotFoundError: there is no recommender, or its titles are missing.
        ValueError: `directory_or_repo` is `None`, or a file of the recommender is invalid.
    """
    if directory_or_repo is None:
        raise ValueError("model_name_or_path is not set: name the output directory of an earlier recipe")
    directory = find_folder(directory_or_repo, revision, [SETTINGS_FILE, TITLES_FILE])
    settings = read_settings(directory)
    prompting: dict[str, Any] = {name: settings[name] for name in ("max_history", "normalization", "markers", "form")}
    prompting["titles"] = read_titles(directory, semantic_ids) if settings["titles"] else None
    if settings["titles"] and prompting["titles"] is None:
        raise FileNotFoundError(
            f"{str(directory_or_repo)!r} was trained with titles in its prompts and holds no {TITLES_FILE}: copy "
            "it from where the recommender was saved"
        )
    return prompting


def read_titles(directory: Path, semantic_ids: SemanticIds) -> list[str] | None:
    """Read the titles of the items from a saved recommender.

    Args:
        directory (`Path`): output directory of a training recipe.
        semantic_ids (`SemanticIds`): the catalogue.

    Returns:
        `list[str]` or `None`: `[items]` in row order, `""` for an item without a title; `None` if the recommender
        holds no titles.

    Raises:
        ValueError: the file is not JSON.
    """
    if not (directory / TITLES_FILE).is_file():
        return None
    titles = read_json(directory / TITLES_FILE)
    return [titles.get(item_id, "") for item_id in semantic_ids.item_ids]


def record_data(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Add the fingerprints of the data that a saved recommender was trained on to its tokenizer.

    Models that are trained from the recommender save them with the tokenizer.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): tokenizer of the recommender; `init_kwargs` is changed in place.
        directory (`Path`): folder of the recommender; nothing is changed if it holds no settings.

    Raises:
        ValueError: the settings of the recommender are invalid, see `read_settings`.
    """
    if (directory / SETTINGS_FILE).is_file():
        fingerprints = {
            *data_fingerprints(read_settings(directory)["dataset"]),
            *tokenizer.init_kwargs.get(DATA_KEY, []),
        }
        tokenizer.init_kwargs[DATA_KEY] = sorted(fingerprints)


def data_fingerprints(dataset: Mapping[str, Any] | None) -> list[str]:
    """Return the fingerprints of all data that a recommender was trained on, including earlier stages.

    Args:
        dataset (`Mapping`, *optional*): setting `dataset` of a saved recommender.

    Returns:
        `list[str]`: fingerprints, the last stage first; empty if not recorded.
    """
    last = (dataset or {}).get("fingerprint")
    return [*([] if last is None else [last]), *(dataset or {}).get("earlier", [])]


def refuse_other_data(name: str | Path, trained_on: Sequence[str], dataset: Mapping[str, Any] | None) -> None:
    """Raise if a model to evaluate was trained on other data than the test data, as it may have seen test events.

    Args:
        name (`str` or `Path`): name of the model, for the message.
        trained_on (`Sequence[str]`): fingerprints of the data that it was trained on; empty if not recorded, which
            gives a warning.
        dataset (`Mapping`, *optional*): `InteractionData.info` of the data to evaluate on; `None` checks nothing.

    Raises:
        ValueError: the model was trained on another data set, or on another split of the same events.
    """
    if dataset is None or dataset.get("fingerprint") is None:
        return
    if not trained_on:
        warnings.warn(
            f"{str(name)!r} does not say which data it was trained on: if test events were among them, the metrics "
            "are too high; check that they were not",
            stacklevel=3,
        )
    if other := [fingerprint for fingerprint in trained_on if fingerprint != dataset["fingerprint"]]:
        raise ValueError(
            f"{str(name)!r} was trained on another data set, or on another split of this one (fingerprint "
            f"{other[0]}, this one is {dataset['fingerprint']}): it may have learned from events of this test set; "
            "use the data_dir that it was trained on, or, if you know that it did not, set other_data: true"
        )
