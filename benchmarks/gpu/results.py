"""`results.json`, which is written again after every change, and its table."""

import json
from pathlib import Path
from typing import Any

from genrec_hf.directories import write_text
from genrec_hf.markdown import markdown_table

FILE = "results.json"
# A row starts as "begun" and ends as one of the others; after a run was killed it is still "begun".
FINISHED, BEGUN, CUT_SHORT, NO_DATA = "ok", "begun", "cut short by the end of the time", "no data"
FAILED, STOPPED = "failed", "stopped at its limit"


class Results:
    """Rows of results by step, of one commit.

    Args:
        out (`Path`): folder of `results.json` and `table.md`; created if absent.
        commit (`str`): of the current code.
        dry (`bool`): whether the run is a trial.

    Raises:
        ValueError: the folder holds results of another commit, or of trials where this is none, or the reverse.
    """

    def __init__(self, out: Path, commit: str, dry: bool) -> None:
        self.file, self.table_file, self.commit = out / FILE, out / "table.md", commit
        self.rows: dict[str, dict[str, Any]] = {}
        self.device: dict[str, Any] = {}
        self.dry = dry
        if self.file.is_file():
            written = json.loads(self.file.read_text(encoding="utf-8"))
            if (written["commit"], written["dry"]) != (commit, dry):
                saved, current = f"{written['commit']}{' (dry)' * written['dry']}", f"{commit}{' (dry)' * dry}"
                raise ValueError(
                    f"{str(out)!r} holds results of commit {saved}, and the code is of {current}: a table holds the "
                    "results of one commit; name another folder with --out"
                )
            self.rows = {row["step"]: row for row in written["rows"]}

    def put(self, row: dict[str, Any]) -> None:
        """Add a row, or replace the one of its step, and write the file."""
        self.rows[row["step"]] = row
        content = {"commit": self.commit, "dry": self.dry, "machine": self.device, "rows": list(self.rows.values())}
        write_text(self.file, json.dumps(content, indent=1) + "\n")

    def order(self, names: list[str]) -> list[str]:
        """Return the unfinished steps in the order given; those that failed or reached their limit come last."""
        tried = {name: row["status"] for name, row in self.rows.items()}
        unfinished = [name for name in names if tried.get(name) != FINISHED]
        return sorted(unfinished, key=lambda name: tried.get(name) in (FAILED, STOPPED))

    def table(self, names: list[str]) -> str:
        """Format all steps as a Markdown table, and write it to `table.md`."""
        lines = []
        for name in names:
            row = self.rows.get(name)
            if row is None:
                lines.append([name, *[None] * 5, "not run"])
                continue
            fields = [row["system"], row["dataset"], row["seed"], figures(row["metrics"])]
            lines.append([name, *fields, f"{row['minutes']:.1f}", row["status"]])
        text = markdown_table(["step", "system", "data set", "seed", "figures", "minutes", "status"], lines)
        write_text(self.table_file, text + "\n")
        return text


def figures(metrics: dict[str, Any]) -> str:
    """Format a few numbers of a row, for the table."""
    if "cases" in metrics:
        return "; ".join(
            f"{case['batch']}x{case['num_beams']}{' static' * case['static']} {case['sid_level']:.3g} s"
            for case in metrics["cases"]
            if "sid_level" in case
        )
    if "rows" in metrics:
        return ", ".join(f"{row['name']} {row['supervised_items_per_s']:.4g}/s" for row in metrics["rows"])
    names = ("recall@10", "ndcg@10", "speedup", "tokens_per_s", "share_of_peak")
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in names if isinstance(metrics.get(name), float))
