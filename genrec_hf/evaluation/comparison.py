"""Systems side by side on the same cases: means over seeds, and paired differences to one of them."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genrec_hf.directories import as_directory, write_text
from genrec_hf.evaluation.display import draw_systems
from genrec_hf.evaluation.metrics import (
    bootstrap_intervals,
    coverage,
    list_popularity,
    paired_bootstrap,
    per_case_metrics,
)
from genrec_hf.markdown import markdown_table

# What tells how a system recommends, and how it is printed.
_LOOKS = {"coverage": ".3f", "popularity": ".1f", "unconstrained_validity": ".4f"}


def compare_scores(
    scores: Mapping[str, Sequence[Mapping[str, NDArray]]], users: ArrayLike, reference: str
) -> dict[str, dict[str, Any]]:
    """Means over cases and seeds, with intervals, and paired with a reference case by case.

    Args:
        scores: Name -> for each seed metric -> values `[cases]`, all of the same cases; systems may differ in seeds.
        users: Array `[cases]`, whose case each is; the intervals resample users.
        reference: One of the names.

    Returns:
        Name -> each metric's mean; `intervals`, 95 % over users, of the means over seeds; `seeds`, the means of each;
        and `above_reference`, metric -> the difference of the means over seeds as `paired_bootstrap` returns it.

    Raises:
        ValueError: The reference is not among the names, or a system has no seed.

    Example:
        >>> scores = {"a": [{"hit": np.array([1.0, 0.0])}], "b": [{"hit": np.array([1.0, 1.0])}]}
        >>> compare_scores(scores, ["ann", "bob"], "a")["b"]["above_reference"]["hit"]["difference"]
        0.5
    """
    if reference not in scores or not all(scores.values()):
        raise ValueError(
            f"Got the reference {reference!r} among {', '.join(scores)}: differences need one of these names, and "
            "every system at least one seed."
        )
    means = {
        name: {metric: np.mean([seed[metric] for seed in seeds], axis=0) for metric in seeds[0]}
        for name, seeds in scores.items()
    }
    return {
        name: {
            **{metric: float(values.mean()) for metric, values in means[name].items()},
            "intervals": {metric: list(ends) for metric, ends in bootstrap_intervals(means[name], users).items()},
            "seeds": [{metric: float(values.mean()) for metric, values in seed.items()} for seed in seeds],
            "above_reference": {
                metric: paired_bootstrap(values, means[reference][metric], users)
                for metric, values in means[name].items()
            },
        }
        for name, seeds in scores.items()
    }


def compare_lists(
    lists: Mapping[str, Sequence[ArrayLike]],
    users: ArrayLike,
    targets: ArrayLike,
    *,
    events: ArrayLike,
    reference: str,
    protocol: Mapping[str, Any] | None = None,
    cutoff: int = 10,
    unconstrained: Mapping[str, Sequence[ArrayLike]] | None = None,
) -> dict[str, Any]:
    """What systems recommend, and how well, for `write_comparison`.

    Args:
        lists: Name -> for each seed the lists, integer arrays `[cases, ranks]` of item rows, best first, -1 for none.
        users: Array `[cases]`, whose case each is.
        targets: Integer array `[cases]` of item rows.
        events: Array `[items]`, training events of each item.
        reference: The name that differences are taken to.
        protocol: What to say about data and protocol, such as `dataset`, `split`, `tie_break`, `filter_seen`,
            `filtered_targets`.
        cutoff: Ranks of a list that count; all when there are fewer.
        unconstrained: Name -> for each seed `unconstrained_validity` of the cases, of the systems that can answer freely.

    Returns:
        `protocol` with `users`, `items` and `reference`, and `systems`: name -> what `compare_scores` returns for
        `recall@k` and `ndcg@k`, and `coverage@k`, `popularity@k` and, where given, `unconstrained_validity`, means over seeds.

    Raises:
        ValueError: As `compare_scores`, or lists of another number of cases.
    """
    events, targets = np.asarray(events), np.asarray(targets)
    ranked = {name: [np.asarray(each) for each in seeds] for name, seeds in lists.items()}
    k = min(cutoff, *(each.shape[1] for seeds in ranked.values() for each in seeds))
    wanted = (f"recall@{k}", f"ndcg@{k}")
    scores = {}
    for name, seeds in ranked.items():
        if any(len(each) != len(targets) for each in seeds):
            raise ValueError(f"Got lists of {name!r} for other cases than the {len(targets)} targets: none pair up.")
        found = [per_case_metrics(each, targets, ks=(k,)) for each in seeds]
        scores[name] = [{metric: values[metric] for metric in wanted} for values in found]
    systems = compare_scores(scores, users, reference)
    for name, seeds in ranked.items():
        systems[name][f"coverage@{k}"] = float(np.mean([coverage(each, len(events), k) for each in seeds]))
        systems[name][f"popularity@{k}"] = float(np.mean([list_popularity(each, events, k) for each in seeds]))
    for name, values in (unconstrained or {}).items():
        systems[name]["unconstrained_validity"] = float(
            np.mean([np.asarray(each, dtype=float).mean() for each in values])
        )
    counts = {"users": len(np.unique(users)), "cases": len(targets), "items": len(events), "reference": reference}
    return {"protocol": dict(protocol or {}) | counts, "systems": systems}


def write_comparison(report: Mapping[str, Any], directory: str | PathLike[str]) -> None:
    """Write `comparison.md`, `comparison.png` and `comparison.json`.

    Args:
        report: From `compare_lists`.
        directory: Made when absent.
    """
    directory = as_directory(directory, "directory")
    write_text(directory / "comparison.md", comparison_markdown(report))
    systems, reference = report["systems"], report["protocol"]["reference"]
    draw_systems(
        systems,
        directory / "comparison.png",
        metrics=list(systems[reference]["intervals"]),
        muted=[reference],
        caption=_protocol_line(report["protocol"]),
    )
    write_text(directory / "comparison.json", json.dumps(report, indent=2, allow_nan=False) + "\n")


def comparison_markdown(report: Mapping[str, Any]) -> str:
    """Render a comparison as a table, a line a system, and the differences to the reference as another."""
    systems, reference = report["systems"], report["protocol"]["reference"]
    metrics = list(systems[reference]["intervals"])
    found = [key for row in systems.values() for key in row if key.partition("@")[0] in _LOOKS]
    looks = list(dict.fromkeys(found))
    header = [
        "system",
        *(f"{metric} [95%]" for metric in metrics),
        *(f"{metric} by seed" for metric in metrics),
        *looks,
    ]
    table, differences = [], []
    for name, row in systems.items():
        cells = [with_interval(row[metric], *row["intervals"][metric]) for metric in metrics]
        cells += [", ".join(f"{seed[metric]:.4f}" for seed in row["seeds"]) for metric in metrics]
        told = [f"{row[look]:{_LOOKS[look.partition('@')[0]]}}" if look in row else "" for look in looks]
        table.append([name, *cells, *told])
        if name != reference:
            above = [row["above_reference"][metric] for metric in metrics]
            cells = [with_interval(each["difference"], each["low"], each["high"], form="+.4f") for each in above]
            differences.append([name, *cells, *(f"{each['p']:.3f}" for each in above)])
    blocks = ["# Systems side by side", _protocol_line(report["protocol"]), markdown_table(header, table)]
    if differences:
        header = ["", *metrics, *(f"p, {metric}" for metric in metrics)]
        blocks += [f"## Above {reference}, the same users", markdown_table(header, differences)]
    return "\n\n".join(blocks) + "\n"


def with_interval(value: float, low: float, high: float, *, form: str = ".4f") -> str:
    """A figure and its interval as every table prints them."""
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _protocol_line(protocol: Mapping[str, Any]) -> str:
    said = [str(protocol["dataset"])] if "dataset" in protocol else []
    said += [f"{key} {str(protocol[key]).lower()}" for key in ("split", "tie_break", "filter_seen") if key in protocol]
    if protocol.get("filtered_targets"):
        said.append(f"{protocol['filtered_targets']:.1%} of the targets are seen items, which no system can hit")
    said += [f"{protocol['users']:,} users", f"{protocol['items']:,} items, all ranked"]
    return f"{', '.join(said)}. Means over seeds, 95 % bootstrap intervals over users."
