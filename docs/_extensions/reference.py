"""The directive `public-names`: a package's docstring, a table of its public names, and the docs of each."""

import ast
import importlib
import inspect
import re
from typing import Any

import docstrings
import public_api
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

GROUPS = {"function": "Functions", "class": "Classes", "exception": "Exceptions", "data": "Constants"}
BASES = ":show-inheritance:"
OPTIONS = {"class": [":members:", BASES], "exception": [BASES], "function": []}


class PublicNames(SphinxDirective):
    """`.. public-names:: jaxcnn.layers` documents all public names of a package."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = self.arguments[0]
        module = importlib.import_module(package)
        self.env.note_dependency(inspect.getsourcefile(module) or "")
        description = docstrings.convert(inspect.cleandoc(module.__doc__ or "").split("\n"), ["", package, "jaxcnn"])
        lines = [*description, "", f".. py:module:: {package}", ""]
        groups: dict[str, list[str]] = {group: [] for group in GROUPS}
        for name, value in sorted(public_api.names(package).items()):
            groups[public_api.kind(value)].append(name)
        for group, listed in groups.items():
            if listed:
                lines += [f".. rubric:: {GROUPS[group]}", "", *_summary(package, listed), ""]
        for group, listed in groups.items():
            for name in listed:
                lines += _entry(package, name, group)
        return self.parse_text_to_nodes(StringList(lines, source=f"{package} (reference)"))


def _summary(package: str, listed: list[str]) -> list[str]:
    """Return a table of names and the first sentences of their docstrings."""
    lines = [".. list-table::", "   :widths: 30 70", "   :class: summary", ""]
    for name in listed:
        text = docstrings.convert(_first_sentence(package, name).split("\n"), ["", package, "jaxcnn"])
        lines += [f"   * - :py:obj:`{name} <{package}.{name}>`", f"     - {' '.join(text)}"]
    return lines


def _first_sentence(package: str, name: str) -> str:
    value = public_api.names(package)[name]
    is_defined = isinstance(value, type) or inspect.isroutine(value) or hasattr(value, "__wrapped__")
    doc = value.__doc__ if is_defined else "\n".join(_comment(package, name))
    paragraph = " ".join(inspect.cleandoc(doc or "").split("\n\n")[0].split())
    # A sentence ends with a period outside of code.
    sentence = re.match(r"(?:`[^`]*`|[^`])*?(?=\. |\.?$)", paragraph)
    return f"{sentence[0] if sentence else paragraph}." if paragraph else ""


def _entry(package: str, name: str, group: str) -> list[str]:
    full, value = f"{package}.{name}", public_api.names(package)[name]
    place = public_api.places().get(id(value), full)
    if place != full:
        return [f".. py:{group}:: {name}", "", f"   The same as :py:obj:`{place}`.", ""]
    if group == "function" and not inspect.isroutine(value) and not hasattr(value, "__wrapped__"):
        described = docstrings.convert(_comment(package, name), [full, package, "jaxcnn"])
        return [f".. py:function:: {name}{_signature(value)}", "", *(f"   {line}" for line in described), ""]
    if group != "data":
        return [f".. auto{group}:: {full}", *(f"   {option}" for option in OPTIONS[group]), ""]
    short = repr(value) if isinstance(value, str | int | float | tuple) and len(repr(value)) <= 80 else None
    described = docstrings.convert(_comment(package, name), [full, package, "jaxcnn"])
    about = [f"   :value: {short}"] if short else [f"   :type: {type(value).__name__}"]
    return [f".. py:data:: {name}", *about, "", *(f"   {line}" for line in described), ""]


def _signature(value: Any) -> str:
    try:
        return str(inspect.signature(value))
    except (TypeError, ValueError):
        return "(...)"


def _comment(package: str, name: str) -> list[str]:
    """Return the string after the assignment of a constant, in the module that defines it."""
    while True:
        documented = ModuleAnalyzer.for_module(package).find_attr_docs().get(("", name))
        if documented:
            return list(documented)
        source = inspect.getsource(importlib.import_module(package))
        imports = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom) and node.module]
        names = {alias.asname or alias.name: (node.module, alias.name) for node in imports for alias in node.names}
        if name not in names:
            return []
        package, name = names[name]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
