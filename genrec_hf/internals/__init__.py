"""What genrec_hf uses of its libraries beyond their documented interfaces, one module a library."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from inspect import signature


def require(library: str, names: Mapping[str, bool]) -> None:
    """Raise when a library is imported whose version is not known here, and not in the middle of a request.

    Args:
        library (`str`): name of the package.
        names (`Mapping[str, bool]`): names inside the library, and whether the installed version has them.

    Raises:
        ImportError: a name is missing.

    Example:
        >>> require("numpy", {"numpy.ndarray": True})
    """
    if missing := [name for name, there in names.items() if not there]:
        raise ImportError(
            f"{library} {version(library)} has no {', '.join(missing)}, which genrec_hf relies on: install a version "
            "that genrec_hf was tested with (its constraints.txt), or upgrade genrec_hf"
        )


def parameters_of(function: Callable) -> set[str]:
    """Names of the parameters of a function."""
    return set(signature(function).parameters)
