"""The notebooks run from top to bottom, on a tiny recommender and a Hub of this machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import running_hub
from test_hub import HOW, make_adapter, make_base

from genrec_hf.hub import save_recommender

NOTEBOOKS = sorted((Path(__file__).parents[1] / "recipes" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, toy_sids, tmp_path):
    model, tokenizer = make_adapter(make_base(tmp_path / "base"), toy_sids)
    save_recommender(tmp_path / "model", model, tokenizer, semantic_ids=toy_sids, **HOW)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs")], "outputs are not kept"
    script = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    with running_hub() as hub:
        own = {"RECOMMENDER": str(tmp_path / "model"), "PUSH_TO": "user/tiny", "HF_TOKEN": "token"}
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=hub.environment(tmp_path / "home") | own,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert done.returncode == 0, done.stderr
        assert "pushed, and loaded again" in done.stdout and "user/tiny" in hub.repos
