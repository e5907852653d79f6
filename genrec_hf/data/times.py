"""Converts times from numbers, dates or ISO 8601 text to integers of a known unit, without loss of precision."""

import re
import time
from decimal import Decimal

import numpy as np
import pandas as pd

from genrec_hf.data.columns import refuse_rows

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
# Earliest valid time in seconds, 1990-01-01.
EARLIEST = 631_152_000
# Smaller numbers are positions. Thousands of seconds since 1970, a conversion error, are larger from 1990 on.
POSITIONS_BELOW = EARLIEST // 1000
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
NO_TIME = (
    "not a time between 1990 and tomorrow; give seconds or milliseconds since 1970, or ISO 8601 text such as "
    "2020-01-31T12:00:00"
)
DATE = re.compile(r"\d{4}-\d\d.*")


def read_times(values: pd.Series, file: str, column: str) -> tuple[pd.Series, str]:
    """Convert the times of events to integers, in a unit that represents them exactly.

    Valid times are between 1990 and tomorrow. The unit of numbers is detected by their size, as seconds, milliseconds,
    microseconds and nanoseconds of these years do not overlap; all numbers must have the same unit. Fractions of
    seconds are converted to the next unit that represents them. Dates are converted to milliseconds, or to a finer
    unit that represents them; dates without a time zone are UTC. Two kinds of numbers are not dates: 0 is an unknown
    time, and positions are numbers that begin below 631,152 and stay below that or below the number of rows.

    Args:
        values (`pd.Series`): a column without missing values; its index holds row numbers from 0.
        file (`str`): name of the file, for errors.
        column (`str`): name of the column, for errors.

    Returns:
        `tuple[pd.Series, str]`: `int64` with the same index, and the unit: `"seconds"`, `"milliseconds"`,
        `"microseconds"`, `"nanoseconds"`, `"positions"`, or `"unknown"` if all are 0.

    Raises:
        ValueError: a value is not a time or is outside of these years, or units are mixed.

    Example:
        >>> times, unit = read_times(pd.Series(["2020-01-01T00:00:00.5", "2020-01-02"]), "log.csv", "time")
        >>> times.tolist(), unit
        ([1577836800500, 1577923200000], 'milliseconds')
    """
    dates = _parse_dates(values, file, column)
    if dates is not None:
        numbers, unit = _convert_dates(dates)
        refuse_rows(values, (numbers == 0) | _is_valid_time(numbers, unit), file, column=column, remedy=NO_TIME)
        return numbers, unit
    numbers, step = _parse_numbers(values, file, column)
    unit = _detect_unit(numbers // 1000**step, values, file, column)
    if step and unit in UNITS and [*UNITS].index(unit) + step < len(UNITS):
        return numbers, [*UNITS][[*UNITS].index(unit) + step]
    refuse_rows(values, numbers % 1000**step == 0, file, column=column, remedy=NO_TIME)
    return numbers // 1000**step, unit


def time_span(times: np.ndarray, unit: str | None) -> tuple[str, str] | None:
    """Compute the first and last day of events.

    Args:
        times (`np.ndarray`): `[events]`, int64; 0 is an unknown time.
        unit (`str` or `None`): unit from `read_times`.

    Returns:
        `tuple[str, str]` or `None`: days in ISO 8601; `None` if the times are not dates.

    Example:
        >>> time_span(np.array([0, 1577836800, 1580428800]), "seconds")
        ('2020-01-01', '2020-01-31')
    """
    known = times[times != 0]
    if unit not in UNITS or not len(known):
        return None
    first, last = (
        pd.Timestamp(int(value) // UNITS[unit], unit="s").date().isoformat() for value in (known.min(), known.max())
    )
    return first, last


def units_per_second(time_of_event: int) -> int:
    """Return the number of units per second of a time from `read_times`.

    Args:
        time_of_event (`int`): a time between 1990 and tomorrow, or a position.

    Returns:
        `int`: 1, 1000, 10^6 or 10^9; 1 for positions.

    Example:
        >>> units_per_second(1577836800), units_per_second(1577836800000)
        (1, 1000)
    """
    return next((scale for scale in UNITS.values() if time_of_event < 10**11 * scale), UNITS["nanoseconds"])


def _parse_dates(values: pd.Series, file: str, column: str) -> pd.Series | None:
    if pd.api.types.is_datetime64_any_dtype(values):
        return pd.to_datetime(values, utc=True)
    if pd.api.types.is_numeric_dtype(values) or not len(values):
        return None
    texts = values.map(str).str.strip()
    if not DATE.fullmatch(texts.iloc[0]):
        return None
    refuse_rows(values, texts.map(lambda text: bool(DATE.fullmatch(text))), file, column=column, remedy=NO_TIME)
    try:
        return pd.to_datetime(texts, format="ISO8601", utc=True)
    except (ValueError, OverflowError):
        # Parsed one by one, to find the row.
        valid = texts.map(lambda text: not pd.isna(pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")))
        refuse_rows(values, valid, file, column=column, remedy=NO_TIME)
        raise


def _convert_dates(dates: pd.Series) -> tuple[pd.Series, str]:
    unit = "nanoseconds" if dates.dt.unit == "ns" else "microseconds"
    numbers = dates.dt.as_unit("ns" if unit == "nanoseconds" else "us").astype("int64")
    while unit != "milliseconds" and (numbers % 1000 == 0).all():
        numbers, unit = numbers // 1000, [*UNITS][[*UNITS].index(unit) - 1]
    return numbers, unit


def _parse_numbers(values: pd.Series, file: str, column: str) -> tuple[pd.Series, int]:
    """Convert numbers to `int64` in units of `1000**-step` of their own unit; return these and `step`."""
    if pd.api.types.is_integer_dtype(values):
        refuse_rows(values, (values >= 0) & (values <= np.iinfo("int64").max), file, column=column, remedy=NO_TIME)
        return values.astype("int64"), 0
    if pd.api.types.is_float_dtype(values):
        # The precision of float32 for seconds since 1970 is about two minutes.
        limit = 2 ** (np.finfo(values.dtype.type).nmant + 1)
        refuse_rows(
            values, (values.abs() <= limit) | (values.dtype == np.float64), file, column=column, remedy=NO_TIME
        )
    texts = values.astype(object).map(str).str.strip()
    if texts.str.fullmatch(r"\d{1,18}").all():
        return texts.astype("int64"), 0
    refuse_rows(values, texts.map(lambda text: bool(NUMBER.fullmatch(text))), file, column=column, remedy=NO_TIME)
    exact = texts.map(Decimal)
    refuse_rows(values, exact.map(lambda number: 0 <= number < 2**63), file, column=column, remedy=NO_TIME)
    digits = int(exact.map(lambda number: -int(number.normalize().as_tuple().exponent)).max())
    step = max(0, -(-digits // 3))
    scaled = exact * 1000**step
    refuse_rows(values, scaled.map(lambda number: number < 2**63), file, column=column, remedy=NO_TIME)
    return scaled.map(int).astype("int64"), step


def _detect_unit(numbers: pd.Series, values: pd.Series, file: str, column: str) -> str:
    known = numbers[numbers != 0]
    if known.empty:
        return "unknown"
    if 0 < known.min() < POSITIONS_BELOW and known.max() < max(POSITIONS_BELOW, len(numbers)):
        return "positions"
    valid = {unit: _is_valid_time(numbers, unit) for unit in UNITS}
    units = [unit for unit, rows in valid.items() if rows.any()]
    if len(units) > 1:
        examples = ", ".join(f"{values[valid[unit]].tolist()[0]!r} ({unit})" for unit in units)
        raise ValueError(
            f"the column {column!r} of {file} mixes units, such as {examples}: use the same unit in all rows"
        )
    if not units and _is_valid_time(known * 1000, "seconds").all():
        raise ValueError(
            f"the column {column!r} of {file} holds thousands of seconds, such as "
            f"{values[numbers != 0].tolist()[0]!r}: as seconds they are in January 1970; multiply by 1000, or convert "
            "to `datetime64[s]` before integers"
        )
    refuse_rows(values, (numbers == 0) | (valid[units[0]] if units else False), file, column=column, remedy=NO_TIME)
    return units[0]


def _is_valid_time(numbers: pd.Series, unit: str) -> pd.Series:
    return (numbers >= EARLIEST * UNITS[unit]) & (numbers <= (int(time.time()) + 86_400) * UNITS[unit])
