"""Outside ids of items as callers give them: text, one an item, and nothing that only looks like it."""

from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

# Unknown ids that an error names; the rest is counted.
NAMED = 3


def read_ids(item_ids: Iterable[str], name: str = "item_ids", ordered: bool = True) -> list[str]:
    """Item ids as a list of `str`.

    Args:
        item_ids (`Iterable[str]`): any iterable of ids but one text, whose letters would be read as ids.
        name (`str`, defaults to `"item_ids"`): what errors call them.
        ordered (`bool`, defaults to `True`): the order counts, so that a set is refused.

    Returns:
        `list[str]`: the ids in their order.

    Raises:
        ValueError: on a text, a mapping or, where the order counts, a set; on an id that is no text, or is blank.

    Example:
        >>> read_ids(("tea", "cup"))
        ['tea', 'cup']
    """
    ids = read_list(item_ids, name, "item ids", ordered=ordered)
    for item_id in ids:
        if not isinstance(item_id, str):
            raise ValueError(f"{name} holds {_shown(item_id)}: item ids are text, {_remedy(item_id)}")
        if not item_id.strip():
            raise ValueError(f"{name} holds the blank id {item_id!r}: it names no item; leave the row out")
        if not item_id.isascii() and any("\ud800" <= letter <= "\udfff" for letter in item_id):
            raise ValueError(f"{name} holds {item_id!r}, which is no valid Unicode: no file can hold it; repair it")
    return [str(item_id) for item_id in ids]  # NumPy's strings too


def read_list(values: Any, name: str, what: str, *, ordered: bool = True) -> list[Any]:
    """The values of an iterable that is no text, no mapping and, where the order counts, no set.

    Raises:
        ValueError: on anything else, naming the argument and `what` it should hold.
    """
    if isinstance(values, str | bytes):
        raise ValueError(f"{name}={values!r} would be read letter by letter: pass a list of {what}")
    if isinstance(values, Mapping):
        raise ValueError(f"{name} is a {type(values).__name__}, whose values would be ignored: pass a list of {what}")
    if ordered and isinstance(values, Set):
        raise ValueError(f"{name} is a {type(values).__name__}, which has no order: pass a list of {what}")
    try:
        return list(values)
    except TypeError:
        raise ValueError(f"{name} is {_shown(values)}: pass a list of {what}") from None


def unknown_ids(item_ids: Sequence[str], items: int, name: str) -> ValueError:
    """The error of ids that a catalogue of so many items lacks, one or more; it names up to three of them."""
    unknown = list(dict.fromkeys(item_ids))
    named = ", ".join(map(repr, unknown[:NAMED]))
    more = f" and {len(unknown) - NAMED:,} more" if len(unknown) > NAMED else ""
    return ValueError(
        f"{name}: {named}{more} {'is' if len(unknown) == 1 else 'are'} not in the catalogue of {items:,} items: check "
        "the spelling, leave unknown ids out, or build semantic ids that hold them"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"


def _remedy(value: Any) -> str:
    if isinstance(value, Integral) and not isinstance(value, bool):
        return f"pass {str(int(value))!r}"
    if isinstance(value, bytes):
        return "decode it first"
    return "pass each as a string, and leave rows without one out"
