"""Prints every error, warning and help text of genrec_hf and its recipes, one a line with its place, for proofreading.

    python docs/list_messages.py [errors | warnings | help]

Texts are read from the source: a replaced part of a formatted text is shown as its expression in braces.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WARNINGS = ("warn", "warning", "warning_once")


def text_of(node: ast.expr) -> str:
    """Return the text of a literal, a formatted text, or parts that are joined by `+`; other expressions in braces."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return "{" + ast.unparse(node.value) + "}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return "{" + ast.unparse(node) + "}"


def messages(tree: ast.Module) -> Iterator[tuple[str, int, str, str]]:
    """Yield the kind (errors, warnings or help), line, function and text of each message of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            yield "errors", node.lineno, ast.unparse(node.exc.func), text_of(node.exc.args[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WARNINGS:
            yield "warnings", node.lineno, ast.unparse(node.func), text_of(node.args[0]) if node.args else ""
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "help":
                    yield "help", value.lineno, "help", text_of(value)
        elif isinstance(node, ast.keyword) and node.arg in ("help", "description"):
            yield "help", node.value.lineno, node.arg, text_of(node.value)


def main(wanted: list[str]) -> None:
    """Print the messages of the kinds that are asked for, and how many there are."""
    kinds = wanted or ["errors", "warnings", "help"]
    counts = dict.fromkeys(kinds, 0)
    for path in sorted([*(ROOT / "genrec_hf").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]):
        for kind, line, name, text in sorted(messages(ast.parse(path.read_text())), key=lambda each: each[1]):
            if kind in kinds:
                counts[kind] += 1
                print(f"{path.relative_to(ROOT)}:{line}: {name}: {text}")
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()), file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
