"""Writes the results of `SidProbe` runs: a JSON file, a table and a chart, each compared with a control."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genrec_hf.directories import as_directory, write_text
from genrec_hf.evaluation.display import draw_systems
from genrec_hf.markdown import markdown_table, with_interval
from genrec_hf.training.sid_probe import METRICS, SidProbe


def write_probes(
    probe: SidProbe,
    probes: Mapping[str, Mapping[str, Any]],
    baselines: Mapping[str, Mapping[str, Any]],
    *,
    protocol: Mapping[str, Any],
    directory: str | Path,
) -> None:
    """Write `probe.json`, `probe.md` and `probe.png` into `directory`.

    Args:
        probe (`SidProbe`): the model and its training.
        probes (`Mapping`): name of the semantic ids -> metrics, from `compare_scores` on the scores of
            `probe_semantic_ids`.
        baselines (`Mapping`): name -> metrics, from `evaluate_baselines` on the same cases, seen items filtered.
        protocol (`Mapping`): `dataset`, `split`, `tie_break`, `users`, `items`, `seeds` and `reference` (the name of
            the semantic ids that others are compared with).
        directory (`str` or `Path`): created if absent.

    Raises:
        ValueError: `directory` is empty, or a file.
    """
    directory = as_directory(directory, "directory")
    baselines = {name: {key: row[key] for key in (*METRICS, "intervals")} for name, row in baselines.items()}
    protocol = dict(protocol) | {"filter_seen": True, "probe": asdict(probe)}
    report = {"protocol": protocol, "codes": probes, "baselines": baselines}
    write_text(directory / "probe.json", json.dumps(report, indent=2))
    write_text(directory / "probe.md", markdown(report))
    draw_systems(
        {**probes, **baselines},
        directory / "probe.png",
        metrics=METRICS,
        muted=baselines,
        caption=_protocol_line(protocol),
    )


def markdown(report: Mapping[str, Any]) -> str:
    """Format a report as a Markdown table, one row per system, the baselines last.

    Args:
        report (`Mapping`): content of `probe.json`.

    Returns:
        `str`: Markdown.
    """
    reference = report["protocol"]["reference"]
    header = ["codes", *METRICS, "recall@10 by seed", f"recall@10 above {reference}, paired"]
    rows = []
    for name, figures in (report["codes"] | report["baselines"]).items():
        cells = [with_interval(figures[metric], *figures["intervals"][metric]) for metric in METRICS]
        cells.append(", ".join(f"{seed['recall@10']:.4f}" for seed in figures.get("seeds", [])))
        paired = figures.get("above_reference", {}).get("recall@10") if name != reference else None
        cells.append(with_interval(paired["difference"], paired["low"], paired["high"], form="+.4f") if paired else "")
        rows.append([name, *cells])
    blocks = [
        "# Semantic ids compared by a small decoder",
        _protocol_line(report["protocol"]),
        markdown_table(header, rows),
    ]
    return "\n\n".join(blocks) + "\n"


def _protocol_line(protocol: Mapping[str, Any]) -> str:
    probe = protocol["probe"]
    return (
        f"{protocol['dataset']}, split {protocol['split']}, tie_break {protocol['tie_break']}, filter_seen true, "
        f"{protocol['users']:,} users, {protocol['items']:,} items, all ranked. A decoder of {probe['layers']} layers "
        f"of {probe['hidden_size']}, trained on the codes alone for {probe['epochs']} epochs, {probe['num_beams']} "
        f"beams; means over seeds {', '.join(map(str, protocol['seeds']))}, 95 % intervals over users."
    )
