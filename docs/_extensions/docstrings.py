"""Read the docstrings of jaxcnn, which are plain text with Markdown's code, as reStructuredText.

Napoleon reads their sections (`Args:`, `Raises:`, ...). Code between single backquotes becomes a literal, or a link if
it names a part of the API.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from typing import Annotated, Any, get_args, get_origin

import flax.linen as nn
import public_api
from sphinx.util.inspect import stringify_signature

CODE = re.compile(r"(``[^`]+``|`[^`]+`)")  # may go on in the next line
NAME = re.compile(r"[A-Za-z_][\w.]*(?:\(\))?")
SECTION = re.compile(r"(Args|Attributes|Examples?|Fields|Notes?|Raises|References|Returns|Sources|Yields):$")
# What reStructuredText reads as markup in prose: emphasis of shapes, substitutions, references.
MARKUP = re.compile(r"\*|\||(?<=\w)_(?=[\s,.;:)]|$)", re.MULTILINE)
EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}[A-Za-z][^*\n]*[\w.!?]\*{1,2}(?![\w*])")


def convert(lines: list[str], modules: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText.

    Args:
      lines: without indentation.
      modules: in which names are looked up, the nearest first.
    """
    text: list[str] = []
    for is_code, block in _blocks(lines):
        text += block if is_code else _prose("\n".join(block), modules).split("\n")
    return _literal_blocks(text)


def _blocks(lines: list[str]) -> list[tuple[bool, list[str]]]:
    """Divide lines into doctests, which stay as they are, and prose."""
    blocks: list[tuple[bool, list[str]]] = []
    in_doctest = False
    for line in lines:
        in_doctest = line.lstrip().startswith(">>>") or (in_doctest and bool(line.strip()))
        if not blocks or blocks[-1][0] != in_doctest:
            blocks.append((in_doctest, []))
        blocks[-1][1].append(line)
    return blocks


def _prose(text: str, modules: list[str]) -> str:
    parts = CODE.split(text)
    for i, part in enumerate(parts):
        if not CODE.fullmatch(part):
            parts[i] = _escaped(part)
            continue
        code = " ".join(part.strip("`").split())
        target = public_api.find(code.removesuffix("()"), modules) if NAME.fullmatch(code) else None
        made = f":py:obj:`{code} <{target}>`" if target else f"``{code}``"
        # Markup must not touch a word: `step`s.
        before = "\\ " if i and parts[i - 1] and re.search(r"[\w/\-]$", parts[i - 1]) else ""
        after = "\\ " if i + 1 < len(parts) and re.match(r"\w", parts[i + 1]) else ""
        parts[i] = before + made + after
    return "".join(parts)


def _escaped(text: str) -> str:
    kept: list[str] = []
    end = 0
    for found in EMPHASIS.finditer(text):
        kept += [MARKUP.sub(r"\\\g<0>", text[end : found.start()]), found[0]]
        end = found.end()
    return "".join([*kept, MARKUP.sub(r"\\\g<0>", text[end:])])


def _literal_blocks(lines: list[str]) -> list[str]:
    """Make the indented blocks after a sentence with a colon, which are code or formulas, literal."""
    made = list(lines)
    for i, line in enumerate(lines[:-2]):
        indent = len(line) - len(line.lstrip())
        after = next((other for other in lines[i + 1 :] if other.strip()), "")
        opens = line.rstrip().endswith(":") and not lines[i + 1].strip() and not SECTION.match(line.strip())
        if opens and len(after) - len(after.lstrip()) >= indent + 4 and not after.lstrip().startswith((">>>", "-")):
            made[i] = f"{line.rstrip()}:"
    return made


def read(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    package = ".".join(name.split(".")[:2])
    if lines[:1] == ["Call self as a function."]:  # which Python says of every `__call__` without a docstring
        lines[:] = []
    lines[:] = convert(lines, [name, package, "jaxcnn"])


def name_errors(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Complete the names of errors, of which several packages may list the same."""
    package = ".".join(name.split(".")[:2])
    for i, line in enumerate(lines):
        error = re.match(r":raises (\w+):", line)
        target = public_api.find(error[1], [name, package, "jaxcnn"]) if error else None
        if error and target:
            lines[i] = f":raises ~{target}:{line[error.end() :]}"


class Source:
    """A default value that is shown as it is written."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _written_defaults(cls: type) -> dict[str, Source]:
    """Return the default values of a dataclass's fields from its source."""
    found: dict[str, Source] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("jaxcnn"):
            continue
        node = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        for field in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.value is not None:
                written = ast.unparse(field.value)
                is_made = written.startswith(("field(", "dataclasses.field("))
                found[field.target.id] = Source("..." if is_made else written)
    return found


def show_fields(app: Any, what: str, name: str, obj: Any, options: Any, signature: Any, returns: Any) -> Any:
    """Show the fields of a dataclass with their written defaults, without those that Flax adds to every module."""
    if what != "class" or not dataclasses.is_dataclass(obj):
        return None
    assert isinstance(obj, type)
    of_flax = ("parent", "name") if issubclass(obj, nn.Module) else ()
    written, parameters = _written_defaults(obj), []
    for parameter in inspect.signature(obj).parameters.values():
        if parameter.name not in of_flax:
            if get_origin(parameter.annotation) is Annotated:  # with functions that check the value
                parameter = parameter.replace(annotation=get_args(parameter.annotation)[0])
            has_default = parameter.default is not parameter.empty and parameter.name in written
            parameters.append(parameter.replace(default=written[parameter.name]) if has_default else parameter)
    return stringify_signature(inspect.Signature(parameters), unqualified_typehints=True), None


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Show how a module is called. Leave out fields whose default is a function, and those of named tuples."""
    if name == "__call__" and getattr(obj, "__module__", "").startswith("jaxcnn"):
        return False
    if what == "class" and inspect.isfunction(obj) and "." not in obj.__qualname__:
        return True
    if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number"):
        return True
    return None


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", read, priority=400)  # before Napoleon
    app.connect("autodoc-process-docstring", name_errors, priority=600)  # after Napoleon
    app.connect("autodoc-process-signature", show_fields)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
