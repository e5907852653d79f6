"""Tables of every format: cells as written, and damaged files refused with file and line."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec_hf.data.source_table import source_table
from genrec_hf.data.tables import find_delimiter, read_delimited, read_table

LONG = 12345678901234567


def table(file, content: str | bytes, **how: object) -> tuple[pd.DataFrame, list[str]]:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    notes: list[str] = []
    return read_table(file, notes=notes, **how), notes


@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", None), (";", "semicolon"), ("\t", "tab"), ("|", "vertical bar")]
)
def test_the_delimiter_is_found_and_stated(tmp_path, delimiter, name):
    rows = [["user", "item", "stars"], ["u", '"a, b; c | d"', "4"]]
    text = "\n".join(map(delimiter.join, rows))
    found, notes = table(tmp_path / "log.csv", text)
    assert found.to_dict("list") == {"user": ["u"], "item": ["a, b; c | d"], "stars": ["4"]}
    assert notes == ([f"the columns of log.csv are separated by {name}"] if name else [])


def test_a_comma_in_a_name_does_not_mislead():
    assert find_delimiter("user;item;time, in seconds") == ";" and find_delimiter('"a;b",c') == ","


def test_cells_are_as_written(tmp_path):
    text = ' user , item\r\n\r\n007,"NA"\r\n"two\nlines","say ""hi"""\r\n,\r\n'
    found, _ = table(tmp_path / "log.csv", text)
    assert found.to_dict("list") == {"user": ["007", "two\nlines", ""], "item": ["NA", 'say "hi"', ""]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"log\.csv is empty"),
        ("\n\n", r"log\.csv is empty"),
        ("user item\nu a\n", r"the first line of log\.csv names one column, 'user item'"),
        ("a,b\n1,2\n1,2,3\n", r"line 3 of log\.csv has 3 cells, and there are 2 columns"),
        ("a,b\n1,2,\n3,4,\n", r"line 2 of log\.csv has 3 cells"),
        ("a,b\n1,2\n1\n", r"line 3 of log\.csv has 1 cells"),
        ('a,b\n1,"2\n3,4\n5,6\n', r"line 4 of log\.csv has invalid quotes"),
        ('a,b\n1,"say \\"hi\\""\n', r"line 2 of log\.csv has invalid quotes"),
        ("a,b,a\n1,2,3\n", r"log\.csv has two columns that are called 'a'"),
        (b"PK\x03\x04\x00\x00\x08", r"log\.csv is binary"),
    ],
)
def test_delimited_text_that_is_no_table_is_refused_by_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        table(tmp_path / "log.csv", text)


def test_long_cells_are_read(tmp_path):
    found, _ = table(tmp_path / "log.csv", f'item,text\na,"{"x" * 200_000}"\n')
    assert found["text"].str.len().tolist() == [200_000]


def test_delimiters_of_two_characters(tmp_path):
    (tmp_path / "movies.dat").write_text("1::Alien: the film::Sci-Fi|Horror\n")
    found = read_delimited(tmp_path / "movies.dat", "::", quoted=False, names=["id", "title", "genres"], notes=[])
    assert found.to_dict("list") == {"id": ["1"], "title": ["Alien: the film"], "genres": ["Sci-Fi|Horror"]}


@pytest.mark.parametrize("lines", [True, False])
def test_integers_of_json_with_gaps_stay_integers(tmp_path, lines):
    records = [{"user": LONG, "item": "a"}, {"item": "b"}, {"user": None}]
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    found, _ = table(tmp_path / "log.json", "\ufeff" + text)
    assert found["user"].tolist()[0] == LONG and isinstance(found["user"].tolist()[0], int)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": 2', r"line 2 of log\.json is not a JSON object, or is truncated: '{\"a\": 2'"),
        ('[{"a": 1}, {"a"', r"log\.json is not a complete JSON array"),
        ("[1, 2]", r"record 1 of log\.json is not a JSON object"),
        ("3\n", r"line 1 of log\.json is not a JSON object"),
        ("", r"log\.json has no records"),
        ("[" * 100_000, r"log\.json is not a complete JSON array"),
        ('{"a":' * 100_000 + "\n", r"line 1 of log\.json is not a JSON object"),
    ],
)
def test_damaged_json_is_refused_by_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        table(tmp_path / "log.json", text)


def test_integers_of_parquet_with_gaps_stay_integers(tmp_path):
    columns = {"user": pa.array([LONG, None]), "big": pa.array([2**64 - 1, None], pa.uint64()), "item": ["a", None]}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    found = read_table(tmp_path / "log.parquet", notes=[])
    assert found["user"].tolist()[0] == LONG and found["big"].tolist()[0] == 2**64 - 1


def test_an_index_of_pandas_is_a_column(tmp_path):
    pd.DataFrame({"item": ["a"]}, index=pd.Index(["u"], name="user")).to_parquet(tmp_path / "log.parquet")
    assert read_table(tmp_path / "log.parquet", notes=[])["user"].tolist() == ["u"]


def test_damaged_parquet_is_refused_by_name(tmp_path):
    pd.DataFrame({"user": range(100)}).to_parquet(tmp_path / "log.parquet")
    content = (tmp_path / "log.parquet").read_bytes()
    for damaged in (content[:-20], content[20:], b"", b"user,item\n"):
        with pytest.raises(ValueError, match=r"log\.parquet is not a complete Parquet file"):
            table(tmp_path / "log.parquet", damaged)


def test_parquet_whose_text_is_not_utf8_or_whose_columns_share_a_name_is_refused(tmp_path):
    pq.write_table(pa.table({"user": pa.array([b"caf\xe9"]).cast(pa.string(), safe=False)}), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=r"log\.parquet is not a complete Parquet file"):
        read_table(tmp_path / "log.parquet", notes=[])
    content = (tmp_path / "log.parquet").read_bytes().replace(b"user", b"\x80ser")
    with pytest.raises(ValueError, match=r"log\.parquet is not a complete Parquet file"):
        table(tmp_path / "log.parquet", content)
    pq.write_table(pa.table([["u"], ["v"]], names=["user", "user"]), tmp_path / "log.parquet")
    found = read_table(tmp_path / "log.parquet", notes=[])
    with pytest.raises(ValueError, match=r"log\.parquet has two columns that are called 'user'"):
        source_table("log.parquet", found, ["user"], columns={})


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_folder_keeps_ids_too(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    folder = tmp_path / "folder"
    folder.mkdir()
    if suffix == "csv":
        (folder / "log.csv").write_text(f"user,item\n{LONG},007\n,NA\n")
    elif suffix == "jsonl":
        (folder / "log.jsonl").write_text(f'{{"user": {LONG}, "item": "007"}}\n{{"user": null, "item": "NA"}}\n')
    else:
        pq.write_table(pa.table({"user": [LONG, None], "item": ["007", "NA"]}), folder / "log.parquet")
    found = read_table(folder, notes=[])
    assert str(found["user"].tolist()[0]) == str(LONG) and found["item"].tolist() == ["007", "NA"]


def test_a_folder_that_datasets_cannot_read_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "log.csv").write_bytes(b"user,item\ncaf\xe9,1\n")
    with pytest.raises(ValueError, match=r"the datasets library cannot read '.*folder' \("):
        read_table(tmp_path / "folder", notes=[])


def test_nul_characters_are_refused_by_line(tmp_path):
    # UTF-16 may hold them; pandas 2.3 skips such a row.
    (tmp_path / "log.csv").write_bytes("user_id,item_id\nu,a\n\0@,b\nv,c\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"line 3 of log\.csv holds a NUL character"):
        read_table(tmp_path / "log.csv", notes=[])
