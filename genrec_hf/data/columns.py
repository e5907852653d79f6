"""Converts ids, ratings and texts of table columns exactly, or raises an error that names the row."""

import re
from decimal import Decimal

import numpy as np
import pandas as pd

# Integers that were printed as floats.
PRINTED_FLOAT = re.compile(r"(?P<exponent>\d+(\.\d+)?[eE]\+\d+)|(?P<whole>\d+)\.0")
RATING = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

NO_ID = (
    "ids are text or integers, and a float or a number such as 1.2e+17 has lost digits: write the column as text, "
    "or as integers (Int64 in pandas where some are missing)"
)
NO_RATING = "ratings are numbers with a decimal point, such as 4.5: rewrite the column, or leave it out"


def is_present(values: pd.Series) -> pd.Series:
    """Return a mask of the values that are neither missing nor empty or blank text.

    Args:
        values (`pd.Series`): a column.

    Returns:
        `pd.Series`: `bool`, with the same index.

    Example:
        >>> is_present(pd.Series(["a", " ", None, 0])).tolist()
        [True, False, False, True]
    """
    present = values.notna()
    if _is_plain_number(values) or pd.api.types.is_datetime64_any_dtype(values):
        return present
    if isinstance(values.dtype, pd.StringDtype):
        return present & (values.str.strip() != "")
    return present & ~values.map(lambda value: isinstance(value, str) and not value.strip()).astype(bool)


def id_texts(values: pd.Series, file: str, column: str) -> pd.Series:
    """Convert ids to text without converting integers to floats.

    Text is not changed, and integers are written in full. A floating-point number is an integer of a column with
    missing values: 12.0 becomes `"12"`, up to the largest number below which floats represent all integers (`2**53`
    for `float64`).

    Args:
        values (`pd.Series`): a column without missing values; its index holds row numbers from 0.
        file (`str`): name of the file, for errors.
        column (`str`): name of the column, for errors.

    Returns:
        `pd.Series`: `str`, with the same index.

    Raises:
        ValueError: a value is not an id (a boolean, a fraction, text that is not UTF-8), or is a float that may have
            lost digits.

    Example:
        >>> id_texts(pd.Series(["007", 12345678901234567, 12.0], dtype=object), "log.csv", "user").tolist()
        ['007', '12345678901234567', '12']
    """
    if pd.api.types.is_float_dtype(values):
        # Above this number, a float of this width does not represent every integer.
        limit = 2 ** (np.finfo(values.dtype.type if values.dtype.kind == "f" else np.float64).nmant + 1)
        refuse_rows(values, _is_exact_integer(values, limit), file, column=column, remedy=NO_ID)
        return values.astype("int64").astype("str")
    if _is_plain_number(values):
        return values.astype("str")
    texts = values if isinstance(values.dtype, pd.StringDtype) else values.astype(object).map(_id_text)
    refuse_rows(values, texts.notna(), file, column=column, remedy=NO_ID)
    rows, distinct = pd.factorize(texts)
    valid = np.array([_has_utf8(text) and not _lost_digits(text) for text in distinct], dtype=bool)
    refuse_rows(values, pd.Series(valid[rows], index=values.index), file, column=column, remedy=NO_ID)
    return texts.astype("str")


def ratings(values: pd.Series, file: str, column: str) -> pd.Series:
    """Convert ratings to numbers; a missing or empty value, or the text "nan", becomes NaN.

    Args:
        values (`pd.Series`): a column; its index holds row numbers from 0.
        file (`str`): name of the file, for errors.
        column (`str`): name of the column, for errors.

    Returns:
        `pd.Series`: `float64`, with the same index.

    Raises:
        ValueError: a value is not a finite number.
    """
    present = values[is_present(values)]
    if not _is_plain_number(values):
        texts = present.map(lambda value: "" if isinstance(value, bool) else str(value).strip())
        present, texts = present[texts.str.lower() != "nan"], texts[texts.str.lower() != "nan"]
        valid = texts.map(lambda text: bool(RATING.fullmatch(text)))
        refuse_rows(present, valid, file, column=column, remedy=NO_RATING)
        present = texts
    numbers = pd.to_numeric(present).astype("float64")
    refuse_rows(present, pd.Series(np.isfinite(numbers), index=present.index), file, column=column, remedy=NO_RATING)
    return numbers.reindex(values.index)


def as_text(value: object) -> str:
    """Convert a value of a field to text: a list becomes `"a, b"`, a missing value `""`, the year 1995.0 `"1995"`.

    Args:
        value (`object`): a number, text, bytes (UTF-8), a list of values, or a missing value.

    Returns:
        `str`: text without spaces around it; `""` for a missing value.

    Example:
        >>> as_text(["Action", None, "Drama"]), as_text(1995.0), as_text(None), as_text(float("nan"))
        ('Action, Drama', '1995', '', '')
    """
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(dict.fromkeys(text for text in map(as_text, value) if text))
    if isinstance(value, bytes):
        return value.decode("utf-8", "ignore").strip()
    if value is None or (not isinstance(value, dict | set) and pd.isna(value)):  # type: ignore[call-overload]
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    # Broken JSON escapes result in lone surrogates, which cannot be encoded.
    return str(value).encode("utf-8", "ignore").decode().strip()


def refuse_rows(values: pd.Series, valid: pd.Series, file: str, *, column: str, remedy: str) -> None:
    """Raise an error that names the first invalid value and its row, if there is one.

    Args:
        values (`pd.Series`): a column; its index holds row numbers from 0.
        valid (`pd.Series`): `bool`, with the same index: whether each value is valid.
        file (`str`): name of the file.
        column (`str`): name of the column.
        remedy (`str`): why the value is invalid, and what to do.

    Raises:
        ValueError: a value is invalid. The error counts rows from 1.
    """
    if not valid.all():
        position = int((~valid.astype(bool)).to_numpy().argmax())
        row, value = values.index.to_numpy()[position] + 1, values.iloc[[position]].tolist()[0]
        raise ValueError(f"row {row} of {file} has {value!r} in the column {column!r}: {remedy}")


def _is_plain_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _is_exact_integer(values: pd.Series, limit: int) -> pd.Series:
    return (values % 1 == 0) & (values.abs() <= limit)


def _id_text(value: object) -> str | None:
    if isinstance(value, str):
        return value if _has_utf8(value) else None
    if isinstance(value, bytes):
        return _decode(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() and abs(float(value)) <= 2**53 else None
    if isinstance(value, Decimal):
        return str(int(value)) if value.is_finite() and value == value.to_integral_value() else None
    return None


def _lost_digits(text: str) -> bool:
    printed = PRINTED_FLOAT.fullmatch(text)
    return printed is not None and (printed["exponent"] is not None or int(printed["whole"]) > 2**53)


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decode(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
