"""Item text: what a model reads about an item, one wording for every stage."""

import string
import unicodedata

import pandas as pd

TEMPLATE = "{title}|Categories: {categories}|Brand: {brand}|{description}"

# Categories of characters that show nothing: control, format, surrogate, private use. Unassigned ones (Cn) stay, as
# they may be emoji that are younger than this Python.
INVISIBLE = {"Cc", "Cf", "Cs", "Co"}
# Zero-width joiners hold emoji together and shape Persian and Indic words.
JOINERS = "\u200c\u200d"


def item_texts(items: pd.DataFrame, template: str | None = None, max_characters: int = 500) -> list[str]:
    """Describe each item in a line, for embedding.

    Args:
        items (`pd.DataFrame`): `InteractionData.items`: `item_id` and text fields, `""` where a text is missing.
        template (`str`, *optional*): parts separated by `|`, each naming columns of `items` in braces. A part with a
            missing text is left out, so that no label stands alone. `{title}` is the title with its year. Defaults to
            `TEMPLATE`.
        max_characters (`int`, defaults to 500): longer texts are cut after a word.

    Returns:
        `list[str]`: `[items]`, none empty: an item without any text is called `Untitled item <item_id>`.

    Raises:
        ValueError: the template names a field that no item can have.

    Example:
        >>> items = pd.DataFrame({"item_id": ["1", "2"], "title": ["Heat", ""], "year": ["1995", ""],
        ...                       "categories": ["Action, Crime", ""]})
        >>> item_texts(items)
        ['Heat (1995). Categories: Action, Crime', 'Untitled item 2']
    """
    parts = [(part, _fields(part)) for part in (template or TEMPLATE).split("|")]
    known = {"item_id", "title", "year", "categories", "brand", "description", *items.columns}
    unknown = sorted({name for _, names in parts for name in names} - known)
    if unknown:
        raise ValueError(f"got a template with the field {unknown[0]!r}; use those of the items: {sorted(known)}")
    columns = {name: _column(items, name) for name in known} | {"title": _titles(items)}
    texts = []
    for row, item_id in enumerate(items["item_id"]):
        fields = {name: column[row] for name, column in columns.items()}
        said = [part.format(**fields) for part, names in parts if all(fields[name] for name in names)]
        text = ". ".join(sentence.rstrip(".") for sentence in said)
        texts.append(clean_text(text, max_characters) or f"Untitled item {item_id}")
    return texts


def item_titles(items: pd.DataFrame, max_characters: int = 200) -> list[str]:
    """Name each item as short as people do: its title, with the year where that is known and not in the title yet.

    Args:
        items (`pd.DataFrame`): `InteractionData.items`.
        max_characters (`int`, defaults to 200): longer titles are cut after a word.

    Returns:
        `list[str]`: `[items]`, none empty: an item without a title is called `Untitled item <item_id>`.

    Example:
        >>> items = pd.DataFrame({"item_id": ["1", "2"], "title": ["Heat (1995)", "1984"], "year": ["1995", "1984"]})
        >>> item_titles(items)
        ['Heat (1995)', '1984 (1984)']
    """
    titles = [clean_text(title, max_characters) for title in _titles(items)]
    return [title or f"Untitled item {item_id}" for title, item_id in zip(titles, items["item_id"], strict=True)]


def item_categories(items: pd.DataFrame) -> list[str]:
    """Name the categories of each item, such as `"Action, Crime"`.

    Args:
        items (`pd.DataFrame`): `InteractionData.items`.

    Returns:
        `list[str]`: `[items]`; `""` where they are not known.
    """
    return [clean_text(value) for value in _column(items, "categories")]


def clean_text(text: str, max_characters: int | None = None) -> str:
    r"""Make a text one visible line: no control or invisible characters, single spaces.

    Args:
        text (`str`): any text, in any script.
        max_characters (`int`, *optional*): a longer text is cut, after a word where one ends in its second half.

    Returns:
        `str`: perhaps empty.

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


def _fields(part: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(part) if name is not None]
