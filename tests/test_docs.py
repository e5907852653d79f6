"""What the documents name exists, and their examples run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_every_test_that_holds_a_promise_exists():
    rows = [line for line in (ROOT / "docs/robustness.md").read_text().splitlines() if line.startswith("| ")]
    missing, names = [], 0
    for row in rows:
        file = ""
        for name in re.findall(r"`((?:tests/\w+\.py)?(?:::\w+)?)`", row.split(" | ")[-1]):
            file, _, test = name.partition("::") if name.startswith("tests/") else (file, "", name.removeprefix("::"))
            source = (ROOT / file).read_text() if (ROOT / file).is_file() else ""
            names += 1
            if not source or (test and f"def {test}(" not in source):
                missing.append(name)
    assert missing == [] and names > 200


def python_blocks() -> list:
    """Every Python block of the page on architecture, by the heading that it stands under."""
    text = (ROOT / "docs/architecture.md").read_text()
    blocks = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [pytest.param(code, id=heading) for heading, code in blocks]


def test_every_extension_has_an_example():
    headings = {parameter.id for parameter in python_blocks()}
    assert headings == {f"Add a {part}" for part in ("quantizer", "task", "reward", "ranker", "reranker")}


@pytest.mark.parametrize("code", python_blocks())
def test_an_example_of_the_architecture_runs(code):
    exec(compile(code, "docs/architecture.md", "exec"), {"__name__": "example"})


def test_every_paper_that_is_cited_stands_in_the_table_of_papers():
    sources = [*(ROOT / "genrec_hf").rglob("*.py"), *(ROOT / "recipes").rglob("*.py"), *ROOT.glob("recipes/**/*.md")]
    cited = {number for path in sources for number in re.findall(r"arXiv:(\d{4}\.\d{5})", path.read_text())}
    listed = set(re.findall(r"arXiv:(\d{4}\.\d{5})", (ROOT / "docs/papers.md").read_text()))
    assert sorted(cited - listed) == [] and len(cited) > 25


def test_every_identifier_of_the_glossary_exists():
    rows = [
        line.split(" | ") for line in (ROOT / "docs/glossary.md").read_text().splitlines() if line.startswith("| ")
    ]
    names = {word for row in rows for code in re.findall(r"`([^`]+)`", row[2]) for word in re.findall(r"[\w@]+", code)}
    source = "".join(path.read_text() for part in ("genrec_hf", "recipes") for path in (ROOT / part).rglob("*.py"))
    assert [name for name in sorted(names) if name not in source] == [] and len(names) > 80
    assert {len(row) for row in rows} == {4}
