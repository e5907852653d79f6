"""The package itself: its public names are seen before they are loaded, and functions are called by names."""

import ast
import subprocess
import sys
from pathlib import Path

import genrec_hf

PACKAGE = Path(genrec_hf.__file__).parent
ASK = "import sys, genrec_hf; print(*dir(genrec_hf)); print(*{'torch', 'transformers', 'pandas'} & set(sys.modules))"


def test_public_names_are_shown_without_loading_them():
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    names, loaded = asked.stdout.splitlines()
    assert {"SemanticIds", "SidVocabulary", "Recommender", "load_recommender", "SasRec"} < set(names.split())
    assert set(names.split()) == {*genrec_hf.__all__, "__version__"} and loaded == ""


def test_every_public_name_loads():
    assert all(getattr(genrec_hf, name).__name__ == name for name in genrec_hf.__all__)


# What libraries call by position: transformers, PEFT and the Trainer hand a model its inputs in this order.
BY_POSITION = {("models/wrapped_lm.py", "forward")}


def test_beyond_three_parameters_are_given_by_name():
    by_position = set()
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            for each in node.body if isinstance(node, ast.Module | ast.ClassDef) else ():
                public = isinstance(each, ast.FunctionDef) and (each.name == "__init__" or each.name[0] != "_")
                if public and len({arg.arg for arg in each.args.args} - {"self", "cls"}) > 3:
                    by_position.add((file.relative_to(PACKAGE).as_posix(), each.name))
    assert by_position == BY_POSITION
