"""Checks output directories, locks them for one run at a time, and writes files completely or not at all."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

# Prefix of temporary files and folders. They are never pushed, and leftovers are recognized by it.
PREFIX = ".genrec_hf-"
LOCK_FILE = ".genrec_hf.lock"
# Written when a recommender is saved, and when a training run starts: a directory with one of these is ours.
OWN_FILES = ("genrec_hf.json", "run_settings.json")
MODEL_FILES = (
    "model*.safetensors*",
    "adapter_model.*",
    "pytorch_model*.bin*",
    "consolidated*.pth",
    "consolidated*.safetensors",
    "*.gguf",
    "tf_model.h5",
    "flax_model.msgpack",
)
# Files next to the weights in a folder of transformers, which saving a model replaces.
CHECKPOINT_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
# Environment variables in which torchrun and MPI pass the rank of a process.
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
# Directories that this process has locked, and whether a killed run left its lock file there.
_held: dict[Path, bool] = {}


def as_directory(path: str | os.PathLike[str], name: str = "output_dir") -> Path:
    """Check the path of a directory to read or write; it need not exist.

    Args:
        path (`str` or `Path`): path as the user typed it.
        name (`str`, defaults to `"output_dir"`): name of the argument, for the error.

    Returns:
        `Path`: the same path.

    Raises:
        ValueError: the path is empty, which would mean the current directory, or it or a parent is a file.
    """
    if not str(path).strip():
        raise ValueError(f"got {name}={str(path)!r}, which would mean the current directory; name a folder")
    directory = Path(path)
    file = next((parent for parent in (directory, *directory.parents) if parent.is_file()), None)
    if file is not None:
        raise ValueError(f"got {name}={str(path)!r}, but {str(file)!r} is a file; name a folder")
    return directory


def refuse_foreign(
    path: str | os.PathLike[str],
    name: str = "output_dir",
    replaced: Sequence[str] = (),
    *,
    sources: Sequence[str | None] = (),
) -> None:
    """Raise if a directory to write to is an input of the run, or holds a model that genrec_hf did not write.

    A directory was written by genrec_hf if it holds one of `OWN_FILES`, or the lock file of a killed run.

    Args:
        path (`str` or `Path`): the directory; need not exist.
        name (`str`, defaults to `"output_dir"`): name of the argument, for the error.
        replaced (`Sequence[str]`, defaults to `()`): patterns of further files that would be replaced, which may not
            be in a foreign directory either.
        sources (`Sequence[str]`, defaults to `()`): folders or Hub ids that the run reads, such as the model it starts
            from and its base model.

    Raises:
        ValueError: the path is empty or a file, the directory is one of `sources`, or it holds weights or `replaced`
            files and genrec_hf did not write it.
    """
    directory = as_directory(path, name)
    for source in sources:
        if source and Path(source).exists() and directory.exists() and directory.samefile(source):
            raise ValueError(
                f"{name}={str(path)!r} is {source!r}, which the run reads and would replace; choose another folder"
            )
    if _is_ours(directory) or _held.get(directory.resolve(), (directory / LOCK_FILE).exists()):
        return
    file = next((file for pattern in (*MODEL_FILES, *replaced) for file in directory.glob(pattern)), None)
    if file is not None:
        raise ValueError(
            f"{name}={str(path)!r} holds {file.name}, which genrec_hf did not write and would replace or mix with "
            "its own files; choose another folder"
        )


@contextmanager
def lock_directory(path: str | os.PathLike[str], name: str = "output_dir") -> Iterator[Path]:
    """Lock a directory while the block writes there, so that no other run writes there at the same time.

    The lock is released when this process ends, also if it is killed. Temporary files that a killed run left are
    removed. In a distributed launch the process of rank 0 locks the directory for all. A process may lock a directory
    that it has locked already.

    Args:
        path (`str` or `Path`): the directory; created if absent, and removed at the end if it was created and is
            empty.
        name (`str`, defaults to `"output_dir"`): name of the argument, for errors.

    Yields:
        `Path`: the directory.

    Raises:
        ValueError: the directory is invalid, see `as_directory` and `refuse_foreign`; or another run has locked it.
    """
    directory = as_directory(path, name)
    refuse_foreign(path, name)
    created = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    key = directory.resolve()
    is_rank_0 = not any(int(os.environ.get(rank) or 0) for rank in _RANKS)
    if not is_rank_0 or key in _held:
        yield directory
        return
    file = key / LOCK_FILE
    left_by_killed_run = file.exists()
    lock = FileLock(file, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{name}={str(path)!r} is in use by {_read_lock_owner(file)}: two runs would mix their files; wait until "
            "it ends, or choose another folder"
        ) from None
    _held[key] = left_by_killed_run
    ended = False
    try:
        _write_lock_owner(file)
        _remove_leftovers(key)
        yield directory
        ended = True
    finally:
        del _held[key]
        # The lock file stays next to a half-written model, or the next run would refuse it as a foreign one.
        half_written = not ended and not _is_ours(key) and any(any(key.glob(pattern)) for pattern in MODEL_FILES)
        # Removed before the lock is released: a process that waits for it then creates a new one. Windows refuses.
        with suppress(OSError):
            if not half_written:
                file.unlink()
        lock.release()
        if created:
            with suppress(OSError):  # raised if it is not empty
                key.rmdir()


def lock_for_recipe(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator for `main` of a recipe that locks its output directory while it runs.

    Args:
        name (`str`): field with the directory in one of the dataclasses that `main` takes: `"output_dir"` or
            `"data_dir"`.

    Returns:
        `Callable`: the decorator.
    """

    def decorate(main: Callable[..., None]) -> Callable[..., None]:
        @wraps(main)
        def run(*arguments: Any) -> None:
            with lock_directory(next(getattr(group, name) for group in arguments if hasattr(group, name)), name):
                main(*arguments)

        return run

    return decorate


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Replace a file atomically: the block writes a temporary file, which is moved to `path` when the block ends.

    If the block raises, the file at `path` is not changed.

    Args:
        path (`str` or `Path`): the file; its folder is created if absent.

    Yields:
        `Path`: the temporary file, in the same folder and with the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PREFIX}{os.getpid()}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically, see `replace_file`.

    Args:
        path (`str` or `Path`): the file; its folder is created if absent.
        text (`str`): its content.
    """
    with replace_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def write_files(directory: str | os.PathLike[str], last: str, stale: Sequence[str] = ()) -> Iterator[Path]:
    """Write several files together: the block writes to a temporary folder, whose files are moved when it ends.

    If the block raises, `directory` is not changed.

    Args:
        directory (`str` or `Path`): target of the files; created if absent.
        last (`str`): file that is needed to load the directory. An existing one is removed before the other files are
            moved, and the new one is moved last, so that a directory after an interrupted move does not load.
        stale (`Sequence[str]`, defaults to `()`): patterns of existing files and folders to remove when the block
            ends.

    Yields:
        `Path`: the temporary folder, inside `directory`.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=PREFIX) as name:
        partial = Path(name)
        yield partial
        (directory / last).unlink(missing_ok=True)
        for path in [path for pattern in stale for path in directory.glob(pattern)]:
            _remove(path)
        files = [path for path in partial.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.relative_to(partial) == Path(last)):
            target = directory / path.relative_to(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)


def _is_ours(directory: Path) -> bool:
    return any((directory / file).is_file() for file in OWN_FILES)


def _remove_leftovers(directory: Path) -> None:
    """Remove temporary files of killed runs in a directory and its folders, except folders with a lock file."""
    leftovers = [*directory.glob(f"{PREFIX}*"), *directory.glob(f"*/{PREFIX}*")]
    for path in leftovers:
        if path.parent == directory or not (path.parent / LOCK_FILE).exists():
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_lock_owner(file: Path) -> None:
    # On systems without flock, filelock keeps its own record in the file, which must stay.
    text = file.read_text(encoding="utf-8")
    if not text or text.startswith("process "):
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")


def _read_lock_owner(file: Path) -> str:
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return text.strip() if text.startswith("process ") else "another run"
