"""Comparison of systems on the same cases: means over seeds, and paired differences to a reference."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genrec_hf.directories import as_directory, write_text
from genrec_hf.evaluation.bootstrap import bootstrap_intervals, paired_bootstrap
from genrec_hf.evaluation.display import draw_systems
from genrec_hf.evaluation.metrics import coverage, list_popularity, per_case_metrics
from genrec_hf.markdown import markdown_table, with_interval

# Metrics other than accuracy, and their format in tables.
_BEYOND_ACCURACY = {"coverage": ".3f", "popularity": ".1f", "unconstrained_validity": ".4f"}


def compare_scores(
    scores: Mapping[str, Sequence[Mapping[str, NDArray]]], users: ArrayLike, reference: str
) -> dict[str, dict[str, Any]]:
    """Compute means over cases and seeds with intervals, and paired differences to a reference.

    Args:
        scores (`Mapping`): name of each system to a list with, for each seed, metric name to values `[cases]`. All
            values are of the same cases; systems may have different numbers of seeds.
        users (`ArrayLike`): `[cases]`, user of each case; intervals resample users.
        reference (`str`): name of the system that the others are compared with.

    Returns:
        `dict[str, dict]`: for each system the mean of each metric; `intervals`, 95 % over users, of the means over
        seeds; `seeds`, the means of each seed; and `above_reference`, metric name to the difference of the means over
        seeds to those of the reference, as `paired_bootstrap` returns it.

    Raises:
        ValueError: the reference is not one of the systems, or a system has no seed.

    Example:
        >>> scores = {"a": [{"hit": np.array([1.0, 0.0])}], "b": [{"hit": np.array([1.0, 1.0])}]}
        >>> compare_scores(scores, ["ann", "bob"], "a")["b"]["above_reference"]["hit"]["difference"]
        0.5
    """
    if reference not in scores or not all(scores.values()):
        raise ValueError(
            f"got the reference {reference!r} for the systems {', '.join(scores)}: pass the name of one of them, and "
            "at least one seed for every system"
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
    """Compare the lists of several systems, for `write_comparison`.

    Args:
        lists (`Mapping`): name of each system to a list with, for each seed, integers `[cases, ranks]`: item rows,
            best first, `-1` for an empty rank.
        users (`ArrayLike`): `[cases]`, user of each case.
        targets (`ArrayLike`): integers `[cases]`, item rows.
        events (`ArrayLike`): `[items]`, number of training events of each item.
        reference (`str`): name of the system that the others are compared with.
        protocol (`Mapping`, *optional*): facts about data and protocol to report, such as `dataset`, `split`,
            `tie_break`, `filter_seen`, `filtered_targets`.
        cutoff (`int`, defaults to 10): cutoff `k` of the metrics; the length of the shortest list if that is less.
        unconstrained (`Mapping`, *optional*): name to a list with, for each seed, `unconstrained_validity` of the
            cases, for the systems that have it.

    Returns:
        `dict`: `protocol`, with `users`, `cases`, `items` and `reference`; and `systems`: for each system what
        `compare_scores` returns for `recall@k` and `ndcg@k`, and the means over seeds of `coverage@k`, `popularity@k`
        and, where given, `unconstrained_validity`.

    Raises:
        ValueError: a system has lists for another number of cases, or as of `compare_scores`.
    """
    events, targets = np.asarray(events), np.asarray(targets)
    ranked = {name: [np.asarray(seed_lists) for seed_lists in seeds] for name, seeds in lists.items()}
    k = min(cutoff, *(seed_lists.shape[1] for seeds in ranked.values() for seed_lists in seeds))
    scores = {}
    for name, seeds in ranked.items():
        if any(len(seed_lists) != len(targets) for seed_lists in seeds):
            raise ValueError(
                f"got {[len(seed_lists) for seed_lists in seeds]} lists of {name!r} for {len(targets)} targets: "
                "paired differences need the same cases; pass one list for each target"
            )
        metrics = [per_case_metrics(seed_lists, targets, ks=(k,)) for seed_lists in seeds]
        scores[name] = [{metric: values[metric] for metric in (f"recall@{k}", f"ndcg@{k}")} for values in metrics]
    systems = compare_scores(scores, users, reference)
    for name, seeds in ranked.items():
        coverages = [coverage(seed_lists, len(events), k) for seed_lists in seeds]
        popularities = [list_popularity(seed_lists, events, k) for seed_lists in seeds]
        systems[name][f"coverage@{k}"] = float(np.mean(coverages))
        systems[name][f"popularity@{k}"] = float(np.mean(popularities))
    for name, seeds_validity in (unconstrained or {}).items():
        means = [np.asarray(validity, dtype=float).mean() for validity in seeds_validity]
        systems[name]["unconstrained_validity"] = float(np.mean(means))
    counts = {"users": len(np.unique(users)), "cases": len(targets), "items": len(events), "reference": reference}
    return {"protocol": dict(protocol or {}) | counts, "systems": systems}


def write_comparison(report: Mapping[str, Any], directory: str | PathLike[str]) -> None:
    """Write `comparison.md`, `comparison.png` and `comparison.json`.

    Args:
        report (`Mapping`): from `compare_lists`.
        directory (`str` or `PathLike`): directory to write to, created if it does not exist.
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
    """Render a comparison as Markdown: a table with one row per system, and one with differences to the reference.

    Args:
        report (`Mapping`): from `compare_lists`.

    Returns:
        `str`: Markdown that ends with a newline.
    """
    systems, reference = report["systems"], report["protocol"]["reference"]
    metrics = list(systems[reference]["intervals"])
    keys = [key for row in systems.values() for key in row if key.partition("@")[0] in _BEYOND_ACCURACY]
    keys = list(dict.fromkeys(keys))
    header = [
        "system",
        *(f"{metric} [95%]" for metric in metrics),
        *(f"{metric} by seed" for metric in metrics),
        *keys,
    ]
    table, differences = [], []
    for name, row in systems.items():
        cells = [with_interval(row[metric], *row["intervals"][metric]) for metric in metrics]
        cells += [", ".join(f"{seed[metric]:.4f}" for seed in row["seeds"]) for metric in metrics]
        cells += [f"{row[key]:{_BEYOND_ACCURACY[key.partition('@')[0]]}}" if key in row else "" for key in keys]
        table.append([name, *cells])
        if name != reference:
            tests = [row["above_reference"][metric] for metric in metrics]
            cells = [with_interval(test["difference"], test["low"], test["high"], form="+.4f") for test in tests]
            differences.append([name, *cells, *(f"{test['p']:.3f}" for test in tests)])
    blocks = ["# Comparison of systems", _protocol_line(report["protocol"]), markdown_table(header, table)]
    if differences:
        header = ["", *metrics, *(f"p, {metric}" for metric in metrics)]
        blocks += [f"## Differences to {reference}, paired by user", markdown_table(header, differences)]
    return "\n\n".join(blocks) + "\n"


def _protocol_line(protocol: Mapping[str, Any]) -> str:
    """Describe the protocol in one line."""
    parts = [str(protocol["dataset"])] if "dataset" in protocol else []
    parts += [
        f"{key} {str(protocol[key]).lower()}" for key in ("split", "tie_break", "filter_seen") if key in protocol
    ]
    if protocol.get("filtered_targets"):
        parts.append(f"{protocol['filtered_targets']:.1%} of the targets are seen items, which no system can hit")
    parts += [f"{protocol['users']:,} users", f"{protocol['items']:,} items, all ranked"]
    return f"{', '.join(parts)}. Means over seeds, 95 % bootstrap intervals over users."
