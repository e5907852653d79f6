"""Output directories: what may be written into, one run at a time, and nothing half-written."""

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

# Everything unfinished has this prefix, so that it can be told from what belongs to the user, and is never pushed.
PREFIX = ".genrec_hf-"
LOCK_FILE = ".genrec_hf.lock"
# Written by every save of a recommender, and at the start of every training run.
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
# Beside the weights in a folder of transformers; what saves a model replaces them.
CHECKPOINT_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
# Rank of a process among those of one launch, as torchrun and MPI tell it.
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
# Directories that this process holds, and whether a run that was killed had held them before.
_held: dict[Path, bool] = {}


def as_directory(path: str | os.PathLike[str], name: str = "output_dir") -> Path:
    """Check the path of a directory that is to be written or read; it need not exist.

    Args:
        path (`str` or `Path`): as the user gave it.
        name (`str`, defaults to `"output_dir"`): of the argument, for the error.

    Returns:
        `Path`: the same.

    Raises:
        ValueError: it is empty, which would mean the current directory, or a file stands in its way.
    """
    if not str(path).strip():
        raise ValueError(f"got {name}={str(path)!r}, which would mean the current directory; name a folder")
    directory = Path(path)
    file = next((each for each in (directory, *directory.parents) if each.is_file()), None)
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
    """Stop before something is written into a directory that holds a model which must not be replaced.

    A directory is ours when one of `OWN_FILES` stands there, or the lock of a run that was killed.

    Args:
        path (`str` or `Path`): passes when it is absent.
        name (`str`, defaults to `"output_dir"`): of the argument, for the error.
        replaced (`Sequence[str]`): further file names that would be replaced, of which none may stand there either.
        sources (`Sequence[str]`): folders or Hub ids that are read: what a run starts from, and its base.

    Raises:
        ValueError: it is one of `sources`, or it holds weights or one of `replaced`, and nothing says that they are
            ours.
    """
    directory = as_directory(path, name)
    for source in sources:
        if source and Path(source).exists() and directory.exists() and directory.samefile(source):
            raise ValueError(
                f"{name}={str(path)!r} is {source!r}, which is read to make what would replace it; choose another "
                "folder"
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
def held(path: str | os.PathLike[str], name: str = "output_dir") -> Iterator[Path]:
    """Hold a directory while something is written there, so that no other run writes there too.

    The lock is gone when this process ends, however it ends. What a run that was killed left half-written is removed.
    Of several processes of one launch the first holds the directory for all; a process may hold one twice.

    Args:
        path (`str` or `Path`): made when absent.
        name (`str`, defaults to `"output_dir"`): of the argument, for errors.

    Yields:
        `Path`: the directory.

    Raises:
        ValueError: see `as_directory` and `refuse_foreign`; or another run holds it, which is named.
    """
    directory = as_directory(path, name)
    refuse_foreign(path, name)
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    key = directory.resolve()
    follows = any(int(os.environ.get(rank) or 0) for rank in _RANKS)
    if follows or key in _held:
        yield directory
        return
    file = key / LOCK_FILE
    killed = file.exists()
    lock = FileLock(file, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{name}={str(path)!r} is in use by {_holder(file)}: two runs would mix their files; wait until it ends, "
            "or choose another folder"
        ) from None
    _held[key] = killed
    ended = False
    try:
        _name_holder(file)
        _remove_leftovers(key)
        yield directory
        ended = True
    finally:
        del _held[key]
        # A model that is there by half must not be taken for somebody else's: the file says that it is ours.
        half_written = not ended and not _is_ours(key) and any(any(key.glob(pattern)) for pattern in MODEL_FILES)
        # While it is held still: whoever waits for this file then takes a new one. Windows keeps it.
        with suppress(OSError):
            if not half_written:
                file.unlink()
        lock.release()
        if made:
            with suppress(OSError):  # it is not empty
                key.rmdir()


def one_run(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate `main` of a recipe, so that it holds the directory of one of its arguments until it returns.

    Args:
        name (`str`): field of one of the dataclasses that `main` takes: `"output_dir"` or `"data_dir"`.

    Returns:
        `Callable`: the decorator.
    """

    def decorate(main: Callable[..., None]) -> Callable[..., None]:
        @wraps(main)
        def run(*arguments: Any) -> None:
            with held(next(getattr(each, name) for each in arguments if hasattr(each, name)), name):
                main(*arguments)

        return run

    return decorate


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file as a whole: the block writes another one beside it, which takes its place when the block ends.

    Args:
        path (`str` or `Path`): of the file; its folder is made when absent.

    Yields:
        `Path`: to write to, with the same suffix.
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
    """Write a UTF-8 file as a whole, see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def filling(directory: str | os.PathLike[str], last: str, stale: Sequence[str] = ()) -> Iterator[Path]:
    """Write several files as a whole: the block fills a folder, whose files are moved in when the block ends.

    Args:
        directory (`str` or `Path`): made when absent.
        last (`str`): file without which nothing there loads. One that stands there is removed first and the new one is
            moved in last, so that an interrupted move leaves nothing that loads.
        stale (`Sequence[str]`): patterns of what stands there and goes when the block ends.

    Yields:
        `Path`: to write to, inside `directory`.
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
    """Remove what killed runs left in a directory and one level down, except where another run holds that."""
    leftovers = [*directory.glob(f"{PREFIX}*"), *directory.glob(f"*/{PREFIX}*")]
    for path in leftovers:
        if path.parent == directory or not (path.parent / LOCK_FILE).exists():
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _name_holder(file: Path) -> None:
    # Where flock is missing, filelock keeps a record of its own in the file, which must stay.
    text = file.read_text(encoding="utf-8")
    if not text or text.startswith("process "):
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")


def _holder(file: Path) -> str:
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return text.strip() if text.startswith("process ") else "another run"
