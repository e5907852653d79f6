"""Measured results as data: the rows of `results.json`, one for each system, data set, split and seed.

A file holds `{"rows": [...]}`. A row has `system`, `dataset`, `split` (such as `"leave_one_out, test"`), `seed` (of
the training; `"mean"` for a mean over `seeds`; `None` if there is none or it is not known), metrics such as
`recall@10` with seen items filtered, `recall@10_interval` (`[low, high]`), `command`, `device` and `minutes` (wall
time of the command). What was not measured is left out or `None`.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from genrec_hf.directories import write_text

_IDENTITY = ("system", "dataset", "split", "seed")
_FACTS = ("seeds", "command", "device", "minutes")
# Choosing among candidates has their number in the name. `popularity@k` is a number of events, not a share.
_METRIC = re.compile(
    r"(recall|ndcg|mrr|sid_recall|coverage|similarity|popularity)@\d+|hit@1_of_\d+|unconstrained_validity"
)


def is_metric(name: str) -> bool:
    """Return whether a key of a row is a metric.

    Args:
        name (`str`): key, such as `"recall@10"`; that of an interval is none.

    Returns:
        `bool`: whether it is one.
    """
    return _METRIC.fullmatch(name) is not None


def check_row(row: Mapping[str, Any], place: str = "the row") -> None:
    """Raise if a row does not have the form that this module describes.

    Args:
        row (`Mapping`): to check.
        place (`str`, defaults to `"the row"`): where it stands, for the error.

    Raises:
        ValueError: a key is missing or not known, or a value is not of its type or range.
    """
    missing = [name for name in _IDENTITY if name not in row]
    unknown = [key for key in row if key not in _IDENTITY + _FACTS and not is_metric(key.removesuffix("_interval"))]
    if missing or unknown:
        raise ValueError(
            f"{place} lacks {missing} and has the unknown keys {unknown}: it could not be compared; name it by "
            "system, dataset, split and seed, and give metrics such as recall@10"
        )
    seed = row["seed"]
    has_seed = seed is None or seed == "mean" or (isinstance(seed, int) and not isinstance(seed, bool))
    if not has_seed or not all(isinstance(row[name], str) and row[name] for name in _IDENTITY[:3]):
        raise ValueError(
            f"{place} has {[row[name] for name in _IDENTITY]}: give three texts, and a number, 'mean' or null"
        )
    for key, value in row.items():
        name = key.removesuffix("_interval")
        if value is None or not is_metric(name):
            continue
        values = [value] if key == name else value
        limit = math.inf if name.startswith("popularity") else 1.0
        if not isinstance(values, Sequence) or len(values) != (1 if key == name else 2):
            raise ValueError(f"{place} has {key}={value!r}: give a number, or [low, high] for an interval")
        if not all(isinstance(each, int | float) and -1 <= each <= limit for each in values):
            raise ValueError(f"{place} has {key}={value!r}, which is out of range: give shares, not percentages")


def result_rows(
    report: Mapping[str, Any],
    *,
    system_names: Mapping[str, str] | None = None,
    seed: int | None = None,
    command: str | None = None,
    device: str | None = None,
    minutes: float | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of a report, of its model and its baselines with seen items filtered.

    Args:
        report (`Mapping`): from `build_report`.
        system_names (`Mapping[str, str]`, *optional*): name of a system in the report to its name in the row, such as
            `{"model": "SASRec"}`; the others keep theirs.
        seed (`int`, *optional*): seed that the model was trained with; baselines have none.
        command (`str`, *optional*): command that made the report.
        device (`str`, *optional*): name of the CPU or GPU.
        minutes (`float`, *optional*): wall time of the command.

    Returns:
        `list[dict]`: rows for `write_results`.
    """
    protocol, candidates = report["protocol"], report.get("candidates", {"systems": {}})
    systems = ({"model": report["model"]} if "model" in report else {}) | dict(report["baselines"])
    rows = []
    for name, metrics in systems.items():
        row: dict[str, Any] = {
            "system": (system_names or {}).get(name, name),
            "dataset": protocol["dataset"],
            "split": protocol["split"],
            "seed": seed if name == "model" else None,
        }
        measured = {key: (value, metrics["intervals"].get(key)) for key, value in metrics.items() if is_metric(key)}
        if name in candidates["systems"]:
            choice = candidates["systems"][name]
            measured[f"hit@1_of_{candidates['count']}"] = (choice["hit@1"], choice["intervals"]["hit@1"])
        for key, (value, interval) in measured.items():
            row |= {key: value} if interval is None else {key: value, f"{key}_interval": list(interval)}
        rows.append(row | {"command": command, "device": device, "minutes": minutes})
    return rows


def mean_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the means over seeds, of each system that has two or more.

    Args:
        rows (`Iterable[Mapping]`): rows; those whose seed is no number are not read.

    Returns:
        `list[dict]`: rows with `seed` `"mean"`, `seeds`, and the metrics that all seeds have, without intervals.

    Example:
        >>> rows = [{"system": "a", "dataset": "d", "split": "s", "seed": n, "recall@10": n / 4} for n in (1, 2)]
        >>> mean_rows(rows)[0]["recall@10"], mean_rows(rows)[0]["seeds"]
        (0.375, [1, 2])
    """
    groups = defaultdict(list)
    for row in rows:
        if isinstance(row["seed"], int):
            groups[row["system"], row["dataset"], row["split"]].append(row)
    means = []
    for (system, dataset, split), group in groups.items():
        if len(group) > 1:
            names = [key for key in group[0] if is_metric(key) and all(row.get(key) is not None for row in group)]
            mean: dict[str, Any] = {"system": system, "dataset": dataset, "split": split, "seed": "mean"}
            mean |= {name: sum(row[name] for row in group) / len(group) for name in names}
            means.append(mean | {"seeds": [row["seed"] for row in group]})
    return means


def read_results(path: str | PathLike[str]) -> list[dict[str, Any]]:
    """Read and check a `results.json`.

    Args:
        path (`str` or `PathLike`): the file.

    Returns:
        `list[dict]`: its rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of the form that this module describes, or has a system twice.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["rows"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} does not hold results ({error!r}): write it with write_results") from error
    for number, row in enumerate(rows):
        check_row(row, f"{str(path)!r}, row {number}")
    if len({_identity(row) for row in rows}) < len(rows):
        raise ValueError(f"{str(path)!r} has two rows of one system, data set, split and seed: keep one of them")
    return rows


def write_results(rows: Iterable[Mapping[str, Any]], path: str | PathLike[str]) -> None:
    """Write rows to a `results.json`; they replace those of the same system, data set, split and seed there.

    Args:
        rows (`Iterable[Mapping]`): from `result_rows` or `mean_rows`.
        path (`str` or `PathLike`): the file; rows of other systems in it are kept.

    Raises:
        ValueError: a row, or the file that exists, is not of the form that this module describes.
    """
    merged = {_identity(row): row for row in (read_results(path) if Path(path).is_file() else [])}
    for row in rows:
        check_row(row)
        merged[_identity(row)] = dict(row)
    lines = ",\n".join("    " + json.dumps(row, allow_nan=False, ensure_ascii=False) for row in merged.values())
    write_text(path, f'{{\n  "rows": [\n{lines}\n  ]\n}}\n')


def write_report_results(
    report: Mapping[str, Any],
    output_dir: str | PathLike[str],
    *,
    system: str,
    command: str,
    device: str,
    seed: int | None = None,
    seconds: float | None = None,
) -> None:
    """Write the rows of a report to the `results.json` of an output directory, see `result_rows` and `write_results`.

    Args:
        report (`Mapping`): from `build_report`.
        output_dir (`str` or `PathLike`): directory of the report.
        system (`str`): name of its model.
        command (`str`): command that made the report.
        device (`str`): name of the CPU or GPU.
        seed (`int`, *optional*): seed that the model was trained with.
        seconds (`float`, *optional*): wall time of the command; `None` if it is not known, as of a resumed run.

    Raises:
        ValueError: as of `write_results`.
    """
    minutes = None if seconds is None else round(seconds / 60, 2)
    names = {"model": system}
    rows = result_rows(report, system_names=names, seed=seed, command=command, device=device, minutes=minutes)
    write_results(rows, Path(output_dir) / "results.json")


def training_seed(directory: str | PathLike[str]) -> int | None:
    """Return the seed that a model was trained with.

    Args:
        directory (`str` or `PathLike`): output directory of a recipe, or the name of a Hub repository.

    Returns:
        `int` or `None`: `None` without a local `run_settings.json`.
    """
    file = Path(directory) / "run_settings.json"
    return json.loads(file.read_text(encoding="utf-8")).get("seed") if file.is_file() else None


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _IDENTITY)
