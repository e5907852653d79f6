"""Generated files either give back what was put in, or are refused with a message that names the file."""

import gzip
import json
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from genrec_hf.data import RawData, read_source

# The same examples every time: what chance finds is looked for by hand, with more of them.
BOUNDED = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

# Digits that a float has lost, what makes a text file binary, and a line end that pandas writes without quotes.
CANNOT_BE_ID = re.compile(r"\d[eE]\+\d|\d{16}\.0|\0|\r")
# Ids people have: digits with zeros in front, 17 digits, other scripts, and cells that hold delimiters and quotes.
ODD = st.text(st.sampled_from("0127.e+-ab_ ,;|\t\"'éßЖ日☃\n"), min_size=1, max_size=8)
TEXT_IDS = st.one_of(st.from_regex(r"0{0,3}[0-9]{1,18}", fullmatch=True), ODD, st.text(min_size=1, max_size=4))
INTEGER_IDS = st.integers(0, 2**63 - 1)
SECONDS = st.integers(631_152_000, 1_700_000_000)


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Columns of objects, so that no library changes them on the way to a file."""
    ids = draw(st.sampled_from([TEXT_IDS, INTEGER_IDS]))
    rows = draw(st.integers(1, 6))
    missing = st.none() if draw(st.booleans()) else st.nothing()
    one_user = draw(ids)
    columns = {
        "user_id": draw(st.lists(st.one_of(ids, missing, st.just(one_user)), min_size=rows, max_size=rows)),
        "item_id": draw(st.lists(ids, min_size=rows, max_size=rows)),
        "seconds": draw(st.lists(SECONDS, min_size=rows, max_size=rows)),
        "rating": draw(st.lists(st.sampled_from([1.0, 2.5, 5.0]), min_size=rows, max_size=rows)),
    }
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


TIMES = {
    "seconds": (lambda second: second, 1),
    "milliseconds": (lambda second: second * 1000 + 7, 1000),
    "microseconds": (lambda second: second * 10**6 + 7, 10**6),
    "fractions": (lambda second: f"{second}.25", 1000),
    "dates": (lambda second: datetime.fromtimestamp(second, UTC).isoformat(), 1000),
}
ADDED = {"milliseconds": 7, "microseconds": 7, "fractions": 250}


def read_bytes(name: str, content: bytes) -> RawData | str:
    """What the reader makes of a file, or the message of its refusal."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        if name == "ratings.dat":
            (Path(folder) / "movies.dat").write_text("1::Heat (1995)::Drama\n")
        try:
            return read_source(folder if name == "ratings.dat" else file)
        except (ValueError, FileNotFoundError) as error:
            assert type(error) in (ValueError, FileNotFoundError), f"a raw {type(error).__name__}: {error}"
            return str(error)


def assert_kept_or_refused(read: RawData | str, name: str, table: pd.DataFrame, times: list[int], strip: bool) -> None:
    texts = {column: ["" if value is None else str(value) for value in table[column]] for column in table}
    # Spaces around an id are no part of it in delimited text, and a blank id is a missing one everywhere.
    ids = {name: [text.strip() if strip else text for text in texts[name]] for name in ("user_id", "item_id")}
    kept = [row for row in range(len(table)) if ids["user_id"][row].strip() and ids["item_id"][row].strip()]
    if isinstance(read, str):
        assert name in read, "a refusal names the file"
        assert not kept or any(CANNOT_BE_ID.search(text) for column in ids.values() for text in column), read
        return
    assert read.interactions["user_id"].tolist() == [ids["user_id"][row] for row in kept]
    assert read.interactions["item_id"].tolist() == [ids["item_id"][row] for row in kept]
    assert read.interactions["timestamp"].tolist() == [times[row] for row in kept]
    assert read.interactions["rating"].tolist() == [float(table["rating"][row]) for row in kept]
    assert read.items["item_id"].is_unique and {*read.items["item_id"]} >= {*read.interactions["item_id"]}


def with_times(table: pd.DataFrame, unit: str) -> tuple[pd.DataFrame, list[int]]:
    write, scale = TIMES[unit]
    given = table.drop(columns="seconds").assign(timestamp=pd.Series(map(write, table["seconds"]), dtype=object))
    return given, [second * scale + ADDED.get(unit, 0) for second in table["seconds"]]


@BOUNDED
@given(
    table=tables(),
    unit=st.sampled_from([*TIMES]),
    delimiter=st.sampled_from(",;\t|"),
    zipped=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
)
def test_delimited_text(encoding, table, unit, delimiter, zipped, line_end):
    given, times = with_times(table, unit)
    text = given.to_csv(index=False, sep=delimiter, lineterminator=line_end)
    try:
        content = text.encode(encoding)
    except UnicodeEncodeError:
        assume(False)
    if encoding == "cp1252":  # nobody can tell it from UTF-8 where its bytes are valid UTF-8
        assume(content.isascii() or not is_utf8(content))
    name = "log.csv.gz" if zipped else "log.csv"
    read = read_bytes(name, gzip.compress(content) if zipped else content)
    assert_kept_or_refused(read, name, table, times, strip=True)


def is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@BOUNDED
@given(table=tables(), unit=st.sampled_from([*TIMES]), lines=st.booleans(), mark=st.booleans())
def test_json(table, unit, lines, mark):
    given, times = with_times(table, unit)
    records = given.to_dict("records")
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records, indent=1, ensure_ascii=False)
    content = text.encode("utf-8-sig" if mark else "utf-8", "surrogatepass")
    assert_kept_or_refused(read_bytes("log.json", content), "log.json", table, times, strip=False)


def parquet(table: pd.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({column: pa.array(table[column].tolist()) for column in table}), sink)
    return sink.getvalue().to_pybytes()


@BOUNDED
@given(table=tables(), unit=st.sampled_from([*TIMES]))
def test_parquet(table, unit):
    given, times = with_times(table, unit)
    assert_kept_or_refused(read_bytes("log.parquet", parquet(given)), "log.parquet", table, times, strip=False)


VALID = "user_id,item_id,timestamp,rating\n" + "".join(f"u{k},é{k},{1577836800 + k},4\n" for k in range(30))
RECORDS = "".join(json.dumps({"user_id": k, "item_id": "a", "timestamp": 1577836800 + k}) + "\n" for k in range(30))


RATINGS = "".join(f"{k}::1::4::{978300760 + k}\n" for k in range(30))
ATOMIC = "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(f"u{k}\té\t{978300760 + k}\n" for k in range(30))
REVIEW = {"user_id": "u", "parent_asin": "a", "rating": 5.0, "timestamp": 1577836800000}
REVIEWS = (json.dumps(REVIEW) + "\n") * 30
CONTENTS = {
    "log.csv": VALID.encode(),
    "log.csv.gz": gzip.compress(VALID.encode()),
    "toy.inter": ATOMIC.encode(),
    "ratings.dat": RATINGS.encode(),
    "log.jsonl": RECORDS.encode(),
    "reviews.json.gz": gzip.compress(REVIEWS.encode()),
    "log.parquet": parquet(pd.DataFrame(map(json.loads, RECORDS.splitlines()))),
}


@pytest.mark.parametrize("name", CONTENTS)
@BOUNDED
@given(data=st.data())
def test_damaged_files(name, data):
    """A valid file, cut short, with bytes changed, or of nothing but chance."""
    content = CONTENTS[name]
    damage = data.draw(st.sampled_from(["cut", "changed", "chance"]))
    if damage == "cut":
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    elif damage == "changed":
        place = data.draw(st.integers(0, len(content) - 1))
        content = content[:place] + data.draw(st.binary(min_size=1, max_size=3)) + content[place + 1 :]
    else:
        content = data.draw(st.binary(max_size=200))
    read = read_bytes(name, content)
    assert name in read if isinstance(read, str) else len(read.interactions)
