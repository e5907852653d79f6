"""Converts ids, ratings and texts of table columns exactly, or raises with the row."""

import re
from decimal import Decimal

import numpy as np
import pandas as pd

# How integers are printed that were floats.
PRINTED_FLOAT = re.compile(r"(?P<exponent>\d+(\.\d+)?[eE]\+\d+)|(?P<whole>\d+)\.0")
RATING = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

NO_ID = (
    "ids are text or integers, and a float or a number such as 1.2e+17 has lost digits: write the column as text, "
    "or as integers (Int64 in pandas where some are missing)"
)
NO_RATING = "ratings are numbers with a decimal point, such as 4.5: rewrite the column, or leave it out"


def is_present(values: pd.Series) -> pd.Series:
    """Mark the values that are neither missing nor empty or blank text.

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

    Text stays as it is, and integers are written in full. A floating-point number is an integer that met a missing
    value: 12.0 is `"12"`, up to the number from which floats skip integers (`2**53` for `float64`).

    Args:
        values (`pd.Series`): a column without missing values; its index holds row numbers from 0.
        file (`str`): name of the file, for errors.
        column (`str`): name of the column, for errors.

    Returns:
        `pd.Series`: `str`, with the same index.

    Raises:
        ValueError: a value is no id, or lost digits before it came here.

    Example:
        >>> id_texts(pd.Series(["007", 12345678901234567, 12.0], dtype=object), "log.csv", "user").tolist()
        ['007', '12345678901234567', '12']
    """
    if pd.api.types.is_float_dtype(values):
        # Beyond this number a float of that width no longer holds every integer.
        limit = 2 ** (np.finfo(values.dtype.type if values.dtype.kind == "f" else np.float64).nmant + 1)
        refuse_rows(values, _whole(values, limit), file, column=column, remedy=NO_ID)
        return values.astype("int64").astype("str")
    if _is_plain_number(values):
        return values.astype("str")
    texts = values if isinstance(values.dtype, pd.StringDtype) else values.astype(object).map(_id_text)
    refuse_rows(values, texts.notna(), file, column=column, remedy=NO_ID)
    rows, distinct = pd.factorize(texts)
    good = np.array([_has_utf8(text) and not _lost_digits(text) for text in distinct], dtype=bool)
    refuse_rows(values, pd.Series(good[rows], index=values.index), file, column=column, remedy=NO_ID)
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
        ValueError: a value is no finite number.
    """
    present = is_present(values)
    known = values[present]
    if not _is_plain_number(values):
        as_texts = known.map(lambda value: "" if isinstance(value, bool) else str(value).strip())
        known, as_texts = known[as_texts.str.lower() != "nan"], as_texts[as_texts.str.lower() != "nan"]
        readable = as_texts.map(lambda text: bool(RATING.fullmatch(text)))
        refuse_rows(known, readable, file, column=column, remedy=NO_RATING)
        known = as_texts
    numbers = pd.to_numeric(known).astype("float64")
    refuse_rows(known, pd.Series(np.isfinite(numbers), index=known.index), file, column=column, remedy=NO_RATING)
    return numbers.reindex(values.index)


def as_text(value: object) -> str:
    """Convert a value of a field to one text: a list becomes `"a, b"`, a missing value `""`, the year 1995.0 `"1995"`.

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
    # Broken JSON escapes leave half characters, which no file can hold.
    return str(value).encode("utf-8", "ignore").decode().strip()


def refuse_rows(values: pd.Series, good: pd.Series, file: str, *, column: str, remedy: str) -> None:
    """Raise an error that names the first invalid value and its row.

    Args:
        values (`pd.Series`): a column; its index holds row numbers from 0.
        good (`pd.Series`): `bool`, with the same index.
        file (`str`): name of the file.
        column (`str`): name of the column.
        remedy (`str`): why the value is refused, and what to do.

    Raises:
        ValueError: a value is not good.
    """
    if not good.all():
        place = int((~good.astype(bool)).to_numpy().argmax())
        row, value = values.index.to_numpy()[place] + 1, values.iloc[[place]].tolist()[0]
        raise ValueError(f"row {row} of {file} has {value!r} in the column {column!r}: {remedy}")


def _is_plain_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _whole(values: pd.Series, limit: int) -> pd.Series:
    return (values % 1 == 0) & (values.abs() <= limit)


def _id_text(value: object) -> str | None:
    if isinstance(value, str):
        return value if _has_utf8(value) else None
    if isinstance(value, bytes):
        return _decoded(value)
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


def _decoded(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
