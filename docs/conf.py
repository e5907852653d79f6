"""Sphinx configuration of the documentation: every Markdown document of the repository, and the API reference.

The source directory is the root of the repository, so that a relative link means the same on GitHub and in the site,
and a link to a file that does not exist fails the build (`make docs`). The pages of the API reference are written
from the modules that exist.
"""

import os
import pkgutil
import re
import sys
import textwrap
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

project = "genrec_hf"
author = "the authors of genrec_hf"
release = installed_version("genrec_hf")
root_doc = "docs/index"
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "benchmarks/gpu/README.md",
    "docs/*.md",
    "docs/guides/*.md",
    "docs/api/*.rst",
    "recipes/configs/*/README.md",
]

html_theme = "furo"
html_title = "genrec_hf"
html_extra_path = ["redirect/index.html"]
html_show_copyright = False

# Links between headings of a page, as GitHub has them.
myst_heading_anchors = 4
myst_enable_extensions = ["fieldlist"]

# Single backticks are code in docstrings, as in those of transformers.
default_role = "code"
add_module_names = False
autodoc_class_signature = "mixed"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True

nitpicky = True
# Types of other libraries, whose documentation is not read at build time; type variables and aliases.
nitpick_ignore_regex = [("py:.*", r"(?!genrec_hf\.).*"), ("py:class", r"genrec_hf\..*\.(_\w+|Self|Model|Rows)")]


def public_modules(part: ModuleType) -> list[str]:
    """Return the names of a module and of the modules in it, without those that begin with an underscore."""
    inner = pkgutil.walk_packages(getattr(part, "__path__", []), f"{part.__name__}.")
    return [part.__name__, *(module.name for module in inner if "._" not in module.name)]


def documented_names(module: ModuleType) -> list[str]:
    """Return the public names of a module that its section documents: those that its package does not export."""
    if hasattr(module, "__all__"):
        vars(module).update({name: getattr(module, name) for name in module.__all__})  # some load on first use
        return list(module.__all__)
    package = import_module(module.__name__.rpartition(".")[0])
    exported = () if package.__name__ == "genrec_hf" else getattr(package, "__all__", ())
    own = [name for name, item in vars(module).items() if getattr(item, "__module__", None) == module.__name__]
    return [name for name in own if not name.startswith("_") and name not in exported]


def section(name: str, underline: str) -> str:
    """Return the section of a module in reStructuredText."""
    module = import_module(name)
    title = f"{name}\n{underline * len(name)}\n\n.. automodule:: {name}\n"
    names = documented_names(module)
    if name == "genrec_hf":
        places = [f"{getattr(module, each).__module__}.{each}" for each in names]
        return f"{title}\n" + "\n".join(f"- :py:obj:`{place.rpartition('.')[2]} <{place}>`" for place in places) + "\n"
    return f"{title}   :members: {', '.join(names)}\n   :show-inheritance:\n" if names else title


def code_block(body: str, language: str) -> str:
    """Return lines of a docstring as a block of code in reStructuredText, at their indentation."""
    indent = body[: len(body) - len(body.lstrip(" "))]
    return f"{indent}.. code-block:: {language}\n\n{textwrap.indent(body, '    ')}\n"


def read_markdown(app: Sphinx, kind: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Replace the Markdown of a docstring, as transformers writes it, by reStructuredText, in place.

    Fences and tables become blocks of code; single backticks may end within a word, as in `` `Item`s ``.
    """
    text = "\n".join(lines)
    text = re.sub(r"^ *```(\w+)\n(.*?)^ *```$", lambda match: code_block(match[2], match[1]), text, flags=re.M | re.S)
    text = re.sub(r"(?:^ *\|.*(?:\n|\Z))+", lambda match: code_block(match[0], "text"), text, flags=re.M)
    lines[:] = re.sub(r"(?<![`\w])(`[^`\n]+`)(?=\w)", r"\1\\ ", text).split("\n")


def write_api_pages(app: Sphinx) -> None:
    """Write a page for each part of the package, so that a new module cannot be left out."""
    folder = ROOT / "docs/api"
    folder.mkdir(exist_ok=True)
    package = import_module("genrec_hf")
    names = [info.name for info in pkgutil.iter_modules(package.__path__, "genrec_hf.")]
    parts = [name for name in names if "._" not in name]
    pages = {"genrec_hf": section("genrec_hf", "=")}
    for part in parts:
        inner = public_modules(import_module(part))[1:]
        pages[part] = "\n".join([section(part, "="), *(section(module, "-") for module in inner)])
    for part, text in pages.items():
        page = folder / f"{part}.rst"
        if not page.is_file() or page.read_text() != text:  # an unchanged page is not read again
            page.write_text(text)
    for page in set(folder.glob("*.rst")) - {folder / f"{part}.rst" for part in pages}:
        page.unlink()


def setup(app: Sphinx) -> None:
    """Write the API pages before documents are looked for, and convert docstrings before napoleon reads them."""
    app.connect("builder-inited", write_api_pages)
    app.connect("autodoc-process-docstring", read_markdown, priority=100)
