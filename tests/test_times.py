"""Times come out whole, in a unit that is known, with the precision that they came with, or are refused by row."""

import time

import numpy as np
import pandas as pd
import pytest

from genrec_hf.data.times import read_times, time_span, units_per_second

SECOND = 1577836800  # 2020-01-01


def read(values: object, **kind: object) -> tuple[list[int], str]:
    times, unit = read_times(pd.Series(values, **kind), "log.csv", "time")
    assert times.dtype == "int64"
    return times.tolist(), unit


@pytest.mark.parametrize(
    ("scale", "unit"), [(1, "seconds"), (10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")]
)
@pytest.mark.parametrize("kind", [int, str, float])
def test_the_unit_of_numbers_follows_from_their_size(scale, unit, kind):
    values = [SECOND * scale, (SECOND + 86_400) * scale]
    assert read([kind(value) for value in values]) == (values, unit)


def test_text_of_dates_keeps_its_precision_and_its_zone():
    assert read(["2020-01-01", "2020-01-01T00:00:00.5", "2020-01-01 02:00:00+02:00"]) == (
        [SECOND * 1000, SECOND * 1000 + 500, SECOND * 1000],
        "milliseconds",
    )
    assert read(["2020-01-01T00:00:00.000001Z"]) == ([SECOND * 10**6 + 1], "microseconds")
    assert read(["2020-01-01T00:00:00.000000001Z"]) == ([SECOND * 10**9 + 1], "nanoseconds")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_columns_of_dates(unit, zone):
    dates = pd.Series(pd.to_datetime(["2020-01-01", "2020-01-02"])).dt.tz_localize("UTC").dt.as_unit(unit)
    dates = dates.dt.tz_convert(zone) if zone else dates.dt.tz_localize(None)
    assert read(dates) == ([SECOND * 1000, (SECOND + 86_400) * 1000], "milliseconds")
    if unit in ("us", "ns"):
        finer = dates + pd.Timedelta(1, unit)
        scale = 10**6 if unit == "us" else 10**9
        assert read(finer)[0] == [SECOND * scale + 1, (SECOND + 86_400) * scale + 1]


def test_days_without_a_clock():
    assert read([pd.Timestamp("2020-01-01").date()], dtype=object) == ([SECOND * 1000], "milliseconds")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1577836800.5", "1577836801"], ([SECOND * 1000 + 500, SECOND * 1000 + 1000], "milliseconds")),
        ([1577836800.5, 1577836801.0], ([SECOND * 1000 + 500, SECOND * 1000 + 1000], "milliseconds")),
        (["1577836800.123456"], ([SECOND * 10**6 + 123456], "microseconds")),
        (["1577836800.123456789"], ([SECOND * 10**9 + 123456789], "nanoseconds")),
        (["1577836800123.25"], ([SECOND * 10**6 + 123250], "microseconds")),
        (["1.5778368E9", "1577836801.0"], ([SECOND, SECOND + 1], "seconds")),
    ],
)
def test_fractions_of_a_second(values, expected):
    assert read(values) == expected


def test_times_that_are_no_dates():
    assert read([100, 101, 104]) == ([100, 101, 104], "positions")
    assert read(["0", "1"]) == ([0, 1], "positions")
    assert read(np.arange(700_000))[1] == "positions"
    assert read([0, 0]) == ([0, 0], "unknown")
    # Users without times, beside others, as in public copies of the Amazon sets.
    assert read([0, SECOND]) == ([0, SECOND], "seconds")


def test_pandas_slip_of_a_thousand_is_told():
    dates = pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01"])).astype("datetime64[us]")
    with pytest.raises(
        ValueError, match=r"'time' of log\.csv holds thousands of seconds, such as 1577836: .* by 1000"
    ):
        read(dates.astype("int64") // 10**9)
    assert read(dates.astype("int64") // 10**6) == ([SECOND, 1609459200], "seconds")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([SECOND, SECOND * 1000], r"mixes units, such as 1577836800 \(seconds\), 1577836800000 \(milliseconds\)"),
        ([SECOND, 5], r"row 2 of log\.csv has 5 in the column 'time': not a time between 1990 and tomorrow"),
        ([SECOND, -1], r"row 2 of log\.csv has -1"),
        ([SECOND, int(time.time()) + 2 * 86_400], "row 2"),
        (["20200131"], "row 1 of .* has '20200131'"),
        (["1.5", "2"], "row 1 of .* has '1.5'"),
        (["soon"], "row 1 of .* has 'soon'.*give seconds or milliseconds since 1970, or ISO 8601 text"),
        (["2020-01-01", "2020-06-31"], "row 2 of .* has '2020-06-31'"),
        (["2020-01-01", "1577836800"], "row 2"),
        (["1970-01-19T06:17:16"], "row 1"),
        (["9999-12-31"], "row 1"),
        (["01/02/2020"], "row 1"),
        (["now"], "row 1"),
        (["1e400"], "row 1"),
        (["9" * 30], "row 1"),
        ([float("inf")], "row 1"),
        ([True], "row 1"),
        (pd.Series([2**64 - 1], dtype="uint64"), "row 1"),
        (np.array([SECOND], dtype=np.float32), "row 1"),
    ],
)
def test_what_is_no_time_is_refused_by_row(values, message):
    with pytest.raises(ValueError, match=message):
        read(values)


def test_first_and_last_day():
    assert time_span(np.array([0, SECOND * 1000, (SECOND + 86_400) * 1000]), "milliseconds") == (
        "2020-01-01",
        "2020-01-02",
    )
    assert time_span(np.array([1, 2]), "positions") is None and time_span(np.array([0]), "seconds") is None


def test_units_of_a_second():
    assert [units_per_second(SECOND * scale) for scale in (1, 10**3, 10**6, 10**9)] == [1, 10**3, 10**6, 10**9]
    assert units_per_second(3) == 1
