"""Validation of the outside ids of items: text, one per item, and no other type that could be read as text."""

from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

# Unknown ids that an error names; the others are counted.
MAX_NAMED = 3


def read_ids(item_ids: Iterable[str], name: str = "item_ids", ordered: bool = True) -> list[str]:
    """Convert item ids to a list of `str`, or raise where they are not text.

    Args:
        item_ids (`Iterable[str]`): any iterable of ids, except a single text, whose letters would be read as ids.
        name (`str`, defaults to `"item_ids"`): name of the argument in errors.
        ordered (`bool`, defaults to `True`): refuse a set, because the order matters.

    Returns:
        `list[str]`: the ids in their order.

    Raises:
        ValueError: on a single text, a mapping, a set if `ordered`, or on an id that is not text, is blank or is not
            valid Unicode.

    Example:
        >>> read_ids(("tea", "cup"))
        ['tea', 'cup']
    """
    ids = read_list(item_ids, name, "item ids", ordered=ordered)
    for item_id in ids:
        if not isinstance(item_id, str):
            raise ValueError(f"{name} holds {_format_value(item_id)}: item ids are text, {_suggest_fix(item_id)}")
        if not item_id.strip():
            raise ValueError(f"{name} holds the blank id {item_id!r}, which identifies no item: leave the row out")
        if not item_id.isascii() and any("\ud800" <= letter <= "\udfff" for letter in item_id):
            raise ValueError(
                f"{name} holds {item_id!r}, which is not valid Unicode and cannot be saved: decode the ids again"
            )
    return [str(item_id) for item_id in ids]  # converts NumPy strings


def read_list(values: Any, name: str, contents: str, *, ordered: bool = True) -> list[Any]:
    """Convert an iterable to a list, except a text, a mapping or a set, which callers pass by mistake.

    Args:
        values (`Iterable`): the values.
        name (`str`): name of the argument in errors.
        contents (`str`): what the list should hold, in errors, such as `"item ids"`.
        ordered (`bool`, defaults to `True`): refuse a set, because the order matters.

    Returns:
        `list`: the values in their order.

    Raises:
        ValueError: on a text, a mapping, a set if `ordered`, or a value that is not iterable.
    """
    if isinstance(values, str | bytes):
        raise ValueError(f"{name}={values!r} would be read letter by letter: pass a list of {contents}")
    if isinstance(values, Mapping):
        raise ValueError(
            f"{name} is a {type(values).__name__}, whose values would be ignored: pass a list of {contents}"
        )
    if ordered and isinstance(values, Set):
        raise ValueError(f"{name} is a {type(values).__name__}, which has no order: pass a list of {contents}")
    try:
        return list(values)
    except TypeError:
        raise ValueError(f"{name} is {_format_value(values)}: pass a list of {contents}") from None


def unknown_ids_error(item_ids: Sequence[str], items: int, name: str) -> ValueError:
    """Create the error for ids that are not in the catalogue; it names up to three of them.

    Args:
        item_ids (`Sequence[str]`): the unknown ids, at least one.
        items (`int`): number of items of the catalogue.
        name (`str`): name of the argument.

    Returns:
        `ValueError`: to be raised by the caller.
    """
    unknown = list(dict.fromkeys(item_ids))
    named = ", ".join(map(repr, unknown[:MAX_NAMED]))
    more = f" and {len(unknown) - MAX_NAMED:,} more" if len(unknown) > MAX_NAMED else ""
    return ValueError(
        f"{name}: {named}{more} {'is' if len(unknown) == 1 else 'are'} not in the catalogue of {items:,} items: check "
        "the spelling, leave unknown ids out, or build semantic ids that include them"
    )


def _format_value(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"


def _suggest_fix(value: Any) -> str:
    if isinstance(value, Integral) and not isinstance(value, bool):
        return f"pass {str(int(value))!r}"
    if isinstance(value, bytes):
        return "decode it first"
    return "pass each id as a string, and leave out rows without one"
