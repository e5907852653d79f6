"""Writes the report of an evaluation to a directory, and prints it.

`metrics.json` holds the report of `build_report`; `metrics.md` and `metrics.png` show it as tables and as a figure.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genrec_hf.directories import as_directory, write_text
from genrec_hf.evaluation.display import draw_report, markdown_report, text_report


def write_report(report: Mapping[str, Any], output_dir: str | os.PathLike[str]) -> None:
    """Write `metrics.json`, `metrics.md` and `metrics.png`.

    Args:
        report (`Mapping`): from `build_report`.
        output_dir (`str` or `PathLike`): directory to write to, created if it does not exist. A report of the same
            data set is replaced.

    Raises:
        ValueError: the directory holds the report of another data set.
    """
    output_dir = as_directory(output_dir)
    refuse_other_report(output_dir, report["protocol"]["dataset"], report["protocol"].get("fingerprint"))
    text = json.dumps(report, indent=2, allow_nan=False, default=_to_json)
    write_text(output_dir / "metrics.md", markdown_report(report))
    draw_report(report, output_dir / "metrics.png")
    # Written last, so that the other two files exist whenever metrics.json does.
    write_text(output_dir / "metrics.json", text + "\n")


def refuse_other_report(
    output_dir: str | os.PathLike[str], dataset: str | None = None, fingerprint: str | None = None
) -> None:
    """Raise if a directory holds the report of another data set, before an evaluation whose report would be refused.

    Args:
        output_dir (`str` or `PathLike`): directory of the report; it may hold none.
        dataset (`str`, *optional*): name of the data set.
        fingerprint (`str`, *optional*): fingerprint of the data set, which identifies it under another name or path.
            The names are compared if one of the reports has no fingerprint.

    Raises:
        ValueError: the directory holds the report of another data set.
    """
    path = Path(output_dir) / "metrics.json"
    if not path.exists():
        return
    old = json.loads(path.read_text(encoding="utf-8")).get("protocol", {})
    new = {"dataset": dataset, "fingerprint": fingerprint}
    key = "fingerprint" if "fingerprint" in old and fingerprint is not None else "dataset"
    if old.get(key) != new[key]:
        raise ValueError(
            f"got an output directory of another data set: {str(path)!r} is of {old.get('dataset')!r}, this report of "
            f"{dataset!r} ({key} differs), and it would be overwritten; pass another output_dir"
        )


def print_report(report: Mapping[str, Any]) -> None:
    """Print a report as plain text.

    Args:
        report (`Mapping`): from `build_report`.
    """
    print(text_report(report))


def _to_json(value: Any) -> Any:
    """Convert NumPy scalars to Python's and other objects, such as paths, to text, for `json.dumps`."""
    return value.item() if isinstance(value, np.generic) else str(value)
