"""Folders and Hub repositories, which users name alike: where the files of either are on this machine."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from huggingface_hub import is_offline_mode, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open

from genrec_hf.directories import PREFIX

# No pickle is in these lists, so none comes from the Hub. `*` matches inside folders too.
LOADED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
LEFT_OUT_FILES = ["checkpoint-*/*", "runs/*", "trainer_state.json", f"{PREFIX}*"]
HUB_PREFIX = "hf://"


def find_folder(name: str | Path, revision: str | None = None, patterns: Sequence[str] = tuple(LOADED_FILES)) -> Path:
    """The local folder of what a user named by path or Hub id; files of a repository are downloaded, or in the cache.

    A name that can only be a path is never looked for on the Hub: one with more or fewer parts than a Hub id, or
    whose parent folder exists. `"hf://user/name"` is always a Hub id.

    Args:
        name (`str` or `Path`): a folder, `"user/name"`, or `"user/name@revision"`.
        revision (`str`, *optional*): branch, tag or commit of the repository; `"main"` by default.
        patterns (`Sequence[str]`): files of the repository that are needed; by default settings, tokenizer, weights.

    Returns:
        `Path`: the folder; that of a repository holds the files that match `patterns`, or does not exist if none does.

    Raises:
        FileNotFoundError: there is no such folder or repository, or the Hub cannot be reached.
        ValueError: the name is empty, or a revision of a local folder is asked for.
    """
    if not isinstance(name, str | Path):
        raise ValueError(f"got {name!r}: give a folder, or the id of a Hub repository")
    name = str(name)
    folder = local_folder(name)
    if folder is not None:
        if revision not in (None, "main"):
            raise ValueError(f"got revision={revision!r} with the folder {name!r}: give it with a Hub repository only")
        return folder
    repo_id, revision = split_hub_id(name, revision)
    try:
        return Path(
            snapshot_download(
                repo_id, revision=revision, allow_patterns=list(patterns), ignore_patterns=LEFT_OUT_FILES
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(_unavailable(name, repo_id, revision, error)) from error


def local_folder(name: str) -> Path | None:
    """The folder that a name is the path of; `None` for what can be a Hub id.

    Raises:
        FileNotFoundError: it can only be a path, and no folder is there.
        ValueError: the name is empty.
    """
    if not name.strip():
        raise ValueError("got an empty name: give a folder, or the id of a Hub repository")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise FileNotFoundError(f"{name!r} is a file: name the folder that it is in")
    if not can_be_hub_id(name):
        near = get_close_matches(path.name, [each.name for each in path.parent.glob("*") if each.is_dir()], n=1)
        hint = f"did you mean {str(path.parent / near[0])!r}?" if near else "run its recipe first, or check the path"
        if is_hub_id(name):
            hint += f" (for the Hub repository of this name, write {HUB_PREFIX}{name})"
        raise FileNotFoundError(f"there is no folder {name!r}: {hint}")
    return None


def can_be_hub_id(name: str) -> bool:
    """Whether a name is looked for on the Hub where no folder has it: a Hub id whose parent is no folder here."""
    if name.startswith(HUB_PREFIX):
        return is_hub_id(name.removeprefix(HUB_PREFIX))
    return is_hub_id(name) and not ("/" in name and Path(name).parent.is_dir())


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id, `"name"` or `"user/name"`, with or without `"@revision"`."""
    try:
        validate_repo_id(name.partition("@")[0])
    except HFValidationError:
        return False
    return True


def as_loaded(name: str) -> str:
    """For `find_folder`: the name by which transformers has loaded something, a folder where there is one."""
    return name if Path(name).is_dir() or not is_hub_id(name) else HUB_PREFIX + name


def split_hub_id(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Id and revision of `"user/name"`, `"user/name@revision"` or `"hf://user/name"`.

    Raises:
        ValueError: two different revisions are named.
    """
    repo_id, _, named = name.removeprefix(HUB_PREFIX).partition("@")
    if named and revision not in (None, "main", named):
        raise ValueError(f"got {name!r} and revision={revision!r}, which are two revisions: give one")
    return repo_id, named or revision


def cached_repository(path: str) -> tuple[str, str] | None:
    """Hub id and commit of a folder in a Hub cache, `.../models--user--name/snapshots/<commit>`."""
    parts = Path(path).parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not parts[-3].startswith("models--"):
        return None
    return parts[-3].removeprefix("models--").replace("--", "/"), parts[-1]


def read_json(path: Path, *required: str) -> dict[str, Any]:
    """The object in a JSON file, with the keys that are required.

    Raises:
        ValueError: naming the file, where it is cut short, holds no object or lacks a key.
    """
    content = _parse(path)
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds no JSON object: copy it again, or save it anew")
    if missing := [key for key in required if key not in content]:
        raise ValueError(f"{str(path)!r} holds no {missing[0]!r}: copy it again from where it was saved")
    return content


@contextmanager
def naming_broken_files(folder: Path) -> Iterator[None]:
    """Name the file that is cut short or corrupt, where a library fails to read a folder and does not say which.

    Raises:
        ValueError: a JSON or safetensors file there cannot be parsed; any other error goes on as it is.
    """
    try:
        yield
    except Exception:
        refuse_broken_files(folder)
        raise


def refuse_broken_files(folder: Path) -> None:
    """Raise where a JSON or safetensors file in a folder is cut short or corrupt.

    Raises:
        ValueError: naming the first one.
    """
    for path in sorted(folder.glob("*")):
        if path.suffix == ".json":
            _parse(path)
        elif path.suffix == ".safetensors":
            refuse_broken_safetensors(path)


def refuse_broken_safetensors(path: Path) -> None:
    """Raise where a safetensors file is cut short or corrupt.

    Raises:
        ValueError: naming the file.
    """
    try:
        with safe_open(path, "numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} is no complete safetensors file ({error}): copy it again, or save it anew"
        ) from error


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also what is no UTF-8
        message = f"{str(path)!r} is no complete JSON file ({error}): copy it again, or save it anew"
        raise ValueError(message) from error


def _unavailable(name: str, repo_id: str, revision: str | None, error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return f"{name!r} is a gated repository: accept its terms on the Hub, and log in with `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return f"the Hub repository {repo_id!r} has no revision {revision!r}: check branch, tag or commit"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name!r} is neither a folder here nor a Hub repository that you can see: check the spelling, or log in "
            "with `hf auth login` if it is private"
        )
    if isinstance(error, LocalEntryNotFoundError):
        why = "HF_HUB_OFFLINE is set" if is_offline_mode() else "the Hub cannot be reached"
        return (
            f"{name!r} is neither a folder here nor complete in the Hub cache, and {why}: check the spelling, or "
            "download it while the Hub is in reach"
        )
    return f"the Hub did not give {name!r} ({str(error).splitlines()[0]}): try again later"
