"""Checks option values: one of several choices, or a number with a minimum."""

from collections.abc import Iterable


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise unless a value is one of the choices; `command_line` checks recipe options typed `Literal`.

    Args:
        name (`str`): of the option, for the message.
        value (`object`): what was given.
        choices (`Iterable[str]`): what may be given.

    Raises:
        ValueError: it is none of them.

    Example:
        >>> check_choice("split", "test", ("validation", "test"))
    """
    if value not in (known := list(choices)):
        raise ValueError(f"got {name}={value!r}; use one of {', '.join(known)}")


def check_least(least: int, **values: float | None) -> None:
    """Raise where a number is below a minimum.

    Args:
        least (`int`): the smallest that passes.
        values (`float`, *optional*): by the name of the option; `None` passes, which was not given.

    Raises:
        ValueError: one of them is smaller.

    Example:
        >>> check_least(1, epochs=3, examples=None)
    """
    for name, value in values.items():
        if value is not None and not value >= least:
            raise ValueError(f"got {name}={value!r}; give {least} or more")
