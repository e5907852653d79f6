"""Checks option values: one of several choices, or a number with a minimum."""

from collections.abc import Iterable


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise if a value is not one of the choices. Recipe options of type `Literal` are checked by `command_line`.

    Args:
        name (`str`): name of the option, for the error.
        value (`object`): value to check.
        choices (`Iterable[str]`): allowed values.

    Raises:
        ValueError: the value is not one of the choices.

    Example:
        >>> check_choice("split", "test", ("validation", "test"))
    """
    if value not in (allowed := list(choices)):
        raise ValueError(f"got {name}={value!r}; use one of {', '.join(allowed)}")


def check_least(minimum: int, **values: float | None) -> None:
    """Raise if a number is below a minimum.

    Args:
        minimum (`int`): smallest allowed value.
        values (`float`, *optional*): values to check, by the name of the option; `None` (not set) passes.

    Raises:
        ValueError: a value is smaller, or NaN.

    Example:
        >>> check_least(1, epochs=3, examples=None)
    """
    for name, value in values.items():
        if value is not None and not value >= minimum:
            raise ValueError(f"got {name}={value!r}; give {minimum} or more")
