"""The benchmarks run, and write what they promise."""

import json
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_decoding_measures_every_row_and_agrees_with_hugging_face(tmp_path, monkeypatch):
    file = tmp_path / "decoding.json"
    words = "--batch 2 --prompt_length 9 --width 4 --samples 3 --items 400 --levels 3 --level_size 16"
    words += f" --vocabulary 2000 --layers 2 --rounds 1 --memory false --catalogues false --quiet true --json {file}"
    monkeypatch.setattr(sys, "argv", ["decoding.py", *words.split()])
    runpy.run_path(str(ROOT / "benchmarks" / "decoding.py"), run_name="__main__")
    report = json.loads(file.read_text())
    rows = {row["name"]: row for row in report["rows"]}
    beams = ["hf_prefix", "hf_processor", "prefill_once", "sid_full", "sid_level", "sid_trie"]
    assert list(rows) == [*beams, "hf_sample", "sid_sample", "floor"]
    for row in rows.values():
        assert row["median_s"] > 0 and row["ratio_to_floor"] > 0 and row["speedup_vs_hf"] > 0
    for name in beams[1:]:
        assert rows[name]["same_items_as_hf"] is True and rows[name]["max_score_diff"] < 1e-4
    assert rows["floor"]["same_items_as_hf"] is None and report["setting"]["items"] == 400
