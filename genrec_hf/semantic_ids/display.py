"""Reports of codes for the eye: one table for any number of quantizers, and one picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.manifold import TSNE

from genrec_hf.directories import as_directory, replacing, write_text
from genrec_hf.markdown import markdown_table

# A map of more items takes minutes and shows no more.
MOST_ON_MAP = 4000
_QUANTIZERS = (
    "Shares of items that share all their codes with another (before and after resolution), the largest such group, "
    "the share of variance lost; time and memory of fitting and encoding."
)
_LEVELS = (
    "By prefix length: use of the level's codes; shares of nearest neighbours, and of pairs chosen together, with the "
    "same prefix (by chance in brackets); share of items in the commonest category of their prefix (shuffled codes in "
    "brackets)."
)


def write_report(
    reports: Mapping[str, Mapping[str, Any]],
    codes: Mapping[str, np.ndarray],
    embeddings: np.ndarray,
    *,
    directory: str | Path,
    examples: Sequence[tuple[str, str]] = (),
) -> None:
    """Write `report.json`, `report.md` and `report.png` into `directory`.

    The picture has a row a quantizer: for each level how often each code is used, and a map of the items (t-SNE of the
    embeddings, at most 4,000 items) coloured by their first code.

    Args:
        reports (`Mapping`): quantizer to what `quantization_report` gave.
        codes (`Mapping`): quantizer to its codes `[items, levels]`, before collision resolution.
        embeddings (`np.ndarray`): `[items, d]`, what the codes were made from.
        directory (`str` or `Path`): made when absent.
        examples (`Sequence[tuple[str, str]]`, *optional*): SIDs and titles of some items, to look at.
    """
    directory = as_directory(directory, "directory")
    write_text(directory / "report.json", json.dumps({"quantizers": reports}, indent=2))
    write_text(directory / "report.md", markdown(reports, examples))
    _draw(reports, codes, embeddings, directory / "report.png")


def markdown(reports: Mapping[str, Mapping[str, Any]], examples: Sequence[tuple[str, str]] = ()) -> str:
    """The reports as two tables, a line a quantizer, a line a level of each, and some items with their SIDs."""
    quantizers, levels = [], []
    for name, report in reports.items():
        sizes = " x ".join(str(level["codes"]) for level in report["levels"])
        collisions = [f"{report[f'collision_{when}']:.2%}" for when in ("before", "after")]
        forms = {"reconstruction_error": ".3f", "seconds": ".1f", "peak_mb": ".0f"}
        figures = [None if report[key] is None else format(report[key], form) for key, form in forms.items()]
        quantizers.append([name, sizes, *collisions, report["largest_group"], *figures])
        for number, level in enumerate(report["levels"]):
            figures = [
                _with_chance(report[figure], report[chance], number)
                for figure, chance in (
                    ("neighbour_hit_rate", "neighbour_hit_rate_chance"),
                    ("together_hit_rate", "together_hit_rate_chance"),
                    ("purity", "purity_shuffled"),
                )
            ]
            use = [f"{level['used']} of {level['codes']}", f"{level['perplexity']:.1f}", level["largest"]]
            levels.append([name, number + 1, *use, *figures])
    blocks = ["# Semantic ids", _QUANTIZERS]
    header = ["quantizer", "levels", "colliding", "after", "largest group", "variance lost", "seconds", "MB"]
    blocks += [markdown_table(header, quantizers), _LEVELS]
    header = ["quantizer", "level", "used", "perplexity", "largest code", "neighbours", "together", "purity"]
    blocks.append(markdown_table(header, levels))
    if examples:
        blocks += ["Some items:", markdown_table(["SID", "title"], [(f"`{sid}`", title) for sid, title in examples])]
    return "\n\n".join(blocks) + "\n"


def _with_chance(figures: list[float] | None, chances: list[float] | None, number: int) -> str:
    return "" if figures is None or chances is None else f"{figures[number]:.3f} ({chances[number]:.3f})"


def _draw(
    reports: Mapping[str, Mapping[str, Any]], codes: Mapping[str, np.ndarray], embeddings: np.ndarray, path: Path
) -> None:
    # Matplotlib only here: it is slow to import. A bare Figure needs no display.
    from matplotlib.figure import Figure

    shown = np.random.default_rng(0).permutation(len(embeddings))[:MOST_ON_MAP]
    places = _places(embeddings[shown])
    most = max(len(report["levels"]) for report in reports.values())
    figure = Figure(figsize=(3.4 * most + 3.2, 3.1 * len(reports) + 0.4), dpi=110, layout="constrained")
    parts = figure.subfigures(len(reports), 1, squeeze=False)[:, 0]
    for part, (name, report) in zip(parts, reports.items(), strict=True):
        part.suptitle(name, x=0.01, ha="left", fontsize=11, weight="bold")
        row = part.subplots(1, most + 1, squeeze=False)[0]
        for number, panel in enumerate(row[:-1]):
            if number < len(report["levels"]):
                _draw_use(panel, codes[name][:, number], report["levels"][number], f"level {number + 1}")
            else:
                panel.set_axis_off()
        row[-1].scatter(*places.T, c=codes[name][shown, 0] % 20, cmap="tab20", s=4, linewidths=0)
        row[-1].set_title("items by first code", fontsize=9)
        row[-1].set_xticks([])
        row[-1].set_yticks([])
    with replacing(path) as partial:
        figure.savefig(partial)


def _draw_use(panel: Any, codes: np.ndarray, level: Mapping[str, Any], title: str) -> None:
    counts = np.sort(np.bincount(codes, minlength=level["codes"]))[::-1]
    panel.bar(range(len(counts)), counts, width=1.0, color="#3b6ea5")
    panel.axhline(len(codes) / level["codes"], color="#c4552d", linewidth=1, linestyle="--", label="even use")
    panel.set_title(f"{title}: {level['used']} of {level['codes']} used", fontsize=9)
    panel.set_xlabel("codes, most used first", fontsize=8)
    panel.set_ylabel("items", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.legend(frameon=False, fontsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _places(embeddings: np.ndarray) -> np.ndarray:
    """Places `[items, 2]` on a map; a catalogue too small for one lies on a line."""
    if len(embeddings) < 10:
        return np.stack([np.arange(len(embeddings)), np.zeros(len(embeddings))], axis=1)
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    return TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(embeddings)
