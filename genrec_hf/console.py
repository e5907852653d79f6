"""The command `genrec-hf`: lists the recipes, and runs one as `python recipes/<recipe>.py` does."""

import ast
import difflib
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from genrec_hf import __version__
from genrec_hf.command_line import shipped, stop

# In the order of use.
RECIPES = (
    "prepare-data",
    "build-sids",
    "compare-sids",
    "train-sasrec",
    "pretrain",
    "sft-grounding",
    "sft-instruct",
    "sft-llara",
    "grpo",
    "dpo",
    "evaluate",
    "evaluate-tasks",
    "fuse-rankers",
    "compare-recommenders",
    "merge-adapter",
)
_HELP = """usage: genrec-hf RECIPE [--config FILE] [--OPTION VALUE ...]

{recipes}

genrec-hf RECIPE --help lists the options of a recipe; genrec-hf --version prints the version.
On one GPU or several: accelerate launch --config_file FILE -m genrec_hf RECIPE ...

Configs of recipes, which --config also takes by their path below this folder:
  {configs}
Configs of accelerate, for --config_file:
  {launch_configs}"""


def run() -> None:
    """Run the recipe that the command line names; without one, list all."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        print(f"genrec-hf {__version__}")
    elif name in RECIPES:
        _run_recipe(name, words)
    else:
        sys.argv[0] = "genrec-hf"
        close = difflib.get_close_matches(name.replace("_", "-").removesuffix(".py"), RECIPES, n=1)
        remedy = f"did you mean {close[0]}?" if close else "genrec-hf --help lists them"
        stop(ValueError(f"got {name!r}, which is not a recipe; {remedy}"), 2)


def _run_recipe(name: str, words: list[str]) -> None:
    """Run a recipe's file as the main module, as `python recipes/<recipe>.py` does."""
    path = str(_path(name))
    # Help and errors take the program's name from here; `runpy.run_path` would replace it by the path of the file.
    sys.argv = [f"genrec-hf {name}", *words]
    module = ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module
    SourceFileLoader("__main__", path).exec_module(module)


def _help() -> str:
    lines = [f"  {name:<22}{_summary(name)}" for name in RECIPES]
    return _HELP.format(
        recipes="\n".join(lines), configs=shipped("recipes") / "configs", launch_configs=shipped("accelerate_configs")
    )


def _path(name: str) -> Path:
    return shipped("recipes") / f"{name.replace('-', '_')}.py"


def _summary(name: str) -> str:
    """Return the first line of a recipe's docstring, which is read without importing the recipe."""
    docstring = ast.get_docstring(ast.parse(_path(name).read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]
