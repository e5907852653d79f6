"""Encodings and compression: read right and stated, or refused with the name of the file."""

import gzip
from pathlib import Path

import pytest

from genrec_hf.data.text_files import first_line, open_text

TEXT = "user,item\nu,Café – 日本\n"


def read(file: Path, **how: object) -> tuple[str, list[str]]:
    notes: list[str] = []
    with open_text(file, notes=notes, **how) as text:
        return text.read(), notes


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-mark", "utf-16-be-mark", "utf-32", "cp1252"]
)
def test_encodings_are_detected_and_stated(tmp_path, encoding, zipped):
    text = TEXT.replace("日本", "") if encoding == "cp1252" else TEXT
    content = ("\ufeff" + text).encode(encoding[:9]) if encoding.endswith("mark") else text.encode(encoding)
    file = tmp_path / "log.csv"
    file.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    found, notes = read(file)
    assert found == text
    named = {"utf-8": [], "utf-8-sig": [], "cp1252": ["cp1252"], "utf-32": ["utf-32"]}.get(encoding, ["utf-16"])
    assert len(notes) == len(named) and all(
        f"log.csv is not UTF-8 and was read as {name};" in notes[0] for name in named
    )
    assert first_line(file).strip() == "user,item"


def test_an_encoding_that_is_given_is_used(tmp_path):
    (tmp_path / "log.csv").write_bytes("Книга".encode("cp1251"))
    assert read(tmp_path / "log.csv", encoding="cp1251") == ("Книга", [])
    (tmp_path / "log.csv").write_bytes("Книга".encode("utf-8-sig"))
    assert read(tmp_path / "log.csv", encoding="utf8") == ("Книга", [])
    with pytest.raises(ValueError, match=r"log\.csv cannot be read as ascii .* set its `encoding`"):
        read(tmp_path / "log.csv", encoding="ascii")
    for unknown in ("cp9999", "rot13"):
        with pytest.raises(ValueError, match=f"got encoding='{unknown}', which Python does not know"):
            read(tmp_path / "log.csv", encoding=unknown)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(TEXT.encode(), mtime=0)[:-9], r"log\.csv is a damaged gzip file"),
        (gzip.compress(TEXT.encode(), mtime=0)[:4], r"log\.csv is a damaged gzip file"),
        (gzip.compress(TEXT.encode(), mtime=0) + b"rest", r"log\.csv is a damaged gzip file"),
        (gzip.compress(gzip.compress(TEXT.encode(), mtime=0), mtime=0), r"log\.csv is compressed by gzip twice"),
        (TEXT.encode() + b"\xff\n", r"log\.csv is UTF-8 with invalid characters, such as b'\\xff"),
        (TEXT.encode()[:-2], r"log\.csv is UTF-8 with invalid characters"),
        (TEXT.encode("utf-16-le"), r"log\.csv is binary, or UTF-16 without a byte order mark"),
        (TEXT.encode("utf-16")[:-1], r"log\.csv cannot be read as utf-16"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", r"log\.csv is binary"),
        (b"caf\xe9 \x81\n", r"log\.csv cannot be read as cp1252"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "log.csv")
    assert isinstance(first_line(tmp_path / "log.csv"), str)
