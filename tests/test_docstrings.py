"""Public docstrings have one form: `Args`, `Returns` and `Raises` as in transformers, in step with the code.

The API reference shows them (`make docs`). Source is read, not imported.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "genrec_hf").rglob("*.py"))
SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Attributes|Example|Examples|Note|References):$")
ARGUMENT = re.compile(r"^(\w+) \(`[^`]+`.*?\): ")
VARIADIC = re.compile(r"^\*{0,2}(\w+)(?: \([^)]*\))?: ")
RETURNED = re.compile(r"^`[^`]+`(?: or `[^`]+`)*: ")
RAISED = re.compile(r"^(\w+(?:Error|Warning|Exit|Interrupt|Exception)): ")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sections(docstring: str) -> dict[str, list[str]]:
    """Entries of each section of a docstring, continuation lines joined; `""` holds the text before the first."""
    held: dict[str, list[str]] = {"": []}
    name = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if match := SECTION.match(line):
            name = match[1]
            held[name] = []
        elif line.strip() and (not held[name] or re.match(r" {4}\S", line)):
            held[name].append(line.strip())
        elif line.strip():
            held[name][-1] += f" {line.strip()}"
    return held


def check_arguments(docstring: str, required: set[str], allowed: set[str], variadic: set[str]) -> Iterator[str]:
    """Complaints about the sections `Args` and `Attributes`: names that differ from the code, or another form."""
    documented, held = set(), sections(docstring)
    for entry in [*held.get("Args", []), *held.get("Attributes", [])]:
        match = ARGUMENT.match(f"{entry} ")
        name = match[1] if match else entry.split(":")[0].split(" ")[0].lstrip("*")
        documented.add(name)
        if not match and not (name in variadic and VARIADIC.match(f"{entry} ")):
            yield f"argument {entry[:60]!r} is not in the form 'name (`type`, defaults to x): text'"
    if missing := sorted(required - documented - variadic):
        yield f"Args lacks {', '.join(missing)}"
    if unknown := sorted(documented - required - allowed - variadic):
        yield f"Args has {', '.join(unknown)}, which the code does not"


def check_entries(docstring: str) -> Iterator[str]:
    """Complaints about the first line and the sections `Returns` and `Raises`."""
    held = sections(docstring)
    summary = inspect.cleandoc(docstring).split("\n\n")[0].replace("\n", " ")
    if not re.search(r"[.:]$", summary):
        yield f"the first line does not end with a period: {summary[-40:]!r}"
    for name in ("Returns", "Yields"):
        if held.get(name) and not RETURNED.match(f"{held[name][0]} "):
            yield f"{name} {held[name][0][:60]!r} is not in the form '`type`: text'"
    for entry in held.get("Raises", []):
        if not RAISED.match(f"{entry} "):
            yield f"Raises {entry[:60]!r} is not in the form 'ValueError: text'"


def raised_in(node: ast.AST) -> set[str]:
    """Exceptions that a function raises by its own statements, without nested functions and re-raised ones."""
    raised = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call) and isinstance(child.exc.func, ast.Name):
            raised.add(child.exc.func.id)
        raised |= raised_in(child)
    return {name for name in raised if name[0].isupper()} - {"NotImplementedError", "AssertionError", "AttributeError"}


def check_raises(docstring: str, raised: set[str]) -> Iterator[str]:
    """Complaints about exceptions that the code raises and the section `Raises` does not name."""
    named = {match[1] for entry in sections(docstring).get("Raises", []) if (match := RAISED.match(f"{entry} "))}
    if missing := sorted(raised - named):
        yield f"Raises lacks {', '.join(missing)}"


def decorators(node: Function | ast.ClassDef) -> set[str]:
    """Last names of the decorators of a definition."""
    calls = [each.func if isinstance(each, ast.Call) else each for each in node.decorator_list]
    return {ast.unparse(each).rpartition(".")[2] for each in calls}


def parameters(node: Function) -> tuple[set[str], set[str]]:
    """Names of the parameters of a function, and which of them are variadic."""
    named = {each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    variadic = {each.arg for each in (node.args.vararg, node.args.kwarg) if each}
    return {name for name in named - {"self", "cls"} if not name.startswith("_")}, variadic


def check_function(node: Function) -> Iterator[str]:
    """Complaints about a public function or method."""
    docstring = ast.get_docstring(node)
    if not docstring:
        yield "no docstring"
        return
    yield from check_entries(docstring)
    names, variadic = parameters(node)
    documented_elsewhere = (
        re.match(r"[^\n]*\b(?:[Ss]ee|those of) `", docstring) or {"args", "state", "control"} <= names
    )
    if "Args" not in sections(docstring) and documented_elsewhere:  # a protocol's, or a callback's of transformers
        return
    if decorators(node) & {"property", "cached_property", "setter"}:
        return
    yield from check_arguments(docstring, names, set(), variadic)
    yield from check_raises(docstring, raised_in(node))
    returns = ast.unparse(node.returns) if node.returns else "None"
    says_it = "\n\n" not in docstring or {"Returns", "Yields"} & set(sections(docstring))
    if names and not (returns in ("None", "NoReturn") or "contextmanager" in decorators(node) or says_it):
        yield f"no Returns, of a function that returns {returns}"


def check_class(node: ast.ClassDef) -> Iterator[str]:
    """Complaints about a public class, whose docstring documents the parameters of its constructor."""
    docstring = ast.get_docstring(node)
    if not docstring:
        yield "no docstring"
        return
    yield from check_entries(docstring)
    methods = {each.name: each for each in node.body if isinstance(each, Function)}
    required: set[str] = set()
    variadic: set[str] = set()
    if "__init__" in methods:
        required, variadic = parameters(methods["__init__"])
    elif "dataclass" in decorators(node) or "NamedTuple" in {ast.unparse(base) for base in node.bases}:
        required = {
            each.target.id
            for each in node.body
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and is_constructor_field(each)
        }
    # A subclass may document what it inherits, and a class other attributes than its constructor's parameters.
    held = sections(docstring)
    entries = [*(held.get("Args", []) if node.bases else []), *held.get("Attributes", [])]
    allowed = {re.split(r"[ :]", entry)[0] for entry in entries}
    yield from check_arguments(docstring, required, allowed, variadic)
    constructors = [methods[name] for name in ("__init__", "__post_init__") if name in methods]
    yield from check_raises(docstring, set().union(*map(raised_in, constructors)))


def is_constructor_field(field: ast.AnnAssign) -> bool:
    """Whether the constructor takes a field that its docstring describes: an option's help text describes it too."""
    text = ast.unparse(field.value) if field.value else ""
    name = ast.unparse(field.target)
    return not (
        name.startswith("_") or "init=False" in text or "'help'" in text or "ClassVar" in ast.unparse(field.annotation)
    )


def check_body(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Complaints about the public definitions of a module or class, each with its name and line."""
    for node in body:
        if (
            not isinstance(node, Function | ast.ClassDef)
            or node.name.startswith("_")
            or "overload" in decorators(node)
        ):
            continue
        check = check_class if isinstance(node, ast.ClassDef) else check_function
        for complaint in check(node):
            yield f"{node.lineno}: {prefix}{node.name}: {complaint}"
        if isinstance(node, ast.ClassDef):
            yield from check_body(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_docstrings_say_what_the_code_takes_gives_and_raises(path: Path):
    tree = ast.parse(path.read_text())
    complaints = [] if ast.get_docstring(tree) else ["1: module: no docstring"]
    complaints += check_body(tree.body)
    assert not complaints, "\n".join(["", *(f"{path.relative_to(ROOT)}:{complaint}" for complaint in complaints)])


def test_a_wrong_docstring_is_told():
    source = '''
def rank(items, k, *, seed=0, **settings) -> int:
    """Rank

    Args:
        items: rows.
        n (`int`): ranks.
        settings: of the search.

    Returns:
        the ranks

    Raises:
        when it fails.
    """
    raise ValueError("got nothing")


class Options:
    """Options of a search."""

    def __init__(self, k): ...

    def run(self): ...
'''
    complaints = "\n".join(check_body(ast.parse(source).body))
    expected = [
        "rank: the first line does not end with a period",
        "rank: argument 'items: rows.'",
        "rank: Args lacks k, seed",
        "rank: Args has n, which",
        "rank: Returns 'the ranks'",
        "rank: Raises 'when it fails.'",
        "rank: Raises lacks ValueError",
        "Options: Args lacks k",
        "Options.run: no docstring",
    ]
    assert [text for text in expected if text not in complaints] == [] and complaints.count("\n") == len(expected) - 1
