"""Reads tables from delimited text, Parquet, JSON and the Hub, with integers and texts exactly as written."""

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
    """Read a table from a file, or from a folder or the Hub with the `datasets` library.

    Args:
        source (`str` or `Path`): a file that ends in .csv, .tsv, .parquet, .json or .jsonl (text also with .gz), a
            folder of such files, or the id of a data set on the Hub, whose splits are concatenated.
        subset (`str`, *optional*): configuration of a Hub data set.
        encoding (`str`, *optional*): encoding of a text file; detected by default.
        notes (`list[str]`): list to which a sentence is appended for each automatic decision.

    Returns:
        `pd.DataFrame`: the columns of the source; all cells are text if the file is delimited text.

    Raises:
        FileNotFoundError: there is no such file, folder or data set.
        ValueError: the source is not a table, or is damaged; the error names the file and, if known, the row.
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
        # Not `pd.read_json`, which converts a column "timestamp" to dates. dtype=object, as a missing value would
        # convert a column of integers to floats.
        table = pd.DataFrame(json_records(path, encoding=encoding, notes=notes), dtype=object)
        if table.empty:
            raise ValueError(f"{path.name} has no records: give a file with at least one")
        return table
    raise ValueError(f"got the file {path.name}; tables end in .parquet, .csv, .tsv, .json or .jsonl (also .gz)")


def is_delimited(source: str | Path) -> bool:
    """Return whether a file is delimited text, by its name.

    Args:
        source (`str` or `Path`): name such as `"log.csv.gz"`.

    Returns:
        `bool`: whether it ends in .csv, .tsv, .csv.gz or .tsv.gz.
    """
    return Path(source).name.lower().removesuffix(".gz").endswith(DELIMITED)


def find_delimiter(header: str) -> str:
    r"""Detect the delimiter from the line of column names.

    Args:
        header (`str`): the line.

    Returns:
        `str`: comma, semicolon, tab or `|`, whichever gives the most columns; comma if none gives more than one.

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
    fallback_encoding: str = "cp1252",
    notes: list[str],
) -> pd.DataFrame:
    """Read delimited text; all cells are text, and all rows must have the same number of cells.

    Args:
        file (`Path`): the file, plain or gzipped.
        delimiter (`str`): one character, or `"::"`.
        quoted (`bool`, defaults to `True`): cells may be in double quotes.
        names (`Sequence[str]`, *optional*): column names, for a file without a line of names.
        encoding (`str`, *optional*): as in `open_text`.
        fallback_encoding (`str`, defaults to `"cp1252"`): as in `open_text`.
        notes (`list[str]`): as in `open_text`.

    Returns:
        `pd.DataFrame`: text cells, `""` for an empty one.

    Raises:
        ValueError: the file is empty, a row has more or fewer cells than there are columns, a quote is not closed, or
            two columns have the same name.
    """
    style: Any = {"delimiter": "\t" if delimiter == "::" else delimiter}
    style["quoting"] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    with open_text(file, encoding=encoding, fallback_encoding=fallback_encoding, notes=notes) as text:
        lines = _refuse_nul(text, file)
        lines = (line.replace("::", "\t") for line in lines) if delimiter == "::" else lines
        width = _check_rows(csv.reader(lines, strict=True, **style), file, names)
    with open_text(file, encoding=encoding, fallback_encoding=fallback_encoding) as text:
        # The C parser takes a delimiter of one character. Cells hold no tabs: the check has counted the cells.
        source = io.BytesIO(text.read().replace("::", "\t").encode()) if delimiter == "::" else text
        table = pd.read_csv(source, header=None, names=range(width), dtype=str, keep_default_na=False, **style)
    if names is None:
        names, table = [name.strip() for name in table.iloc[0]], table.iloc[1:].reset_index(drop=True)
    return table.set_axis(list(names), axis=1)


def _refuse_nul(lines: Iterable[str], file: Path) -> Iterator[str]:
    """Yield the lines and raise on a NUL character, where some versions of pandas end the cell or skip the row."""
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise ValueError(
                f"line {number} of {file.name} holds a NUL character, as binary files do: repair that line"
            )
        yield line


def _check_rows(rows: Any, file: Path, names: Sequence[str] | None) -> int:
    header = list(names) if names else None
    # Texts may be long; a quote that is not closed is detected at the end of the file.
    limit = csv.field_size_limit(2**31 - 1)
    try:
        for row in rows:
            if not row or (len(row) == 1 and not row[0].strip()):
                continue
            if header is None:
                header = [name.strip() for name in row]
                duplicates = [name for name in header if header.count(name) > 1]
                if duplicates:
                    raise ValueError(
                        f"{file.name} has two columns that are called {duplicates[0]!r}: rename or remove one"
                    )
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
            f"line {rows.line_num} of {file.name} has invalid quotes ({error}): close each quote, and double the "
            "quotes inside a cell"
        ) from error
    finally:
        csv.field_size_limit(limit)
    if header is None:
        raise ValueError(
            f"{file.name} is empty: give a file with a line of column names and one row per event or item"
        )
    return len(header)


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        table = pq.ParquetFile(file).read()
        table.validate(full=True)  # also raises on texts that are not UTF-8
        return _to_pandas(table)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise ValueError(f"{file.name} is not a complete Parquet file ({error}): write or copy it again") from error


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    # Integers with missing values stay integers, and an index that pandas wrote becomes a column.
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
        if hasattr(builder.config, "keep_default_na"):  # CSV: read again as text, to keep the zeros of ids like "0012"
            texts = datasets.Features({column: datasets.Value("string") for column in builder.info.features or ()})
            builder = datasets.load_dataset_builder(name, subset, features=texts, keep_default_na=False)
            builder.download_and_prepare()
        splits = [split.with_format("arrow")[:] for split in builder.as_dataset().values()]
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"got {str(source)!r}: no local file or folder with RecBole (*.inter), MovieLens (ratings.dat, "
            "ratings.csv, u.data), Amazon (JSON lines) or table files, and no accessible data set of the Hub; check "
            "the spelling, or give columns={...} for a table"
        ) from error
    except Exception as error:
        cause = str(error.__cause__ or error).strip().splitlines()
        raise ValueError(
            f"the datasets library cannot read {str(source)!r} ({cause[0] if cause else type(error).__name__}): give "
            "one file of interactions as source, and the file of the items as metadata"
        ) from error
    return pd.concat([_to_pandas(split) for split in splits], ignore_index=True)
