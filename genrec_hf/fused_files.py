"""Reads, checks, copies and pushes the files of a fused ranker: `config.json`, folders of rankers, model card."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

from huggingface_hub.utils import filter_repo_objects

from genrec_hf.directories import MODEL_FILES, OWN_FILES, as_directory, refuse_foreign, replace_file
from genrec_hf.hub import METRICS_FILES
from genrec_hf.model_card import build_fused_card
from genrec_hf.models.sequence_models import model_type_of
from genrec_hf.repositories import LEFT_OUT_FILES, LOADED_FILES, find_folder, push_folder, read_json
from genrec_hf.semantic_ids.artefact import SUBFOLDER

MODEL_TYPE, FORMAT_VERSION = "fused", 1
CONFIG_FILE, FOLDER = "config.json", "rankers"
# Removed when a fused ranker is replaced: the rankers and the metrics of the earlier one.
STALE_FILES = (FOLDER, "README.md", *METRICS_FILES)
_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class FusedConfig:
    """Content of the `config.json` of a fused ranker.

    Args:
        items (`int`): size of the catalogue.
        catalogue (`str`): `catalogue_fingerprint` of the item ids.
        weights (`dict[str, float]`): weight of each ranker by its name, above 0.
        normalizations (`dict[str, str]`): normalization of the scores of each.
        kinds (`dict[str, str]`): what each is: the `model_type` of its config, or `"recommender"`.
        beams (`dict[str, int]`): `k` of `BeamScores`, for the rankers that score the items of their lists alone.
        dataset (`str`, *optional*): fingerprint of the data set that the weights were fitted on.

    Raises:
        ValueError: a name has other characters than letters, digits, `_` and `-`, names differ, or a value is of
            another type.
    """

    items: int
    catalogue: str
    weights: dict[str, float]
    normalizations: dict[str, str]
    kinds: dict[str, str]
    beams: dict[str, int]
    dataset: str | None = None

    def __post_init__(self) -> None:
        check_names(self.weights)
        known = set(self.weights)
        if not known or set(self.normalizations) != known or set(self.kinds) != known or not set(self.beams) <= known:
            raise ValueError(
                f"got weights of {sorted(known)}, normalizations of {sorted(self.normalizations)}, kinds of "
                f"{sorted(self.kinds)} and beams of {sorted(self.beams)}: a ranker lacks a setting; save it again"
            )
        counts = [*self.beams.values(), self.items]
        numbers = [number for number in (*self.weights.values(), *counts) if type(number) in (int, float)]
        if len(numbers) < len(self.weights) + len(counts) or not all(isfinite(n) and n > 0 for n in numbers):
            raise ValueError(f"got weights {self.weights} and counts {counts}: give finite numbers above 0")
        texts = [self.catalogue, *self.kinds.values(), *self.normalizations.values()]
        texts += [] if self.dataset is None else [self.dataset]
        if not all(isinstance(text, str) for text in texts) or not all(type(count) is int for count in counts):
            raise ValueError(f"got the counts {counts} and the texts {texts}: a value has another type; save it again")

    def as_json(self) -> dict[str, Any]:
        """Return the content of `config.json`."""
        return {"model_type": MODEL_TYPE, "format_version": FORMAT_VERSION, **asdict(self)}


def check_names(names: Mapping[str, Any] | Sequence[str]) -> None:
    """Raise if the name of a ranker cannot be the name of its folder.

    Args:
        names (`Mapping` or `Sequence`): names of rankers.

    Raises:
        ValueError: a name is empty or has other characters than letters, digits, `_` and `-`.
    """
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"got the ranker {name!r}: its name is the name of a folder too; use letters, digits, _ and - only"
            )


def read_fused_config(folder: Path) -> FusedConfig:
    """Read the `config.json` of a fused ranker.

    Args:
        folder (`Path`): a local folder.

    Returns:
        `FusedConfig`: its content.

    Raises:
        FileNotFoundError: the folder holds no fused ranker.
        ValueError: the file is broken, a later version wrote it, or a value is invalid.
    """
    if model_type_of(folder) != MODEL_TYPE:
        raise FileNotFoundError(f"{str(folder)!r} holds no {CONFIG_FILE} of a fused ranker: name the folder of one")
    path = folder / CONFIG_FILE
    names = [each.name for each in fields(FusedConfig)]
    content = read_json(path, "format_version", *names)
    if content["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{str(path)!r} has format {content['format_version']!r}, this genrec_hf reads {FORMAT_VERSION}: upgrade "
            "genrec_hf"
        )
    if not all(isinstance(content[name], dict) for name in ("weights", "normalizations", "kinds", "beams")):
        raise ValueError(f"{str(path)!r} holds no objects of weights, normalizations, kinds and beams: save it again")
    try:
        return FusedConfig(**{name: content[name] for name in names})
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error


def refuse_other_model(directory: str | Path, sources: Sequence[str | Path] = ()) -> None:
    """Raise if saving a fused ranker would replace anything else, or what it is made from.

    Args:
        directory (`str` or `Path`): folder to save to; need not exist.
        sources (`Sequence`, defaults to `()`): folders or Hub ids of the rankers.

    Raises:
        ValueError: the path is empty or a file, the directory is one of `sources`, or it holds another model.
    """
    refuse_foreign(directory, sources=[str(source) for source in sources])
    folder = as_directory(directory)
    if model_type_of(folder) == MODEL_TYPE:
        return
    patterns = (*MODEL_FILES, *OWN_FILES, CONFIG_FILE, "README.md", FOLDER)
    file = next((file for pattern in patterns for file in folder.glob(pattern)), None)
    if file is not None:
        raise ValueError(
            f"output_dir={str(directory)!r} holds {file.name}, which is not of a fused ranker and would be replaced "
            "or mixed with its files; choose another folder"
        )


def copy_ranker(source: str | Path, folder: Path) -> None:
    """Copy the files of a saved ranker that loading needs.

    Args:
        source (`str` or `Path`): output directory of a recipe, or its Hub repository.
        folder (`Path`): target; created.

    Raises:
        FileNotFoundError: there is no such folder or repository.
    """
    origin = find_folder(source)
    files = [*origin.glob("*"), *(origin / SUBFOLDER).rglob("*")]
    names = [path.relative_to(origin).as_posix() for path in files if path.is_file()]
    left_out = [*LEFT_OUT_FILES, *METRICS_FILES, "run_settings.json"]
    for name in filter_repo_objects(names, allow_patterns=LOADED_FILES, ignore_patterns=left_out):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin / name, folder / name)


def write_fused_card(directory: str | Path, repo_id: str | None = None) -> None:
    """Write the model card `README.md` of a saved fused ranker, with its metrics if it was evaluated.

    Args:
        directory (`str` or `Path`): written by `FusedRanker.save_pretrained`.
        repo_id (`str`, *optional*): Hub id that the code example of the card loads; `directory` if not given.

    Raises:
        FileNotFoundError: the directory holds no fused ranker.
        ValueError: its `config.json` or `metrics.json` is broken.
    """
    folder = as_directory(directory)
    card = build_fused_card(folder, read_fused_config(folder).as_json(), repo_id or str(directory))
    with replace_file(folder / "README.md") as partial:
        card.save(partial)


def push_fused(directory: str | Path, repo_id: str, *, private: bool | None = None) -> str:
    """Upload a saved fused ranker to the Hub, with a card for `repo_id`.

    Args:
        directory (`str` or `Path`): written by `FusedRanker.save_pretrained`, with `metrics.json` if it was evaluated.
        repo_id (`str`): Hub id `"user/name"`; the repository is created if absent.
        private (`bool`, *optional*): visibility of a new repository; the default of the account if not given.

    Returns:
        `str`: URL of the repository.

    Raises:
        FileNotFoundError: the directory holds no fused ranker.
        ValueError: `private=True`, and the repository exists and is public.
    """
    write_fused_card(directory, repo_id)
    return push_folder(directory, repo_id, message="Upload fused ranker", private=private)
