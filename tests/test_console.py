"""`genrec-hf` lists the recipes and runs each as its script does; help loads nothing heavy."""

import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import genrec_hf
from genrec_hf import command_line, console

ROOT = Path(__file__).parents[1]
SCRIPTS = {path.stem.replace("_", "-"): path for path in (ROOT / "recipes").glob("*.py")}


@pytest.fixture
def run_console(monkeypatch):
    """Run `genrec-hf` in this process, which keeps its own main module; returns the exit code."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/genrec-hf", *words])
        monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
        return exit_code(console.run)

    return run


def exit_code(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except SystemExit as error:
        return error.code
    return 0


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_every_recipe_is_listed_with_its_first_line(words, run_console, capsys):
    assert run_console(*words) == 0
    out = capsys.readouterr().out
    listed = dict(re.findall(r"^  ([\w-]+) +(\S.*)$", out, re.MULTILINE))
    assert f"  {ROOT}/recipes/configs\n" in out and f"  {ROOT}/accelerate_configs\n" in out
    assert (*listed,) == console.RECIPES
    assert listed == {name: path.read_text().splitlines()[0].removeprefix('"""') for name, path in SCRIPTS.items()}


def test_the_version_is_printed(run_console, capsys):
    assert run_console("--version") == 0
    assert capsys.readouterr().out == f"genrec-hf {genrec_hf.__version__}\n"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("sft-instrct", "did you mean sft-instruct?"),
        ("prepare_data", "did you mean prepare-data?"),
        ("prepare_data.py", "did you mean prepare-data?"),
        ("--config", "genrec-hf --help lists them"),
        ("", "genrec-hf --help lists them"),
    ],
)
def test_an_unknown_recipe_is_refused_in_one_line(name, remedy, run_console, capsys):
    assert run_console(name, "--k", "1") == 2
    assert capsys.readouterr().err == f"genrec-hf: error: got {name!r}, which is not a recipe; {remedy}\n"


def test_help_of_a_recipe_names_the_command(run_console, capsys):
    assert run_console("prepare-data", "--help") == 0
    assert capsys.readouterr().out.startswith("usage: genrec-hf prepare-data [-h] --source SOURCE")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--source", "log.csv", "--data_dir", "data"], 0),
        (["--config", "settings.yaml", "--k_core", "1"], 0),
        (["--source", "none.csv", "--data_dir", "data"], 1),
        (["--source", "log.csv"], 2),
        (["--config", "none.yaml"], 2),
    ],
)
def test_a_recipe_runs_as_its_script_does(words, code, run_console, monkeypatch, tmp_path, capsys):
    """The same output, errors, exit codes and files."""
    rows = [f"u{user},i{(user + step) % 7},{1_500_000_000 + step}" for user in range(5) for step in range(4)]
    seen = []
    for folder in ("console", "script"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        Path("log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
        Path("settings.yaml").write_text("source: log.csv\ndata_dir: data\nquiet: true\n")
        if folder == "console":
            ended = run_console("prepare-data", *words)
        else:
            monkeypatch.setattr(sys, "argv", ["prepare_data.py", *words])
            ended = exit_code(runpy.run_path, str(SCRIPTS["prepare-data"]), run_name="__main__")
        out, err = capsys.readouterr()
        files = {path.relative_to(Path.cwd()): path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()}
        seen.append((ended, out, err.replace("prepare_data.py: error", "genrec-hf prepare-data: error"), files))
    assert seen[0] == seen[1] and seen[0][0] == code
    assert (Path("data/interactions.parquet") in seen[0][3]) == (code == 0)
    assert code == 0 or seen[0][2].startswith("genrec-hf prepare-data: error: ")


def test_a_shipped_config_is_found_by_its_name(run_console, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    name = "ml-100k-smollm2-4layers/build_sids.yaml"
    assert run_console("build-sids", "--config", name) == 1
    assert "error: got data_dir='data/ml-100k' without" in capsys.readouterr().err, "as the shipped file says"
    Path(name).parent.mkdir()
    Path(name).write_text("data_dir: mine\n")
    assert run_console("build-sids", "--config", name) == 1
    assert "error: got data_dir='mine' without" in capsys.readouterr().err, "one's own file goes first"


def test_recipes_and_configs_are_part_of_the_wheel(monkeypatch, tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"genrec-hf": "genrec_hf.console:run"}
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    monkeypatch.setattr(command_line, "__file__", str(tmp_path / "genrec_hf" / "command_line.py"))
    for folder in ("recipes", "accelerate_configs"):
        (tmp_path / folder).mkdir()
        assert command_line.shipped(folder) == tmp_path / folder, "in a checkout"
        (tmp_path / included[folder]).mkdir(parents=True)
        assert command_line.shipped(folder) == tmp_path / included[folder], "installed"


def test_accelerate_launches_the_command(tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file"]
    command += [str(ROOT / "accelerate_configs" / "cpu.yaml"), "-m", "genrec_hf", "prepare-data", "--source", "none"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--data_dir", "data"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("genrec-hf prepare-data: error: got 'none': no local file")


HELP = """
import contextlib, io, json, sys
from genrec_hf import console
sys.argv = ["genrec-hf", {recipe!r}, "--help"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    console.run()
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize(
    ("recipe", "heavy"),
    [
        ("--help", {"numpy", "pandas", "trl"}),
        # TRL's parser of arguments comes alone, without what trains.
        ("prepare-data", {"trl.trainer", "sklearn"}),
        ("build-sids", {"trl.trainer"}),
    ],
)
def test_help_loads_nothing_heavy(recipe, heavy):
    code = HELP.format(recipe=recipe)
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    modules = set(json.loads(loaded.stdout))
    assert "genrec_hf.console" in modules
    assert not modules & {"torch", "transformers", "sentence_transformers", "peft", "datasets", "accelerate", *heavy}
