"""The rows of `results.json`, written as a whole after every change, and the table of them."""

import json
from pathlib import Path
from typing import Any

from genrec_hf.directories import write_text
from genrec_hf.markdown import markdown_table

FILE = "results.json"
# A row is begun, then ends in one of the others; of a run that was killed it is still "begun".
FINISHED, BEGUN, CUT_SHORT, NO_DATA = "ok", "begun", "cut short by the end of the time", "no data"
FAILED, STOPPED = "failed", "stopped at its limit"


class Results:
    """Rows by step, of one commit.

    Args:
        out (`Path`): folder of `results.json` and `table.md`; made when absent.
        commit (`str`): of the code that runs now.

    Raises:
        ValueError: the folder holds results of another commit, or trials beside measurements.
    """

    def __init__(self, out: Path, commit: str, dry: bool) -> None:
        self.file, self.table_file, self.commit = out / FILE, out / "table.md", commit
        self.rows: dict[str, dict[str, Any]] = {}
        self.device: dict[str, Any] = {}
        self.dry = dry
        if self.file.is_file():
            written = json.loads(self.file.read_text(encoding="utf-8"))
            if (written["commit"], written["dry"]) != (commit, dry):
                there, here = f"{written['commit']}{' (dry)' * written['dry']}", f"{commit}{' (dry)' * dry}"
                raise ValueError(
                    f"{str(out)!r} holds results of commit {there}, and this is {here}: one table is of one state of "
                    "the code; name another folder by --out"
                )
            self.rows = {row["step"]: row for row in written["rows"]}

    def put(self, row: dict[str, Any]) -> None:
        """Add a row or replace the one of its step, and write."""
        self.rows[row["step"]] = row
        content = {"commit": self.commit, "dry": self.dry, "machine": self.device, "rows": list(self.rows.values())}
        write_text(self.file, json.dumps(content, indent=1) + "\n")

    def order(self, names: list[str]) -> list[str]:
        """What is to be run: in the order given, without what is finished; what failed or took too long, last."""
        tried = {name: row["status"] for name, row in self.rows.items()}
        unfinished = [name for name in names if tried.get(name) != FINISHED]
        return sorted(unfinished, key=lambda name: tried.get(name) in (FAILED, STOPPED))

    def table(self, names: list[str]) -> str:
        """All steps as a Markdown table, also written to `table.md`."""
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
    """A few numbers of a row, for the table."""
    if "cases" in metrics:
        return "; ".join(
            f"{case['batch']}x{case['num_beams']}{' static' * case['static']} {case['sid_level']:.3g} s"
            for case in metrics["cases"]
            if "sid_level" in case
        )
    if "rows" in metrics:
        return ", ".join(f"{row['name']} {row['supervised_items_per_s']:.4g}/s" for row in metrics["rows"])
    wanted = ("recall@10", "ndcg@10", "speedup", "tokens_per_s", "share_of_peak")
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in wanted if isinstance(metrics.get(name), float))
