"""Writes quantization reports as JSON, as Markdown tables, and as a figure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.manifold import TSNE

from genrec_hf.directories import as_directory, replace_file, write_text
from genrec_hf.markdown import markdown_table

# t-SNE of more items takes minutes, and the map looks the same.
MAX_MAP_ITEMS = 4000
_QUANTIZERS_CAPTION = (
    "Fraction of items that share all their codes with another item, before and after collision resolution; items in "
    "the largest such group; fraction of the variance lost; time and peak memory of fitting and encoding."
)
_LEVELS_CAPTION = (
    "By prefix length: usage of the level's codes; fraction of nearest neighbors, and of co-occurring pairs, with the "
    "same prefix (in parentheses: by chance); fraction of items in the most frequent category of their prefix (in "
    "parentheses: for shuffled codes)."
)


def write_report(
    reports: Mapping[str, Mapping[str, Any]],
    codes: Mapping[str, np.ndarray],
    embeddings: np.ndarray,
    *,
    directory: str | Path,
    examples: Sequence[tuple[str, str]] = (),
) -> None:
    """Write `report.json`, `report.md` and `report.png` into a directory.

    The figure has a row for each quantizer: how often each code of each level is used, and a map of the items (t-SNE
    of the embeddings of at most 4,000 items) colored by their first code.

    Args:
        reports (`Mapping`): results of `quantization_report` by quantizer.
        codes (`Mapping`): codes `[items, levels]` by quantizer, before collision resolution.
        embeddings (`np.ndarray`): `[items, d]`, the embeddings that the codes were made from.
        directory (`str` or `Path`): created if it does not exist.
        examples (`Sequence[tuple[str, str]]`, *optional*): SIDs and titles of some items, listed in `report.md`.
    """
    directory = as_directory(directory, "directory")
    write_text(directory / "report.json", json.dumps({"quantizers": reports}, indent=2))
    write_text(directory / "report.md", markdown(reports, examples))
    _draw(reports, codes, embeddings, directory / "report.png")


def markdown(reports: Mapping[str, Mapping[str, Any]], examples: Sequence[tuple[str, str]] = ()) -> str:
    """Format reports as Markdown: one table by quantizer, one by quantizer and level, and one of example items.

    Args:
        reports (`Mapping`): results of `quantization_report` by quantizer.
        examples (`Sequence[tuple[str, str]]`, *optional*): SIDs and titles of some items.

    Returns:
        `str`: the Markdown text.
    """
    quantizer_rows, level_rows = [], []
    for name, report in reports.items():
        sizes = " x ".join(str(level["codes"]) for level in report["levels"])
        collisions = [f"{report[f'collision_{stage}']:.2%}" for stage in ("before", "after")]
        formats = {"reconstruction_error": ".3f", "seconds": ".1f", "peak_mb": ".0f"}
        cells = [None if report[key] is None else format(report[key], form) for key, form in formats.items()]
        quantizer_rows.append([name, sizes, *collisions, report["largest_group"], *cells])
        for number, level in enumerate(report["levels"]):
            cells = [
                _format_with_chance(report[metric], report[chance], number)
                for metric, chance in (
                    ("neighbour_hit_rate", "neighbour_hit_rate_chance"),
                    ("cooccurrence_hit_rate", "cooccurrence_hit_rate_chance"),
                    ("purity", "purity_shuffled"),
                )
            ]
            usage = [f"{level['used']} of {level['codes']}", f"{level['perplexity']:.1f}", level["largest"]]
            level_rows.append([name, number + 1, *usage, *cells])
    blocks = ["# Semantic ids", _QUANTIZERS_CAPTION]
    header = ["quantizer", "levels", "colliding", "after", "largest group", "variance lost", "seconds", "MB"]
    blocks += [markdown_table(header, quantizer_rows), _LEVELS_CAPTION]
    header = ["quantizer", "level", "used", "perplexity", "largest code", "neighbors", "co-occurrences", "purity"]
    blocks.append(markdown_table(header, level_rows))
    if examples:
        blocks += ["Some items:", markdown_table(["SID", "title"], [(f"`{sid}`", title) for sid, title in examples])]
    return "\n\n".join(blocks) + "\n"


def _format_with_chance(values: list[float] | None, chances: list[float] | None, number: int) -> str:
    return "" if values is None or chances is None else f"{values[number]:.3f} ({chances[number]:.3f})"


def _draw(
    reports: Mapping[str, Mapping[str, Any]], codes: Mapping[str, np.ndarray], embeddings: np.ndarray, path: Path
) -> None:
    # Matplotlib is slow to import, so it is imported here only. A bare Figure needs no display.
    from matplotlib.figure import Figure

    mapped_items = np.random.default_rng(0).permutation(len(embeddings))[:MAX_MAP_ITEMS]
    positions = _map_positions(embeddings[mapped_items])
    levels = max(len(report["levels"]) for report in reports.values())
    figure = Figure(figsize=(3.4 * levels + 3.2, 3.1 * len(reports) + 0.4), dpi=110, layout="constrained")
    subfigures = figure.subfigures(len(reports), 1, squeeze=False)[:, 0]
    for subfigure, (name, report) in zip(subfigures, reports.items(), strict=True):
        subfigure.suptitle(name, x=0.01, ha="left", fontsize=11, weight="bold")
        row = subfigure.subplots(1, levels + 1, squeeze=False)[0]
        for number, axes in enumerate(row[:-1]):
            if number < len(report["levels"]):
                _draw_usage(axes, codes[name][:, number], report["levels"][number], f"level {number + 1}")
            else:
                axes.set_axis_off()
        row[-1].scatter(*positions.T, c=codes[name][mapped_items, 0] % 20, cmap="tab20", s=4, linewidths=0)
        row[-1].set_title("items by first code", fontsize=9)
        row[-1].set_xticks([])
        row[-1].set_yticks([])
    with replace_file(path) as partial:
        figure.savefig(partial)


def _draw_usage(axes: Any, codes: np.ndarray, level: Mapping[str, Any], title: str) -> None:
    counts = np.sort(np.bincount(codes, minlength=level["codes"]))[::-1]
    axes.bar(range(len(counts)), counts, width=1.0, color="#3b6ea5")
    axes.axhline(len(codes) / level["codes"], color="#c4552d", linewidth=1, linestyle="--", label="uniform usage")
    axes.set_title(f"{title}: {level['used']} of {level['codes']} used", fontsize=9)
    axes.set_xlabel("codes, most used first", fontsize=8)
    axes.set_ylabel("items", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _map_positions(embeddings: np.ndarray) -> np.ndarray:
    """Compute positions `[items, 2]` on the map by t-SNE; fewer than 10 items are put on a line."""
    if len(embeddings) < 10:
        return np.stack([np.arange(len(embeddings)), np.zeros(len(embeddings))], axis=1)
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    return TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(embeddings)
