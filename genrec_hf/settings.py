"""`genrec_hf.json`: how a saved recommender is asked, and what it was trained on."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from transformers import PreTrainedTokenizerBase

from genrec_hf.repositories import find_folder, read_json
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.tasks.prompts import Form

# In a tokenizer, as its semantic ids are: what was trained so far goes with it from stage to stage.
DATA_KEY = "genrec_hf_data"
SETTINGS_FILE, FORMAT_VERSION = "genrec_hf.json", 1
TITLES_FILE = "item_titles.json"
NORMALIZATIONS = ("full", "level", "trie")


def read_settings(directory: Path) -> dict[str, Any]:
    """What a saved recommender was trained with: `max_history`, `normalization`, `markers`, `form` and more.

    Raises:
        FileNotFoundError: the directory holds no recommender.
        ValueError: a later version wrote the file, or a setting in it is missing or has a value that none can have.
    """
    file = directory / SETTINGS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{str(directory)!r} holds no {SETTINGS_FILE}: it is not the output of a training recipe, or the run "
            "never finished"
        )
    settings = read_json(file)
    version = settings.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"{str(directory)!r} has format {version}, this genrec_hf reads up to {FORMAT_VERSION}: upgrade genrec_hf"
        )
    # Files from before prompts had a form hold none, and their prompts were plain.
    settings = {"form": "plain", "titles": False, "dataset": None, "base_model_is_local": False} | settings
    for name, (is_valid, values) in _VALID.items():
        if name not in settings or not is_valid(settings[name]):
            got = repr(settings[name]) if name in settings else "nothing"
            raise ValueError(
                f"{str(file)!r} has {name}={got}, where only {values} is possible: the file was changed or is from "
                "elsewhere; take the one that was saved with these weights"
            )
    return settings


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


_VALID: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format_version": (_is_count, f"a whole number from 1 to {FORMAT_VERSION}"),
    "max_history": (_is_count, "a whole number from 1 on"),
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
    """How a saved recommender is asked: `max_history`, `normalization`, `markers`, `form` and, of these items, `titles`.

    Args:
        directory_or_repo (`str` or `Path`): output directory of a training recipe, or a Hub repository of one.
        semantic_ids (`SemanticIds`): the catalogue, for the titles in row order; `""` where an item has none.
        revision (`str`, *optional*): of the Hub repository.

    Raises:
        FileNotFoundError: no recommender is there.
        ValueError: none is named, or a file of it is broken.
    """
    if directory_or_repo is None:
        raise ValueError("model_name_or_path is not set: name the output directory of an earlier recipe")
    directory = find_folder(directory_or_repo, revision, [SETTINGS_FILE, TITLES_FILE])
    settings = read_settings(directory)
    how: dict[str, Any] = {name: settings[name] for name in ("max_history", "normalization", "markers", "form")}
    how["titles"] = read_titles(directory, semantic_ids) if settings["titles"] else None
    if settings["titles"] and how["titles"] is None:
        raise FileNotFoundError(
            f"{str(directory_or_repo)!r} was trained with titles in its prompts and holds no {TITLES_FILE}: copy "
            "it from where the recommender was saved"
        )
    return how


def read_titles(directory: Path, semantic_ids: SemanticIds) -> list[str] | None:
    """Titles of items in a saved recommender, `""` where one has none; `None` where it holds no titles."""
    if not (directory / TITLES_FILE).is_file():
        return None
    titles = read_json(directory / TITLES_FILE)
    return [titles.get(item_id, "") for item_id in semantic_ids.item_ids]


def keep_data_of(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Note in a tokenizer which data the recommender in a folder was trained on, for what is trained from it."""
    if (directory / SETTINGS_FILE).is_file():
        known = {*data_of(read_settings(directory)["dataset"]), *tokenizer.init_kwargs.get(DATA_KEY, [])}
        tokenizer.init_kwargs[DATA_KEY] = sorted(known)


def data_of(dataset: Mapping[str, Any] | None) -> list[str]:
    """Fingerprints of all data that a recommender was trained on, earlier stages included, from `dataset` as saved."""
    own = (dataset or {}).get("fingerprint")
    return [*([] if own is None else [own]), *(dataset or {}).get("earlier", [])]


def refuse_other_data(name: str | Path, trained_on: Sequence[str], dataset: Mapping[str, Any] | None) -> None:
    """Stop before a model is evaluated on events that it may have been trained on.

    Args:
        name (`str` or `Path`): of the model, for the message.
        trained_on (`Sequence[str]`): fingerprints of the data that it was trained on; none if not recorded, which
            warns.
        dataset (`Mapping`, *optional*): `InteractionData.info` of the data to evaluate on; `None` checks nothing.

    Raises:
        ValueError: it was trained on another data set, or on the same events split otherwise.
    """
    if dataset is None or dataset.get("fingerprint") is None:
        return
    if not trained_on:
        warnings.warn(
            f"{str(name)!r} does not say which data it was trained on: test events may be among them", stacklevel=3
        )
    if other := [each for each in trained_on if each != dataset["fingerprint"]]:
        raise ValueError(
            f"{str(name)!r} was trained on another data set, or on another split of this one (fingerprint "
            f"{other[0]}, this one is {dataset['fingerprint']}): it may have learnt from events of this test set; "
            "use the data_dir that it was trained on, or, if you know that it did not, set other_data: true"
        )
