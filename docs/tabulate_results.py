"""Writes `docs/results.md`: one table a data set and split of all rows in `recipes/configs/*/results.json`.

    python docs/tabulate_results.py [--check]

With `--check` nothing is written, and the exit code is 1 if the page is not that of the files. Rows of several files
that have the same figures are one row of the page.
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from genrec_hf.evaluation.results import read_results
from genrec_hf.markdown import markdown_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/results.md"
METRICS = ("recall@10", "ndcg@10")
HEADER = ("system", "seed", *METRICS, "device", "measured in")
INTRODUCTION = """# Measured results

All items are ranked, seen items filtered; in brackets 95 % bootstrap intervals over users. A table is sorted by
ndcg@10. What a system is, how it was trained and what else was measured is in the linked README, and the figures as
data in the `results.json` beside it. A mean is over the seeds that the README names. Rows on the validation event
served to choose settings. `python docs/tabulate_results.py` writes this page from the files."""


def figure(row: dict[str, Any], metric: str) -> str:
    """Return a metric of a row with its interval, or an empty text if it was not measured."""
    if row.get(metric) is None:
        return ""
    numbers = [f"{value:.4f}".removeprefix("0") for value in (row[metric], *(row.get(f"{metric}_interval") or ()))]
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def table(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """Return the table of one data set and split, of rows with the folder of each."""
    folders: dict[tuple[Any, ...], list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for folder, row in rows:
        folders[row["system"], row["seed"], *(row.get(metric) for metric in METRICS)].append((folder, row))
    lines = []
    for same in sorted(folders.values(), key=lambda entries: -(entries[0][1].get("ndcg@10") or 0)):
        merged = {key: value for _, row in reversed(same) for key, value in row.items() if value is not None}
        links = ", ".join(f"[{folder}](../recipes/configs/{folder}/README.md)" for folder, _ in same)
        seed = merged.get("seed", "")
        cells = [figure(merged, metric) for metric in METRICS]
        lines.append([merged["system"], seed, *cells, merged.get("device", ""), links])
    return markdown_table(HEADER, lines)


def page() -> str:
    """Return the text of the page."""
    sections: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for path in sorted(ROOT.glob("recipes/configs/*/results.json")):
        for row in read_results(path):
            sections[row["dataset"], row["split"]].append((path.parent.name, row))
    blocks = [INTRODUCTION]
    for (dataset, split), rows in sorted(sections.items()):
        blocks += [f"## {dataset}, {split}", table(rows)]
    return "\n\n".join(blocks) + "\n"


def main(words: list[str]) -> None:
    """Write the page, or compare it with the files."""
    if words != ["--check"]:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit("docs/results.md is not that of recipes/configs/*/results.json: run python docs/tabulate_results.py")


if __name__ == "__main__":
    main(sys.argv[1:])
