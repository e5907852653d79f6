"""Finds the local folder of a path or Hub id, reads JSON and safetensors files in it, and uploads folders."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, is_offline_mode, snapshot_download
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

# These patterns match no pickle files, so none is downloaded from the Hub. `*` matches files in subfolders too.
LOADED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
# The list has no pickles, so none is uploaded.
PUSHED_FILES = [*LOADED_FILES, "*.md", "*.png"]
LEFT_OUT_FILES = ["checkpoint-*/*", "runs/*", "trainer_state.json", f"{PREFIX}*"]
HUB_PREFIX = "hf://"


def find_folder(name: str | Path, revision: str | None = None, patterns: Sequence[str] = tuple(LOADED_FILES)) -> Path:
    """Return the local folder of a path or Hub id; the files of a repository are downloaded if not in the cache.

    A local folder takes precedence over a Hub repository of the same name. A name that can only be a path is not
    requested from the Hub: one that does not have the form of a Hub id, or whose parent folder exists.
    `"hf://user/name"` is always a Hub id.

    Args:
        name (`str` or `Path`): a folder, `"user/name"`, or `"user/name@revision"`.
        revision (`str`, *optional*): branch, tag or commit of the repository; `"main"` by default.
        patterns (`Sequence[str]`, defaults to `LOADED_FILES`): patterns of the files of the repository to download; by
            default settings, tokenizer and weights.

    Returns:
        `Path`: the folder. That of a repository holds the files that match `patterns`; it does not exist if none does.

    Raises:
        FileNotFoundError: there is no such folder or repository, or the Hub cannot be reached.
        ValueError: the name is empty, is neither text nor a path, or has two revisions; or `revision` is set for a
            local folder.
    """
    if not isinstance(name, str | Path):
        raise ValueError(f"got {name!r}: give a folder, or the id of a Hub repository")
    name = str(name)
    folder = local_folder(name)
    if folder is not None:
        if revision not in (None, "main"):
            raise ValueError(
                f"got revision={revision!r} with the folder {name!r}, which has no revisions: leave revision out"
            )
        return folder
    repo_id, revision = split_hub_id(name, revision)
    try:
        return Path(
            snapshot_download(
                repo_id, revision=revision, allow_patterns=list(patterns), ignore_patterns=LEFT_OUT_FILES
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(_unavailable_message(name, repo_id, revision, error)) from error


def push_folder(folder: str | Path, repo_id: str, *, message: str, private: bool | None = None) -> str:
    """Upload a folder to the Hub, without checkpoints, logs and pickles.

    Args:
        folder (`str` or `Path`): output directory of a recipe.
        repo_id (`str`): Hub id `"user/name"`; the repository is created if absent.
        message (`str`): message of the commit.
        private (`bool`, *optional*): visibility of a new repository; the default of the account if not given.

    Returns:
        `str`: URL of the repository.

    Raises:
        ValueError: `private=True`, and the repository exists and is public.
    """
    api = HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    if private and not api.repo_info(repo_id).private:
        raise ValueError(
            f"got private=True for {repo_id!r}, which exists and is public, so nothing was uploaded: choose another "
            "repo_id"
        )
    api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        allow_patterns=PUSHED_FILES,
        ignore_patterns=list(LEFT_OUT_FILES),
        commit_message=message,
    )
    return str(url)


def local_folder(name: str) -> Path | None:
    """Return the local folder that a name is the path of, or `None` if the name can be a Hub id.

    Args:
        name (`str`): a path or a Hub id.

    Returns:
        `Path` or `None`: an existing folder.

    Raises:
        FileNotFoundError: the name can only be a path and there is no folder, or it is a file.
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
        folders = [each.name for each in path.parent.glob("*") if each.is_dir()]
        similar = get_close_matches(path.name, folders, n=1)
        hint = "run its recipe first, or check the path"
        if similar:
            hint = f"did you mean {str(path.parent / similar[0])!r}?"
        if is_hub_id(name):
            hint += f" (for the Hub repository of this name, write {HUB_PREFIX}{name})"
        raise FileNotFoundError(f"there is no folder {name!r}: {hint}")
    return None


def can_be_hub_id(name: str) -> bool:
    """Return whether a name that is not a local folder is requested from the Hub.

    Args:
        name (`str`): a path or a Hub id.

    Returns:
        `bool`: true for `"hf://user/name"`, and for a Hub id whose part before `/` is not a local folder.
    """
    if name.startswith(HUB_PREFIX):
        return is_hub_id(name.removeprefix(HUB_PREFIX))
    return is_hub_id(name) and not ("/" in name and Path(name).parent.is_dir())


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of a Hub id, `"name"` or `"user/name"`, with or without `"@revision"`.

    Args:
        name (`str`): any text.

    Returns:
        `bool`: whether it does.
    """
    try:
        validate_repo_id(name.partition("@")[0])
    except HFValidationError:
        return False
    return True


def name_to_load(name: str) -> str:
    """Return the name for `find_folder` of something that transformers has loaded by `name`.

    transformers takes a local folder first, and otherwise always the Hub.

    Args:
        name (`str`): name or path that was passed to transformers.

    Returns:
        `str`: `name` if it is a local folder or no Hub id, otherwise `"hf://"` and `name`.
    """
    return name if Path(name).is_dir() or not is_hub_id(name) else HUB_PREFIX + name


def split_hub_id(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Split `"user/name"`, `"user/name@revision"` or `"hf://user/name"` into id and revision.

    Args:
        name (`str`): Hub id, with or without prefix and revision.
        revision (`str`, *optional*): revision if `name` has none.

    Returns:
        `tuple[str, str | None]`: Hub id, and revision.

    Raises:
        ValueError: `name` and `revision` are two different revisions.
    """
    repo_id, _, revision_in_name = name.removeprefix(HUB_PREFIX).partition("@")
    if revision_in_name and revision not in (None, "main", revision_in_name):
        raise ValueError(f"got {name!r} and revision={revision!r}, which are two revisions: give one")
    return repo_id, revision_in_name or revision


def cached_repository(path: str) -> tuple[str, str] | None:
    """Return Hub id and commit of a folder in a Hub cache, `.../models--user--name/snapshots/<commit>`.

    Args:
        path (`str`): any path.

    Returns:
        `tuple[str, str]` or `None`: Hub id and commit; `None` if the folder is not in a Hub cache.
    """
    parts = Path(path).parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not parts[-3].startswith("models--"):
        return None
    return parts[-3].removeprefix("models--").replace("--", "/"), parts[-1]


def read_json(path: Path, *required: str) -> dict[str, Any]:
    """Read the object in a JSON file and check that it has the required keys.

    Args:
        path (`Path`): the file.
        required (`str`): keys that the object must have.

    Returns:
        `dict`: the object.

    Raises:
        ValueError: the file is truncated or not JSON, holds no object, or lacks a key. The error names the file.
    """
    content = _parse(path)
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds no JSON object: copy it again, or save it again")
    if missing := [key for key in required if key not in content]:
        raise ValueError(f"{str(path)!r} holds no {missing[0]!r}: copy it again from where it was saved")
    return content


@contextmanager
def name_broken_files(folder: Path) -> Iterator[None]:
    """Name the truncated or corrupt file if the block, which reads a folder with a library, raises.

    Args:
        folder (`Path`): folder that the block reads.

    Raises:
        ValueError: the block raised, and a JSON or safetensors file of the folder cannot be parsed. If all can be
            parsed, the error of the block is raised unchanged.
    """
    try:
        yield
    except Exception:
        refuse_broken_files(folder)
        raise


def refuse_broken_files(folder: Path) -> None:
    """Raise if a JSON or safetensors file in a folder is truncated or corrupt.

    Args:
        folder (`Path`): the folder; subfolders are not checked.

    Raises:
        ValueError: a file cannot be parsed. The error names the first one.
    """
    for path in sorted(folder.glob("*")):
        if path.suffix == ".json":
            _parse(path)
        elif path.suffix == ".safetensors":
            refuse_broken_safetensors(path)


def refuse_broken_safetensors(path: Path) -> None:
    """Raise if a safetensors file is truncated or corrupt.

    Args:
        path (`Path`): the file.

    Raises:
        ValueError: the file cannot be parsed. The error names it.
    """
    try:
        with safe_open(path, "numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} is not a complete safetensors file ({error}): copy it again, or save it again"
        ) from error


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also raised where it is not UTF-8
        raise ValueError(
            f"{str(path)!r} is not a complete JSON file ({error}): copy it again, or save it again"
        ) from error


def _unavailable_message(name: str, repo_id: str, revision: str | None, error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return f"{name!r} is a gated repository: accept its terms on the Hub, and log in with `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return f"the Hub repository {repo_id!r} has no revision {revision!r}: check branch, tag or commit"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name!r} is neither a folder here nor a Hub repository that you can access: check the spelling, or log "
            "in with `hf auth login` if it is private"
        )
    if isinstance(error, LocalEntryNotFoundError):
        reason = "HF_HUB_OFFLINE is set" if is_offline_mode() else "the Hub cannot be reached"
        return (
            f"{name!r} is neither a folder here nor complete in the Hub cache, and {reason}: check the spelling, or "
            "download it while the Hub can be reached"
        )
    return f"the Hub could not provide {name!r} ({str(error).splitlines()[0]}): try again later"
