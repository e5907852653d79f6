"""Builds item texts, titles and categories, which are the same in every stage."""

import string
import unicodedata

import pandas as pd

TEMPLATE = "{title}|Categories: {categories}|Brand: {brand}|{description}"

# Unicode categories of invisible characters: control, format, surrogate, private use. Unassigned ones (Cn) are kept,
# as they may be emoji that are newer than the Unicode version of Python.
INVISIBLE = {"Cc", "Cf", "Cs", "Co"}
# Zero-width joiners are part of emoji and of Persian and Indic words.
JOINERS = "\u200c\u200d"


def item_texts(items: pd.DataFrame, template: str | None = None, max_characters: int = 500) -> list[str]:
    """Build the text of each item, one line, for embedding.

    Args:
        items (`pd.DataFrame`): `InteractionData.items`: `item_id` and text fields, `""` for a missing text.
        template (`str`, *optional*): parts separated by `|`, with columns of `items` in braces. A part with a missing
            text is left out, together with its label. `{title}` is the title with the year. Defaults to `TEMPLATE`.
        max_characters (`int`, defaults to 500): maximum length; longer texts are cut at the end of a word.

    Returns:
        `list[str]`: `[items]`, none empty: an item without any text gets `Untitled item <item_id>`.

    Raises:
        ValueError: the template has a field that is not a column of `items` or a text field.

    Example:
        >>> items = pd.DataFrame({"item_id": ["1", "2"], "title": ["Heat", ""], "year": ["1995", ""],
        ...                       "categories": ["Action, Crime", ""]})
        >>> item_texts(items)
        ['Heat (1995). Categories: Action, Crime', 'Untitled item 2']
    """
    parts = [(part, _field_names(part)) for part in (template or TEMPLATE).split("|")]
    fields = {"item_id", "title", "year", "categories", "brand", "description", *items.columns}
    unknown = sorted({name for _, names in parts for name in names} - fields)
    if unknown:
        raise ValueError(f"got a template with the field {unknown[0]!r}; use fields of the items: {sorted(fields)}")
    columns = {name: _column(items, name) for name in fields} | {"title": _titles(items)}
    texts = []
    for row, item_id in enumerate(items["item_id"]):
        values = {name: column[row] for name, column in columns.items()}
        sentences = [part.format(**values) for part, names in parts if all(values[name] for name in names)]
        text = ". ".join(sentence.rstrip(".") for sentence in sentences)
        texts.append(clean_text(text, max_characters) or f"Untitled item {item_id}")
    return texts


def item_titles(items: pd.DataFrame, max_characters: int = 200) -> list[str]:
    """Return the title of each item, with the year if it is known and not in the title.

    Args:
        items (`pd.DataFrame`): `InteractionData.items`.
        max_characters (`int`, defaults to 200): maximum length; longer titles are cut at the end of a word.

    Returns:
        `list[str]`: `[items]`, none empty: an item without a title gets `Untitled item <item_id>`.

    Example:
        >>> items = pd.DataFrame({"item_id": ["1", "2"], "title": ["Heat (1995)", "1984"], "year": ["1995", "1984"]})
        >>> item_titles(items)
        ['Heat (1995)', '1984 (1984)']
    """
    titles = [clean_text(title, max_characters) for title in _titles(items)]
    return [title or f"Untitled item {item_id}" for title, item_id in zip(titles, items["item_id"], strict=True)]


def item_categories(items: pd.DataFrame) -> list[str]:
    """Return the categories of each item, such as `"Action, Crime"`.

    Args:
        items (`pd.DataFrame`): `InteractionData.items`.

    Returns:
        `list[str]`: `[items]`; `""` for an item without categories.
    """
    return [clean_text(value) for value in _column(items, "categories")]


def clean_text(text: str, max_characters: int | None = None) -> str:
    r"""Convert a text to one line with single spaces and without control or invisible characters.

    Args:
        text (`str`): any text, in any script.
        max_characters (`int`, *optional*): maximum length; a longer text is cut at the end of a word if one ends in
            its second half, otherwise within a word.

    Returns:
        `str`: the line; may be empty.

    Example:
        >>> clean_text("Two\n lines\x00 and\tmore", 14)
        'Two lines and'
    """
    if not text.isprintable():
        text = "".join(
            character
            for character in " ".join(text.split())
            if character in JOINERS or unicodedata.category(character) not in INVISIBLE
        )
    text = " ".join(text.split())
    if max_characters is None or len(text) <= max_characters:
        return text
    cut = text[: max_characters + 1].rfind(" ")
    return text[: cut if cut > max_characters // 2 else max_characters].rstrip(" ,;:-" + JOINERS)


def _titles(items: pd.DataFrame) -> list[str]:
    pairs = zip(_column(items, "title"), _column(items, "year"), strict=True)
    return [f"{title} ({year})" if title and year and f"({year})" not in title else title for title, year in pairs]


def _column(items: pd.DataFrame, name: str) -> list[str]:
    return items[name].fillna("").astype("str").tolist() if name in items else [""] * len(items)


def _field_names(part: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(part) if name is not None]
