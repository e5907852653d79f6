"""Everything that genrec_hf uses of its libraries beyond their documented APIs, one module per library."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from inspect import signature


def require(library: str, names: Mapping[str, bool]) -> None:
    """Raise if the installed version of a library lacks a name that is used here.

    Called on import, so that an unsupported version fails at the start and not in the middle of a run.

    Args:
        library (`str`): name of the package.
        names (`Mapping[str, bool]`): names inside the library, and whether the installed version has each of them.

    Raises:
        ImportError: the installed version lacks a name.

    Example:
        >>> require("numpy", {"numpy.ndarray": True})
    """
    if missing := [name for name, exists in names.items() if not exists]:
        raise ImportError(
            f"{library} {version(library)} has no {', '.join(missing)}, which genrec_hf relies on: install a version "
            "that genrec_hf was tested with (its constraints.txt), or upgrade genrec_hf"
        )


def parameters_of(function: Callable) -> set[str]:
    """Return the names of the parameters of a function.

    Args:
        function (`Callable`): the function.

    Returns:
        `set[str]`: names.
    """
    return set(signature(function).parameters)
