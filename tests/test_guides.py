"""The Python and the tables of README and guides are those of the code."""

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from conftest import make_model, make_tokenizer

from genrec_hf import SasRec, SemanticIds, SidVocabulary
from genrec_hf.data.item_embeddings import save_embeddings
from genrec_hf.evaluation.report_baselines import BASELINES
from genrec_hf.hub import save_recommender
from genrec_hf.models import SasRecConfig
from genrec_hf.semantic_ids import QUANTIZER_NAMES, RqKmeans, Strategy, resolve_collisions
from genrec_hf.tasks import TASKS
from genrec_hf.training.reward_selection import REWARDS
from genrec_hf.training.rollouts import Sampling
from genrec_hf.vocabulary import Initialization

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "docs" / "guides"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def python_in(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """What the guides name: a recommender, a SASRec and embeddings, of the ids that their examples have."""
    root = tmp_path_factory.mktemp("world")
    item_ids = [*map(str, range(1, 241)), *(f"b{book}" for book in range(40))]
    text = np.random.default_rng(0).normal(size=(len(item_ids), 8)).astype(np.float32)
    vectors = np.concatenate([text, np.zeros((len(item_ids), 64), dtype=np.float32)], axis=1)
    quantizer = RqKmeans(level_sizes=(32,)).fit(vectors, progress=False)
    codes, sizes = resolve_collisions(quantizer.encode(vectors), (32,), reserved_codes=2)
    sids = SemanticIds(codes, sizes, item_ids, quantizer=quantizer)
    tokenizer = make_tokenizer()
    model = make_model(vocabulary=len(tokenizer))
    SidVocabulary(sids).extend(tokenizer, model, init="random")
    titles = [f"Title {item_id}" for item_id in item_ids]
    for name in ("quickstart", "books"):
        save_recommender(
            root / "outputs" / name, model, tokenizer, semantic_ids=sids, max_history=5, normalization="level",
            item_titles=titles,
        )  # fmt: skip
    sasrec = SasRec(SasRecConfig(items=len(item_ids), hidden_size=8, num_attention_heads=1, intermediate_size=8))
    sasrec.save_pretrained(root / "data" / "ml-100k" / "sasrec")
    save_embeddings(root / "data" / "ml-100k" / "item_embeddings.safetensors", text, item_ids)
    music = RqKmeans(level_sizes=(8, 8)).fit(text, progress=False)
    codes, sizes = resolve_collisions(music.encode(text), (8, 8))
    SemanticIds(codes, sizes, item_ids, quantizer=music).save_pretrained(root / "data/music-farthest/semantic_ids")
    save_embeddings(root / "data" / "music-farthest" / "item_embeddings.safetensors", text, item_ids)
    return root


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        *(
            f"docs/guides/{each}.md"
            for each in ("recommending", "evaluation", "fusing", "tasks", "own-data", "new-reward", "new-quantizer")
        ),
    ],
)
def test_python_of_a_guide_runs_block_by_block(name, world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    monkeypatch.setattr("genrec_hf.data.embed_items", lambda texts: np.ones((len(texts), 8), dtype=np.float32))
    names: dict[str, object] = {}
    blocks = python_in(ROOT / name)
    assert blocks
    for block in blocks:
        exec(compile(block, name, "exec"), names)
    if name == "README.md":
        shown = re.search(r"^```\n( +-\d.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)[1]
        printed = capsys.readouterr().out
        assert [len(line.split()) > 2 for line in printed.splitlines()] == [True] * len(shown.splitlines())


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if python_in(path)], ids=short)
def test_python_of_a_document_imports_what_exists_and_passes_what_is_taken(path):
    for block in python_in(path):
        tree = ast.parse(block)
        known = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("genrec_hf"):
                module = importlib.import_module(node.module)
                known |= {each.asname or each.name: getattr(module, each.name) for each in node.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and callable(known.get(node.func.id)):
                parameters = inspect.signature(known[node.func.id]).parameters
                takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
                named = {each.arg for each in node.keywords if each.arg}
                assert takes_any or named <= parameters.keys(), node.func.id


def first_column(guide: str, heading: str) -> list[str]:
    """Names in the first column of the table whose first heading is given."""
    rows = (GUIDES / guide).read_text().split(f"\n| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    return [re.match(r"\| `([^`]+)`", row)[1] for row in rows]


@pytest.mark.parametrize(
    ("guide", "heading", "names"),
    [
        ("tasks.md", "task", TASKS),
        ("semantic-ids.md", "quantizer", QUANTIZER_NAMES),
        ("semantic-ids.md", "collisions", get_args(Strategy)),
        ("sft.md", "init", get_args(Initialization)),
        ("evaluation.md", "baseline", BASELINES),
        ("grpo.md", "reward", REWARDS),
        ("grpo.md", "sampling", set(get_args(Sampling)) - {"uniform", "popular"}),
    ],
)
def test_a_table_of_a_guide_is_complete(guide, heading, names):
    rows = first_column(guide, heading)
    assert sorted(rows) == sorted(names)
