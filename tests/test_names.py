"""Names that were replaced come back nowhere: not in code, options, configs or documents."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("genrec_hf", "recipes", "benchmarks", "docs", "tests", "accelerate_configs")
KINDS = {".py", ".md", ".yaml", ".toml", ".ipynb", ".txt", ".json"}
# Identifiers and terms that have no other meaning.
REPLACED = (
    "kinship", "Kinship", "find_kinship", "Wish", "Wishes", "wishes", "wished_next_item", "obedience", "obediences",
    "Subjects", "make_subjects", "WatchingArguments", "watch_steps", "watch_users", "place_items", "words_share",
    "free_validity", "free_draws", "spare_prefix", "draw_sids", "DistinctDraws", "beside_text",
    r"training[./]watching", r"genrec_hf[./]measuring", r"semantic_ids[./]placement", r"tasks[./]subjects",
)  # fmt: skip
# Ordinary words that were names of parameters, options, functions, classes or modules.
NOT_AS_NAMES = {
    "wish", "subject", "subjects", "Subject", "watch", "watching", "beside", "spare", "draws", "Draws", "around",
    "support", "measuring", "measured", "Measured", "placement", *REPLACED,
}  # fmt: skip


def text_files() -> list[Path]:
    """Sources, configs and documents, without this file and generated pages."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    paths += [*ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "Makefile"]
    return [path for path in paths if path != Path(__file__) and (path.suffix in KINDS or path.name == "Makefile")]


def defined_names(tree: ast.Module) -> set[tuple[str, int]]:
    """Names of functions, classes, parameters and fields that a module defines, with their lines."""
    names: set[tuple[str, int]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add((node.name, node.lineno))
        if isinstance(node, ast.FunctionDef):
            names |= {(each.arg, each.lineno) for each in (*node.args.args, *node.args.kwonlyargs)}
        if isinstance(node, ast.ClassDef):
            fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
            names |= {(each.target.id, each.lineno) for each in fields if isinstance(each.target, ast.Name)}
    return names


def test_replaced_names_stand_nowhere():
    pattern = re.compile(rf"\b(?:{'|'.join(REPLACED)})\b|--(?:beside|watch|spare|draws|support|wishes)\b")
    places = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (match := pattern.search(line))
    ]
    assert not places, "\n".join(["", *places])


def test_no_definition_and_no_file_has_a_replaced_name():
    places = []
    for path in text_files():
        relative = path.relative_to(ROOT)
        if path.stem.removeprefix("test_") in NOT_AS_NAMES:
            places.append(str(relative))
        if path.suffix == ".py" and relative.parts[0] in ("genrec_hf", "recipes", "benchmarks"):
            names = defined_names(ast.parse(path.read_text(encoding="utf-8")))
            places += [f"{relative}:{line}: {name}" for name, line in names if name in NOT_AS_NAMES]
        if path.suffix == ".yaml":
            keys = re.findall(r"^(\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)
            places += [f"{relative}: {key}" for key in keys if key in NOT_AS_NAMES]
    assert not places, "\n".join(["", *sorted(places)])
