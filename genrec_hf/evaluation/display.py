"""Renders reports as Markdown, plain text and bar charts, and training logs as curves."""

import itertools
import textwrap
from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from typing import Any

from genrec_hf.directories import replace_file
from genrec_hf.evaluation.overlap import overlap_blocks
from genrec_hf.evaluation.slices import AGES
from genrec_hf.markdown import markdown_table

_INK, _MUTED, _GRID = "#22262b", "#6b7280", "#e5e7eb"
_LINES = ("#1f6feb", "#c4552d", "#2f8f5b", "#8a5fbf", "#b08a00", "#6b7280")
# Color of a bar by whether it is the model's and whether seen items are filtered.
_COLOURS = {(True, True): "#1f6feb", (True, False): "#a9cbf9", (False, True): "#7d8590", (False, False): "#ced3d9"}


def markdown_report(report: Mapping[str, Any]) -> str:
    """Render a report as Markdown, for `metrics.md` and the model card.

    Args:
        report (`Mapping`): from `build_report`.

    Returns:
        `str`: a heading, the protocol, and tables for each setting of `filter_seen`; it ends with a newline.
    """
    blocks = [f"# Results on {report['protocol']['dataset']}", _protocol_line(report)]
    for section in _sections(report):
        header, *body = _table(section, brief=False)
        title, table = f"## {_setting(section).capitalize()}", markdown_table(header, body)
        blocks += [title, *_filtered_targets(section), table, *_search_error(section)]
        blocks += _slice_table(section)
    blocks += [_footnote(report), *_baseline_lines(report)]
    if "candidates" in report:
        table = markdown_table(("system", "hit@1", "valid"), _candidate_rows(report))
        blocks += [f"## {_candidate_setting(report).capitalize()}", table]
    if "overlap" in report:
        blocks += ["## Overlap of the rankers, and paired differences", *overlap_blocks(report["overlap"])]
    return "\n\n".join(blocks) + "\n"


def text_report(report: Mapping[str, Any]) -> str:
    """Render a report as aligned plain text, for the terminal.

    Args:
        report (`Mapping`): from `build_report`.

    Returns:
        `str`: several lines without a newline at the end.
    """
    lines = [f"{report['protocol']['dataset']}: {_protocol_line(report)}"]
    for section in _sections(report):
        rows = _table(section, brief=True)
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines += ["", _setting(section), *_filtered_targets(section)]
        for row in rows:
            values = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *values]))
        lines += _search_error(section)
    lines += ["", _footnote(report), *itertools.chain(*(textwrap.wrap(line, 120) for line in _baseline_lines(report)))]
    if "candidates" in report:
        lines += ["", _candidate_setting(report)]
        choices = _candidate_rows(report)
        width = max(len(name) for name, _, _ in choices)
        lines += [f"{name:<{width}}  hit@1 {hit}  valid {valid}" for name, hit, valid in choices]
    if "overlap" in report:
        lines += ["", "\n\n".join(overlap_blocks(report["overlap"]))]
    return "\n".join(lines)


def _slice_table(section: Mapping[str, Any]) -> list[str]:
    """Render the metrics of the slices by popularity and age of the target, if the section has them."""
    systems = _systems(section)
    slices = next(iter(systems.values())).get("slices")
    if not slices:
        return []
    keys = [key for key in next(iter(slices.values())) if key != "cases"]
    blocks = []
    for title, names in (
        ("By training events of the target (number of cases):", [name for name in slices if name not in AGES]),
        ("By time since the target's first training event (number of cases):", [n for n in slices if n in AGES]),
    ):
        header = [f"{keys[0]}, {keys[1]}", *(f"{name} ({slices[name]['cases']})" for name in names)]
        lines = []
        for system, row in systems.items():
            metrics = (row["slices"][name] for name in names)
            lines.append([system, *(", ".join(_format(values[key]) for key in keys) for values in metrics)])
        blocks += [title, markdown_table(header, lines)] if names else []
    return blocks


def _candidate_setting(report: Mapping[str, Any]) -> str:
    """Describe the setting of the section with candidates."""
    most, fewest = report["candidates"]["count"], report["candidates"].get("fewest")
    return (
        f"the target among {most if fewest in (None, most) else f'{fewest} to {most}'} candidates, sampled uniformly"
    )


def _candidate_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, hit@1 with its interval, and share of valid choices of each system."""
    rows = report["candidates"]["systems"].items()
    return [
        (name, "{:.4f} [{:.4f}, {:.4f}]".format(row["hit@1"], *row["intervals"]["hit@1"]), f"{row['valid_rate']:.4f}")
        for name, row in rows
    ]


def draw_report(report: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """Draw recall and NDCG of every system as bars with intervals, for `metrics.png`.

    Args:
        report (`Mapping`): from `build_report`.
        path (`str` or `PathLike`): PNG file to write.
    """
    # Imported here because Matplotlib is slow to import and the metrics do not need it. A Figure needs no display.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Patch

    sections = _sections(report)
    names = list(dict.fromkeys(name for section in sections for name in _systems(section)))
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
    figure = Figure(figsize=(9.6, 1.6 + 0.18 * len(names) * (1 + len(sections))), dpi=160, layout=layout)
    figure.suptitle(f"Results on {report['protocol']['dataset']}", x=0.012, ha="left", weight="bold", color=_INK)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, metric in zip(panels, _headline(sections[0]), strict=True):
        draw_bars(panel, metric, [(_systems(section), _colours(section)) for section in sections], names=names)
    if len(sections) > 1:
        swatches = [Patch(color=_COLOURS[False, s["protocol"]["filter_seen"]], label=_setting(s)) for s in sections]
        figure.legend(handles=swatches, loc="upper right", ncols=2, frameon=False, fontsize=8.5, labelcolor=_INK)
    caption = "\n".join([*textwrap.wrap(_protocol_line(report), 150), _footnote(report)])
    figure.supxlabel(caption, size=7.5, color=_MUTED, x=0.012, ha="left")
    with replace_file(path) as partial:
        figure.savefig(partial)


def draw_curves(log: Sequence[Mapping[str, Any]], path: str | PathLike[str]) -> None:
    """Draw the loss of a training run and, if they were logged, validation metrics and rewards.

    Args:
        log (`Sequence[Mapping]`): `trainer.state.log_history`.
        path (`str` or `PathLike`): PNG file to write; nothing is written if the log holds none of the curves.
    """
    ranking = sorted({key for row in log for key in row if key.startswith("ranking/")})
    panels = {"loss": ["loss"], "ranking of a sample of validation users": ranking}
    if any("reward" in row for row in log):
        rewards = sorted({key for row in log for key in row if key.startswith("rewards/") and key.endswith("/mean")})
        panels |= {"rewards": rewards, "share of groups with equal rewards": ["frac_reward_zero_std"]}
        panels |= {"share of distinct items in a group": ["unique"], "KL to the reference model per token": ["kl"]}
        panels |= {"entropy per token, nats": ["entropy"], "preference accuracy": ["preference/accuracy"]}
        panels |= {"preference margin, nats": ["preference/margin"]}
        panels |= {"share of unconstrained samples that are items": ["unconstrained_validity"]}
    shown = {title: names for title, names in panels.items() if any(name in row for row in log for name in names)}
    if not shown:
        return
    from matplotlib.figure import Figure

    rows, columns = -(-len(shown) // 4), min(4, len(shown))
    figure = Figure(figsize=(4.8 * columns, 3.4 * rows), dpi=130, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in axes[len(shown) :]:
        panel.set_axis_off()
    for panel, (title, names) in zip(axes, shown.items(), strict=False):
        for name, colour in zip(names, itertools.cycle(_LINES), strict=False):
            steps, values = zip(*[(row["step"], row[name]) for row in log if name in row], strict=True)
            label = (
                name.removeprefix("ranking/").removeprefix("rewards/").removesuffix("/mean").removesuffix("_reward")
            )
            panel.plot(steps, values, color=colour, label=label, marker=".", markersize=4)
        panel.set_title(title, loc="left", size=10, color=_INK)
        panel.set_xlabel("step", size=8, color=_MUTED)
        panel.tick_params(length=0, labelsize=8, labelcolor=_MUTED)
        panel.grid(color=_GRID, linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            panel.legend(frameon=False, fontsize=8)
    with replace_file(path) as partial:
        figure.savefig(partial)


def draw_systems(
    systems: Mapping[str, Mapping[str, Any]],
    path: str | PathLike[str],
    *,
    metrics: Sequence[str],
    muted: Collection[str],
    caption: str,
) -> None:
    """Draw one panel per metric, with a bar and an interval for each system.

    Args:
        systems (`Mapping`): name of each system to its metrics and their `intervals`, from top to bottom.
        path (`str` or `PathLike`): PNG file to write.
        metrics (`Sequence[str]`): names of metrics, such as `recall@10`, from left to right.
        muted (`Collection[str]`): names of the systems that are drawn in gray, such as the reference.
        caption (`str`): text below the panels.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 1.4 + 0.36 * len(systems)), dpi=160, layout="constrained")
    colours = {name: _COLOURS[name not in muted, True] for name in systems}
    for panel, metric in zip(figure.subplots(1, len(metrics), sharey=True), metrics, strict=True):
        draw_bars(panel, metric, [(systems, colours)], names=list(systems))
    figure.supxlabel(caption, size=7.5, x=0.012, ha="left", wrap=True)
    with replace_file(path) as partial:
        figure.savefig(partial)


def draw_bars(
    panel: Any,
    metric: str,
    settings: Sequence[tuple[Mapping[str, Mapping[str, Any]], Mapping[str, str]]],
    *,
    names: Sequence[str],
) -> None:
    """Draw one metric as horizontal bars with intervals.

    Args:
        panel (`matplotlib.axes.Axes`): axes to draw on.
        metric (`str`): name of the metric, such as `recall@10`.
        settings (`Sequence`): for each setting, whose bars are next to each other, metrics and `intervals` by name of
            the system, and colors by name of the system.
        names (`Sequence[str]`): names of the systems, from top to bottom.
    """
    names, thickness, highest = list(names), 0.76 / len(settings), 0.0
    for i, (rows, colours) in enumerate(settings):
        for name, row in rows.items():
            y = names.index(name) + (i - (len(settings) - 1) / 2) * thickness
            low, high = row["intervals"][metric]
            highest = max(highest, high)
            panel.barh(y, row[metric], thickness * 0.88, color=colours[name])
            panel.plot([low, high], [y, y], color=_INK, linewidth=1.1, solid_capstyle="butt")
            panel.annotate(
                _format(row[metric]), (high, y), (5, 0), textcoords="offset points", va="center", size=8, color=_INK
            )
    panel.set_title(metric, loc="left", size=10, color=_INK)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_xlim(0, (highest or 1.0) * 1.16)
    panel.grid(axis="x", color=_GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=_INK)
    panel.tick_params(axis="x", length=0, labelsize=8, labelcolor=_MUTED)
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.spines["left"].set_color(_MUTED)


def _table(section: Mapping[str, Any], brief: bool) -> list[list[str]]:
    """Return the header and one row per system; `brief` is for a terminal of 120 columns."""
    systems = _systems(section)
    row = next(iter(systems.values()))
    ks, headline = _cutoffs(row), _headline(section)
    if brief:
        ks = [k for k in ks if 1 < k <= 10] or ks[:1]
    # ndcg@1 and mrr@1 equal recall@1; reciprocal rank and SID-level recall are shown for one cutoff.
    keys = [key for k in ks for key in (f"recall@{k}", f"ndcg@{k}") if key != "ndcg@1"]
    keys += [] if brief else [f"mrr@{ks[-1]}"]
    keys += [f"sid_{headline[0]}", *(key for key in row if key.startswith(("coverage", "similarity"))), "invalid_rate"]
    keys += [] if brief else ["duplicate_rate"]
    confidence = section["protocol"]["bootstrap"]["confidence"]
    header = ["", *(f"{key} [{confidence:.0%}]" if key in headline else key for key in keys)]
    return [header, *([name, *(_cell(row, key, key in headline) for key in keys)] for name, row in systems.items())]


def _cell(row: Mapping[str, Any], key: str, with_interval: bool) -> str:
    """Format a metric, with its interval if `with_interval`."""
    if not with_interval:
        return _format(row[key])
    low, high = row["intervals"][key]
    return f"{_format(row[key])} [{_format(low)}, {_format(high)}]"


def _format(value: float) -> str:
    """Format a value with four decimals and without the leading zero."""
    return f"{value:.4f}".removeprefix("0")


def _sections(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the sections of a report that hold results: seen items filtered, and seen items allowed."""
    return [section for section in (report, report.get("unfiltered")) if section and _systems(section)]


def _systems(section: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the results of a section by system, the model first."""
    return ({"model": section["model"]} if "model" in section else {}) | section["baselines"]


def _colours(section: Mapping[str, Any]) -> dict[str, str]:
    """Return the color of each system of a section."""
    return {name: _COLOURS[name == "model", section["protocol"]["filter_seen"]] for name in _systems(section)}


def _setting(section: Mapping[str, Any]) -> str:
    """Describe the setting of `filter_seen` of a section."""
    return "seen items filtered" if section["protocol"]["filter_seen"] else "seen items allowed"


def _filtered_targets(section: Mapping[str, Any]) -> list[str]:
    """Return a sentence on the targets that cannot be hit, if there are any."""
    share = section["protocol"].get("filtered_targets", 0)
    return [f"{share:.1%} of the targets are seen items, which no system can hit in this setting."] if share else []


def _search_error(section: Mapping[str, Any]) -> list[str]:
    """Return a sentence on what the beam search misses, if it was compared with exact scores."""
    if (error := section.get("search_error")) is None:
        return []
    differences = [
        "{} {difference:+.4f} [{low:+.4f}, {high:+.4f}]".format(metric, **test)
        for metric, test in error["above_exact"].items()
    ]
    return [
        f"Beam search against exact scores: the top {error['k']} is identical in {error['identical']:.1%} of the "
        f"cases; paired differences of model to model_exact: {', '.join(differences)}."
    ]


def _headline(section: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names of recall and NDCG at 10, or at the largest cutoff below it."""
    ks = _cutoffs(next(iter(_systems(section).values())))
    k = max([k for k in ks if k <= 10], default=min(ks))
    return f"recall@{k}", f"ndcg@{k}"


def _cutoffs(row: Mapping[str, Any]) -> list[int]:
    """Return the cutoffs of the metrics of a system."""
    return sorted(int(key.removeprefix("recall@")) for key in row if key.startswith("recall@"))


def _protocol_line(report: Mapping[str, Any]) -> str:
    """Describe the protocol of a report in one line."""
    p = report["protocol"]
    settings = " and ".join(str(section["protocol"]["filter_seen"]).lower() for section in _sections(report))
    cases = "" if p["cases"] == p["users"] else f"{p['cases']:,} cases, "
    counts = f"{p['users']:,} users, {cases}{p['items']:,} items"
    return f"Split {p['split']}, tie_break {p['tie_break']}, filter_seen {settings}, {counts}, all items ranked."


def _baseline_lines(report: Mapping[str, Any]) -> list[str]:
    """Describe the settings of the baselines, and name the baselines that were left out."""
    settings = report["protocol"].get("baseline_settings", {})
    left_out = report["protocol"].get("baselines_left_out", {})
    lines = {
        "Settings of baselines": "; ".join(f"{name}: {_settings_text(values)}" for name, values in settings.items()),
        "Left out": "; ".join(f"{name} ({reason})" for name, reason in left_out.items()),
    }
    return [f"{title}: {line}." for title, line in lines.items() if line]


def _settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings as text, such as `recent 5, pooling max`."""
    parts = [
        f"{name} ({_settings_text(value)})" if isinstance(value, Mapping) else f"{name} {value}"
        for name, value in settings.items()
    ]
    return ", ".join(parts)


def _footnote(report: Mapping[str, Any]) -> str:
    """Describe the intervals of a report."""
    b = report["protocol"]["bootstrap"]
    return f"Intervals: {b['confidence']:.0%} bootstrap over {b['unit']}, {b['resamples']:,} resamples."
