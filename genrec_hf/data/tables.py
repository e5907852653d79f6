"""Tables: delimited text, Parquet, JSON and data sets of the Hub, with integers and texts exactly as written."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from genrec_hf.data.json_records import json_records
from genrec_hf.data.text_files import open_text
from genrec_hf.repositories import can_be_hub_id

DELIMITED = (".csv", ".tsv")
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}


def read_table(
    source: str | Path, *, subset: str | None = None, encoding: str | None = None, notes: list[str]
) -> pd.DataFrame:
    """Read a table from a file, or from a folder or the Hub by the `datasets` library.

    Args:
        source (`str` or `Path`): a file that ends in .csv, .tsv, .parquet, .json or .jsonl (text also .gz), a folder
            of such files, or the id of a data set on the Hub, whose splits are read one after the other.
        subset (`str`, *optional*): configuration of a Hub data set.
        encoding (`str`, *optional*): of a text file; detected by default.
        notes (`list[str]`): sentences on what was decided are appended.

    Returns:
        `pd.DataFrame`: the columns of the source; all text where the file is delimited text.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is no table, or a damaged one; the error names the file and, where it can, the row.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        return _read_dataset(source, path, subset)
    name = path.name.lower().removesuffix(".gz")
    if is_delimited(path):
        with open_text(path, encoding=encoding) as text:
            delimiter = find_delimiter(next((line for line in text if line.strip()), ""))
        if DELIMITERS.get(delimiter) and delimiter != ("\t" if name.endswith(".tsv") else ","):
            notes.append(f"the columns of {path.name} are separated by {DELIMITERS[delimiter]}")
        return read_delimited(path, delimiter, encoding=encoding, notes=notes)
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if name.endswith((".json", ".jsonl", ".ndjson")):
        # Not `pd.read_json`: it makes dates of a column that is called "timestamp". And as objects, or a missing value
        # would turn a column of integers into floats.
        table = pd.DataFrame(json_records(path, encoding=encoding, notes=notes), dtype=object)
        if table.empty:
            raise ValueError(f"{path.name} has no records: give a file with at least one")
        return table
    raise ValueError(f"got the file {path.name}; tables end in .parquet, .csv, .tsv, .json or .jsonl (also .gz)")


def is_delimited(source: str | Path) -> bool:
    """Tell by its name whether a file is delimited text.

    Args:
        source (`str` or `Path`): such as `"log.csv.gz"`.

    Returns:
        `bool`: whether it ends in .csv or .tsv, perhaps with .gz.
    """
    return Path(source).name.lower().removesuffix(".gz").endswith(DELIMITED)


def find_delimiter(header: str) -> str:
    r"""Find what separates the columns, from the line of their names.

    Args:
        header (`str`): the first line.

    Returns:
        `str`: that of comma, semicolon, tab and `|` which gives the most columns; a comma where none gives several.

    Example:
        >>> find_delimiter("user;item;time, in seconds")
        ';'
    """
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def read_delimited(
    file: Path,
    delimiter: str,
    *,
    quoted: bool = True,
    names: Sequence[str] | None = None,
    encoding: str | None = None,
    otherwise: str = "cp1252",
    notes: list[str],
) -> pd.DataFrame:
    """Read delimited text, every cell as text, every row as wide as the first.

    Args:
        file (`Path`): plain or gzipped.
        delimiter (`str`): a character, or `"::"`.
        quoted (`bool`, defaults to `True`): cells may stand in double quotes.
        names (`Sequence[str]`, *optional*): of the columns, for a file without a line of names.
        encoding (`str`, *optional*): as in `open_text`.
        otherwise (`str`, defaults to `"cp1252"`): as in `open_text`.
        notes (`list[str]`): as in `open_text`.

    Returns:
        `pd.DataFrame`: cells of text, `""` where one is empty.

    Raises:
        ValueError: the file is empty, a row is wider or narrower than the first, a quote is not closed, or a column
            comes twice.
    """
    style: Any = {"delimiter": "\t" if delimiter == "::" else delimiter}
    style["quoting"] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    with open_text(file, encoding=encoding, otherwise=otherwise, notes=notes) as text:
        lines = _refuse_nul(text, file)
        lines = (line.replace("::", "\t") for line in lines) if delimiter == "::" else lines
        width = _check_rows(csv.reader(lines, strict=True, **style), file, names)
    with open_text(file, encoding=encoding, otherwise=otherwise) as text:
        # The fast parser takes one character, and no title holds a tab that the check has not refused.
        source = io.BytesIO(text.read().replace("::", "\t").encode()) if delimiter == "::" else text
        table = pd.read_csv(source, header=None, names=range(width), dtype=str, keep_default_na=False, **style)
    if names is None:
        names, table = [name.strip() for name in table.iloc[0]], table.iloc[1:].reset_index(drop=True)
    return table.set_axis(list(names), axis=1)


def _refuse_nul(lines: Iterable[str], file: Path) -> Iterator[str]:
    """Pass lines on, but for the character NUL, at which some versions of pandas end a cell or skip its row."""
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise ValueError(
                f"line {number} of {file.name} holds a NUL character, as binary files do: repair that line"
            )
        yield line


def _check_rows(rows: Any, file: Path, names: Sequence[str] | None) -> int:
    header = list(names) if names else None
    # A text may be long; a quote that is not closed is noticed at the end.
    limit = csv.field_size_limit(2**31 - 1)
    try:
        for row in rows:
            if not row or (len(row) == 1 and not row[0].strip()):
                continue
            if header is None:
                header = [name.strip() for name in row]
                twice = [name for name in header if header.count(name) > 1]
                if twice:
                    raise ValueError(f"{file.name} has two columns that are called {twice[0]!r}: rename or remove one")
                if len(header) == 1:
                    raise ValueError(
                        f"the first line of {file.name} names one column, {header[0]!r}: name the columns there, "
                        "separated by comma, semicolon, tab or |"
                    )
            elif len(row) != len(header):
                raise ValueError(
                    f"line {rows.line_num} of {file.name} has {len(row)} cells, and there are {len(header)} columns: "
                    "repair that line, and put cells that hold the delimiter in double quotes"
                )
    except csv.Error as error:
        raise ValueError(
            f"line {rows.line_num} of {file.name} is not well quoted ({error}): close each quote, and double the "
            "quotes inside a cell"
        ) from error
    finally:
        csv.field_size_limit(limit)
    if header is None:
        raise ValueError(f"{file.name} is empty: give a file with a line of column names and one row an event or item")
    return len(header)


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        table = pq.ParquetFile(file).read()
        table.validate(full=True)  # texts that are not UTF-8 too
        return _to_pandas(table)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise ValueError(f"{file.name} is no whole Parquet file ({error}): write or copy it again") from error


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    # Integers with missing values stay integers, and an index that pandas wrote is a column.
    return table.to_pandas(
        types_mapper=lambda kind: pd.ArrowDtype(kind) if pa.types.is_integer(kind) else None, ignore_metadata=True
    )


def _read_dataset(source: str | Path, path: Path, subset: str | None) -> pd.DataFrame:
    import datasets

    try:
        if not path.is_dir() and not can_be_hub_id(str(source)):
            raise FileNotFoundError
        name = str(path if path.is_dir() else source)
        builder = datasets.load_dataset_builder(name, subset)
        builder.download_and_prepare()
        if hasattr(builder.config, "keep_default_na"):  # CSV: again as text, or ids such as "0012" lose their zeros
            texts = datasets.Features({column: datasets.Value("string") for column in builder.info.features or ()})
            builder = datasets.load_dataset_builder(name, subset, features=texts, keep_default_na=False)
            builder.download_and_prepare()
        splits = [split.with_format("arrow")[:] for split in builder.as_dataset().values()]
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"got {str(source)!r}: no local file or folder with RecBole (*.inter), MovieLens (ratings.dat, "
            "ratings.csv, u.data), Amazon (JSON lines) or table files, and no data set of the Hub in reach; "
            "check the spelling, or give columns={...} for a table"
        ) from error
    except Exception as error:
        cause = str(error.__cause__ or error).strip().splitlines()
        raise ValueError(
            f"the datasets library cannot read {str(source)!r} ({cause[0] if cause else type(error).__name__}): give "
            "one file of interactions as source, and that of the items as metadata"
        ) from error
    return pd.concat([_to_pandas(split) for split in splits], ignore_index=True)
