"""Measured results as data: rows of a report, merging, means over seeds, and the committed files."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from genrec_hf.evaluation import evaluate_data, rank_cases
from genrec_hf.evaluation.baselines import Popularity
from genrec_hf.evaluation.results import (
    check_row,
    is_metric,
    mean_rows,
    read_results,
    result_rows,
    training_seed,
    write_results,
)

ROOT = Path(__file__).parents[1]
FOLDERS = sorted((ROOT / "recipes/configs").iterdir())
ROW = {"system": "a", "dataset": "toy", "split": "leave_one_out, test", "seed": 1, "recall@10": 0.25}
# A table whose column recall@10 holds figures.
MEASURED = re.compile(r"^\|[^\n]*\brecall@10\b[^\n]*\|\n\|[-:| ]+\|\n\|[^\n]*\| \**-?\.\d", re.MULTILINE)


def test_rows_of_a_report_are_its_filtered_half(toy_data, tmp_path):
    cases = toy_data.cases("test")
    popularity = Popularity(toy_data.training_sequences(), 24)
    candidates = cases.candidates(24, 5)
    ranked = rank_cases(popularity, cases.histories, 24, candidates=candidates)
    report = evaluate_data(toy_data, "test", ranked, candidates=candidates, progress=False)
    facts = {"command": "python recipes/evaluate.py", "device": "a CPU", "minutes": 0.5}
    rows = result_rows(report, system_names={"model": "mine"}, seed=42, **facts)
    assert [row["system"] for row in rows] == ["mine", *report["baselines"]]
    model = rows[0]
    assert (model["seed"], rows[1]["seed"], model["dataset"]) == (42, None, report["protocol"]["dataset"])
    assert model["split"] == "leave_one_out, test" and {name: model[name] for name in facts} == facts
    assert model["recall@10"] == report["model"]["recall@10"]
    assert model["ndcg@10_interval"] == report["model"]["intervals"]["ndcg@10"]
    assert model["hit@1_of_5"] == report["candidates"]["systems"]["model"]["hit@1"]
    write_results(rows, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == rows


def test_rows_replace_those_of_the_same_system_data_split_and_seed(tmp_path):
    path = tmp_path / "results.json"
    write_results([ROW, ROW | {"seed": 2}], path)
    write_results([ROW | {"recall@10": 0.5}, ROW | {"split": "leave_one_out, validation"}], path)
    assert [row["recall@10"] for row in read_results(path)] == [0.5, 0.25, 0.25]
    assert json.loads(path.read_text()).keys() == {"rows"}


def test_means_are_over_the_seeds_of_a_system():
    rows = [ROW | {"ndcg@10": 0.1}, ROW | {"seed": 2, "recall@10": 0.75}, ROW | {"system": "b"}, ROW | {"seed": None}]
    (mean,) = mean_rows(rows)
    assert mean == {**{key: ROW[key] for key in ("system", "dataset", "split")}, "seed": "mean"} | {
        "recall@10": (0.25 + 0.75) / 2,
        "seeds": [1, 2],
    }
    check_row(mean)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recal@10": 0.1}, r"unknown keys \['recal@10'\]"),
        ({"seed": "all"}, "give three texts"),
        ({"seed": True}, "give three texts"),
        ({"system": ""}, "give three texts"),
        ({"recall@10": 25}, "out of range: give shares"),
        ({"recall@10": float("nan")}, "out of range"),
        ({"recall@10": "0.25"}, "out of range"),
        ({"recall@10_interval": 0.25}, "for an interval"),
        ({"recall@10_interval": [0.25]}, "for an interval"),
    ],
)
def test_a_row_of_another_form_is_refused_and_nothing_is_written(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_results([ROW | change], tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()


def test_a_file_of_another_form_is_refused(tmp_path):
    path = tmp_path / "results.json"
    for text, message in (
        ("[]", "does not hold results"),
        ("{", "does not hold results"),
        ('{"rows": [{}]}', "row 0"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_results(path)
    path.write_text(json.dumps({"rows": [ROW, ROW]}))
    with pytest.raises(ValueError, match="two rows of one system"):
        read_results(path)


def test_the_seed_of_a_model_is_that_of_its_run(tmp_path):
    assert training_seed(tmp_path) is None and training_seed("someone/repository") is None
    (tmp_path / "run_settings.json").write_text('{"seed": 7, "learning_rate": 0.1}')
    assert training_seed(tmp_path) == 7


# The committed files


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_folder_with_measured_lists_has_their_figures_as_data(folder):
    assert (folder / "results.json").is_file() == bool(MEASURED.search((folder / "README.md").read_text()))


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("recipes/configs/*/results.json")), ids=lambda path: path.parent.name
)
def test_every_committed_figure_is_in_the_readme(path):
    lines = (path.parent / "README.md").read_text().splitlines()
    numbers = [{float(number) for number in re.findall(r"[-+]?\d*\.?\d+", line)} for line in lines]
    for row in read_results(path):
        figures = np.concatenate([np.ravel(row[key]) for key in row if is_metric(key.removesuffix("_interval"))])
        assert len(figures) and any(set(figures.tolist()) <= line for line in numbers), row


def test_the_page_of_results_is_that_of_the_files():
    command = [sys.executable, str(ROOT / "docs/tabulate_results.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
