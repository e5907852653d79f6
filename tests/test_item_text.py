"""Item text: one line, no gaps, no characters that show nothing."""

import pandas as pd
import pytest

from genrec_hf.data import clean_text, item_categories, item_texts, item_titles

ITEMS = pd.DataFrame(
    {
        "item_id": ["1", "2", "3", "4"],
        "title": ["Toy Story", "Heat (1995)", "", ""],
        "year": ["1995", "1995", "1990", ""],
        "categories": ["Animation, Comedy", "", "Drama", ""],
        "brand": ["Pixar", "", "", ""],
        "description": ["Toys\ncome alive.", "", "", ""],
    }
)


def test_missing_fields_leave_no_labels():
    assert item_texts(ITEMS) == [
        "Toy Story (1995). Categories: Animation, Comedy. Brand: Pixar. Toys come alive",
        "Heat (1995)",
        "Categories: Drama",
        "Untitled item 4",
    ]


def test_titles_and_categories():
    assert item_titles(ITEMS) == ["Toy Story (1995)", "Heat (1995)", "Untitled item 3", "Untitled item 4"]
    assert item_categories(ITEMS) == ["Animation, Comedy", "", "Drama", ""]


def test_items_without_text_columns_and_with_gaps():
    assert item_texts(ITEMS[["item_id"]])[:1] == item_titles(ITEMS[["item_id"]])[:1] == ["Untitled item 1"]
    assert item_categories(ITEMS[["item_id"]]) == [""] * 4
    assert item_titles(pd.DataFrame({"item_id": ["1"], "title": [None]})) == ["Untitled item 1"]


def test_own_template():
    by_brand = item_texts(ITEMS, "{brand}: {title}|{categories}")
    assert by_brand[:2] == ["Pixar: Toy Story (1995). Animation, Comedy", "Untitled item 2"]
    assert item_texts(ITEMS.assign(color="red"), "{color}") == ["red"] * 4
    with pytest.raises(ValueError, match="got a template with the field 'colour'"):
        item_texts(ITEMS, "{colour}")


def test_braces_in_a_text_are_text():
    assert item_texts(pd.DataFrame({"item_id": ["1"], "title": ["{brand} {0}"]})) == ["{brand} {0}"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\x00b\x1b[31m\r\n c\u2028d", "ab[31m c d"),
        ("zero\u200bwidth \ufeffand \u202eturned", "zerowidth and turned"),
        ("family \U0001f468\u200d\U0001f469\u200d\U0001f467", "family \U0001f468\u200d\U0001f469\u200d\U0001f467"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("שלום עולם", "שלום עולם"),
        ("tag \U000e0041\U000e0042", "tag"),
        ("half \ud83d", "half"),
        ("young \U0001fae9", "young \U0001fae9"),
        ("  ", ""),
    ],
)
def test_clean_text(text, clean):
    assert clean_text(text) == clean


def test_long_texts_end_after_a_word():
    assert clean_text("one two, three", 9) == "one two"
    assert clean_text("one two three", 13) == "one two three"
    assert clean_text("x" * 20, 5) == "xxxxx"
    assert max(map(len, item_texts(ITEMS.assign(description="word " * 1000)))) <= 500
