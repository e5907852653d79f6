"""The package itself: its public names are seen before they are loaded."""

import subprocess
import sys

import genrec_hf

ASK = "import sys, genrec_hf; print(*dir(genrec_hf)); print(*{'torch', 'transformers', 'pandas'} & set(sys.modules))"


def test_public_names_are_shown_without_loading_them():
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    names, loaded = asked.stdout.splitlines()
    assert {"SemanticIds", "SidVocabulary", "Recommender", "load_recommender", "SasRec"} < set(names.split())
    assert set(names.split()) == {*genrec_hf.__all__, "__version__"} and loaded == ""


def test_every_public_name_loads():
    assert all(getattr(genrec_hf, name).__name__ == name for name in genrec_hf.__all__)
