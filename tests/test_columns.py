"""Ids, ratings and texts keep every digit, or are refused by row."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from genrec_hf.data.columns import as_text, id_texts, is_present, ratings

LONG = 12345678901234567


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.Series([LONG, LONG + 2]), [str(LONG), str(LONG + 2)]),
        (pd.Series([LONG, LONG + 2], dtype="Int64"), [str(LONG), str(LONG + 2)]),
        (pd.Series([2**64 - 1], dtype="uint64"), [str(2**64 - 1)]),
        (
            pd.Series([LONG, "007", 12.0, np.int64(5), Decimal("12.00"), b"x"], dtype=object),
            [str(LONG), "007", "12", "5", "12", "x"],
        ),
        (pd.Series([10**30], dtype=object), ["1" + "0" * 30]),
        (pd.Series([12.0, 2.0**53]), ["12", str(2**53)]),
        (pd.Series([2.0**24], dtype="float32"), [str(2**24)]),
        (pd.Series(["12.0", "1e5", "NA", " a "]), ["12.0", "1e5", "NA", " a "]),
        (pd.Series(["x", "y", "x"], dtype="category"), ["x", "y", "x"]),
    ],
)
def test_ids_keep_every_digit(values, expected):
    assert id_texts(values, "log.csv", "user").tolist() == expected


@pytest.mark.parametrize(
    "values",
    [
        [2.0**53 + 2],
        pd.Series([2.0**24 + 2], dtype="float32"),
        [12.5],
        [float("inf")],
        ["1.2345678901234568e+16"],
        ["1.23457E+16"],
        ["12345678901234568.0"],
        pd.Series([True], dtype=object),
        [True],
        pd.Series([["a"]], dtype=object),
        pd.Series([{"a": 1}], dtype=object),
        pd.Series(["half \ud83d"], dtype=object),
        pd.Series([b"\xff"], dtype=object),
        pd.Series([2.0**54], dtype=object),
    ],
)
def test_what_lost_digits_or_is_no_id_is_refused_by_row(values):
    column = pd.Series(values)
    column.index = column.index + 4
    with pytest.raises(ValueError, match=r"row 5 of log\.csv has .* in the column 'user': ids are text or integers"):
        id_texts(column, "log.csv", "user")


def test_ratings():
    assert ratings(pd.Series([" 4.5", "", "1e0", "-2"]), "log.csv", "stars").fillna(0).tolist() == [4.5, 0, 1, -2]
    assert ratings(pd.Series([4, None], dtype="Int64"), "log.csv", "stars").fillna(0).tolist() == [4, 0]
    assert ratings(pd.Series([4, None, "3"], dtype=object), "log.csv", "stars").fillna(0).tolist() == [4, 0, 3]
    assert ratings(pd.Series(["nan", "4", "NaN"], dtype=object), "log.csv", "stars").fillna(0).tolist() == [0, 4, 0]
    assert ratings(pd.Series(["", ""]), "log.csv", "stars").isna().all()


@pytest.mark.parametrize("wrong", ["4,5", "five", "4.5 stars", "inf", "0x1F", True, [4], 1e400, "1_0"])
def test_what_is_no_rating_is_refused_by_row(wrong):
    with pytest.raises(
        ValueError, match=r"row 2 of log\.csv has .* in the column 'stars': ratings are numbers with a"
    ):
        ratings(pd.Series(["4", wrong], dtype=object), "log.csv", "stars")


def test_missing_values_of_every_kind():
    for values in (
        ["a", "", "  "],
        ["a", None, None],
        [1.0, np.nan, np.nan],
        pd.Series([1, None, None], dtype="Int64"),
    ):
        assert is_present(pd.Series(values)).tolist() == [True, False, False]
    assert is_present(pd.Series(["a", None, "\u00a0"], dtype=object)).tolist() == [True, False, False]


def test_texts():
    assert as_text([["Action"], None, "Drama", "Action"]) == "Action, Drama"
    assert as_text({"a": 1}) == "{'a': 1}" and as_text(b"caf\xc3\xa9") == "café" and as_text(pd.NA) == ""
