"""The benchmarks run, and write what they promise."""

import json
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import datasets
import pytest
import torch

ROOT = Path(__file__).parents[1]


def test_decoding_measures_every_row_and_agrees_with_hugging_face(tmp_path, monkeypatch):
    file = tmp_path / "decoding.json"
    words = "--batch 2 --prompt_length 9 --num_beams 4 --samples 3 --items 400 --levels 3 --level_size 16"
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


def test_rq_kmeans_measures_a_catalogue(tmp_path, monkeypatch):
    file = tmp_path / "rq_kmeans.json"
    # Its residuals, 48 MB, are more than malloc ever takes from memory that is there: the peak must show them.
    words = "--items 200000 --embedding_size 60 --level_sizes 8 8 --restarts 1 --points_per_code 25000 --quiet true"
    words += f" --json {file}"
    monkeypatch.setattr(sys, "argv", ["rq_kmeans.py", *words.split()])
    runpy.run_path(str(ROOT / "benchmarks" / "rq_kmeans.py"), run_name="__main__")
    report = json.loads(file.read_text())
    assert report["setting"]["items"] == 200_000 and 0 < report["error"] < 1
    assert report["fit_s"] > 0 and report["encode_s"] > 0 and report["peak_gb"] > 0.04
    assert len(report["levels"]) == 2 and all(level["largest"] >= 25_000 for level in report["levels"])


def test_mixture_measures_what_it_builds(tmp_path, monkeypatch):
    file = tmp_path / "mixture.json"
    monkeypatch.setattr(sys, "argv", f"mixture.py --examples 2000 --items 60 --users 20 --json {file}".split())
    cache = datasets.config.HF_DATASETS_CACHE
    runpy.run_path(str(ROOT / "benchmarks" / "mixture.py"), run_name="__main__")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    datasets.enable_progress_bars()
    report = json.loads(file.read_text())
    assert abs(report["examples"] - 2000) < 60 and report["tasks"] > 15 and report["seconds"] > 0


def test_supervision_is_compared(tmp_path, monkeypatch):
    file = tmp_path / "supervision.json"
    words = "--history 10 --tokens 100 --layers 1 --vocabulary 1000 --level_size 16 --items 200 --users 12"
    words += f" --rounds 3 --quiet true --json {file}"
    monkeypatch.setattr(sys, "argv", ["supervision.py", *words.split()])
    runpy.run_path(str(ROOT / "benchmarks" / "supervision.py"), run_name="__main__")
    report = json.loads(file.read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["one_target", "dense", "dense_share", "dense_level", "packed"]
    assert report["setting"]["history"] == 10
    assert rows["one_target"]["items_per_batch"] == 100 // (13 + 11 * 3) == 2
    assert rows["one_target"]["ratio_to_one_target"] == 1
    for row in rows.values():
        assert row["supervised_items_per_s"] > 0 and row["tokens_per_batch"] <= 100
    assert (
        rows["packed"]["items_per_batch"]
        > 10 * rows["one_target"]["items_per_batch"]
        > rows["dense"]["items_per_batch"]
    )


@pytest.mark.parametrize("lengths", ["", "--mean_length 3"])
def test_sasrec_is_timed_beside_recbole(lengths, tmp_path, monkeypatch):
    class Model(torch.nn.Linear):
        """Stands for RecBole's, which needs more packages than the tests do."""

        def __init__(self, config, dataset):
            super().__init__(config["hidden_size"], dataset.num("item"))

        def calculate_loss(self, given):
            assert ((given["item_list"] > 0).sum(dim=1) == given["length"]).all() and given["item"].min() > 0
            return torch.nn.functional.cross_entropy(self(torch.ones(len(given["item"]), 8)), given["item"])

    name = "recbole.model.sequential_recommender.sasrec"
    for part in ("recbole", "recbole.model", "recbole.model.sequential_recommender"):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(SASRec=Model))
    file = tmp_path / "sasrec.json"
    words = (
        f"--items 50 --batch 4 --length 6 --hidden_size 8 --rounds 2 --dropout 0 {lengths} --quiet true --json {file}"
    )
    monkeypatch.setattr(sys, "argv", ["sasrec.py", *words.split()])
    runpy.run_path(str(ROOT / "benchmarks" / "sasrec.py"), run_name="__main__")
    report = json.loads(file.read_text())
    assert report["losses"]["padded"] == pytest.approx(report["losses"]["dense"])
    rows = {row["name"]: row for row in report["rows"]}
    assert (
        list(rows) == ["recbole", "one_target", "padded", "dense", "sampled"]
        and rows["recbole"]["steps_vs_recbole"] == 1
    )
    one, dense = rows["one_target"], rows["dense"]
    assert one["targets_vs_recbole"] == pytest.approx(one["steps_vs_recbole"])
    assert lengths or dense["targets_vs_recbole"] == pytest.approx(6 * dense["steps_vs_recbole"])


@pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning")
def test_grpo_step_compares_with_stock_trl(tmp_path, monkeypatch):
    file = tmp_path / "grpo_step.json"
    words = "--prompts 2 --completions 4 --history 5 --layers 2 --vocabulary 2000 --items 300 --rounds 1 --quiet true"
    monkeypatch.setattr(sys, "argv", ["grpo_step.py", *words.split(), "--json", str(file)])
    runpy.run_path(str(ROOT / "benchmarks" / "grpo_step.py"), run_name="__main__")
    report = json.loads(file.read_text())
    assert report["loss_difference"] < 1e-4 and report["speedup"] > 0
    for parts in report["parts"].values():
        assert parts["whole"] == pytest.approx(sum(parts.values()) / 2, rel=0.01)


def test_the_grid_of_decoding_is_written_case_by_case(tmp_path, monkeypatch):
    file = tmp_path / "grid.json"
    words = "--prompt_length 9 --items 400 --levels 3 --level_size 16 --vocabulary 2000 --layers 1 --rounds 1"
    words += f" --model qwen3-0.6b --batches 2 --beam_counts 3 4 --static false --json {file}"
    monkeypatch.setattr(sys, "argv", ["decoding_grid.py", *words.split()])
    runpy.run_path(str(ROOT / "benchmarks" / "gpu" / "decoding_grid.py"), run_name="__main__")
    report = json.loads(file.read_text())
    assert report["setting"]["model"] == "qwen3-0.6b"
    cases = [(case["batch"], case["num_beams"], case["static"]) for case in report["cases"]]
    assert cases == [(2, 3, False), (2, 4, False)]
    for case in report["cases"]:
        assert case["sid_level_speedup"] == pytest.approx(case["hf_prefix"] / case["sid_level"]) and case["floor"] > 0


def test_versions_that_the_library_does_not_admit_are_named(tmp_path):
    wanted = ["pytest>=9999", "nowhere>1", "numpy>=1"]
    (tmp_path / "pyproject.toml").write_text(f"[project]\ndependencies = {json.dumps(wanted)}\n")
    outside = runpy.run_path(str(ROOT / "benchmarks" / "gpu" / "environment.py"))["outside"]
    assert outside(tmp_path) == {"pytest": f"{pytest.__version__}, needs >=9999", "nowhere": "missing, needs >1"}


def test_catalogues_are_loaded_and_recommended_from_side_by_side(tmp_path, monkeypatch):
    file = tmp_path / "catalogue.json"
    words = f"--items 20 300 --level_size 5 --history 5 --calls 3 --quiet true --json {file}"
    monkeypatch.setattr(sys, "argv", ["catalogue.py", *words.split()])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    names = runpy.run_path(str(ROOT / "benchmarks" / "catalogue.py"), run_name="__main__")
    report = json.loads(file.read_text())
    assert [row["items"] for row in report["rows"]] == [20, 300] and report["rows"][0]["ratio"] == 1
    for row in report["rows"]:
        assert min(row["load_s"], row["trie_s"], row["index_s"], row["recommend_ms"]) > 0 and row["peak_mb"] >= 0
    sids = names["random_catalogue"](300, 5)
    assert sids.level_sizes == (5,) * 4 and len(sids) == 300 and sids.codes.max() == 4 and sids.ids([0])[0][0] == "B"
    with pytest.raises(ValueError, match="at most the 625 SIDs of 4 levels of 5 codes"):
        names["Setting"](items=[20, 626], level_size=5)
