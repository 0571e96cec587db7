"""Every public name is documented: what it does, its shapes, the errors that it raises, and an example that runs.

A public name is in the `__all__` of a package. The public methods of a class are checked too, but need no example of
their own. Nor do the names of a package within a package, such as `jaxcnn.train.runtime.checkpoint`, which serve jaxcnn
itself, unless a package exports it.
"""

import ast
import doctest
import functools
import re

import pytest
from pages import program
from public_names import ROOT, Definition, Public, exports, public_names, tree

WITHOUT_EXAMPLE: dict[str, str] = {
    "jaxcnn.startup.settle": "it changes the process, which runs other tests too",
}
"""Names without an example, each with the reason."""

# Names as in "jaxcnn.array_types": `Float[Array, "n c"]` states a shape, `Array` does not.
ARRAY = re.compile(r"\b(Array|AnyArray|ndarray|ArrayLike)\b")
SHAPED = re.compile(r"\b(Bool|Complex|Float|Float32|Inexact|Int|Integer|Key|Num|Shaped|UInt8|UInt32)\[")
# `[N, H, W, C]`, `[...]` or `[]`
SHAPE = re.compile(r"\[[\w\s,.*/+-]*\]")
ERRORS = {"UsageError", "TooSmallError", "RunError", "unknown_name"}


def package(public: Public) -> str:
    return ".".join(public.name.split(".")[:2])


def is_api(module: str) -> bool:
    """Return whether users import from this module: a package of jaxcnn, or a module that one exports."""
    parent, _, name = module.rpartition(".")
    return module.count(".") <= 1 or name in exports(parent)


def needs_example(public: Public) -> bool:
    is_exported = any(map(is_api, public.modules[:-1]))
    return public.owner is None and is_exported and public.name not in WITHOUT_EXAMPLE


def annotations(node: Definition) -> list[str]:
    """Return the annotations of a function, or of the calls of a class."""
    if isinstance(node, ast.ClassDef):
        return [text for call in node.body if is_call(call) for text in annotations(call)]
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    hints = [*(argument.annotation for argument in arguments), node.returns]
    return [ast.unparse(hint) for hint in hints if hint is not None]


def is_call(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == "__call__"


def raises(node: Definition) -> bool:
    """Return whether a function, or a private method of a class, raises an error of jaxcnn in its own body."""
    if isinstance(node, ast.ClassDef):
        return any(raises(part) for part in node.body if isinstance(part, ast.FunctionDef) and part.name[0] == "_")
    errors = [each.exc for each in ast.walk(node) if isinstance(each, ast.Raise) and each.exc is not None]
    return any(isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] in ERRORS for call in errors)


@functools.cache
def examples(doc: str) -> str:
    return "\n".join(example.source for example in doctest.DocTestParser().get_examples(doc))


@functools.cache
def pages() -> str:
    """Return the code of all pages, which tests/docs/test_pages.py runs."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(program(path.read_text(encoding="utf-8")) for path in paths)


def faults(public: Public) -> list[str]:
    """Return what is missing in the documentation of a public name."""
    node, name = public.node, public.name.split(".")[-1]
    if not public.doc:
        return ["no docstring"]
    if node is None:
        return []
    docs = [public.doc, (public.owner and ast.get_docstring(public.owner)) or ""]
    found = []
    naked = [hint for hint in annotations(node) if ARRAY.search(hint) and not SHAPED.search(hint)]
    if naked and not any(map(SHAPE.search, docs)):
        found.append(f"no shape of {', '.join(naked)}")
    if raises(node) and not any(re.search(r"\bRaises?\b", doc) for doc in docs):
        found.append("no `Raises`")
    docs += [(ast.get_docstring(file) or "") for file in map(tree, public.modules) if file]
    if needs_example(public) and not any(re.search(rf"\b{name}\b", code) for code in (*map(examples, docs), pages())):
        found.append("no example")
    return found


@pytest.mark.parametrize("part", sorted({package(public) for public in public_names()}))
def test_public_names_are_documented(part):
    found = {public.name: faults(public) for public in public_names() if package(public) == part}
    assert {name: missing for name, missing in found.items() if missing} == {}


def test_exceptions_are_public_names_that_need_one():
    names = {public.name: public for public in public_names()}
    assert {*WITHOUT_EXAMPLE} <= {*names}
    assert all(WITHOUT_EXAMPLE.values())


def described(source: str) -> list[str]:
    node = ast.parse(source).body[0]
    assert isinstance(node, Definition)
    return faults(Public("jaxcnn.layers.some", ("jaxcnn.layers", "jaxcnn.layers"), node, ast.get_docstring(node) or ""))


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("def some(x: int): pass", ["no docstring"]),
        ("def some(x: int):\n  '''Do.\n\n  >>> some(1)\n  '''", []),
        ("def some(x: int):\n  '''Do.\n\n  >>> other(1)\n  '''", ["no example"]),
        ("def some(x: jax.Array):\n  '''Do.\n\n  >>> some(1)\n  '''", ["no shape of jax.Array"]),
        ("def some(x: Array):\n  '''Sum `[N, C]`.\n\n  >>> some(1)\n  '''", []),
        ("def some(x: Float[Array, 'n c']):\n  '''Sum.\n\n  >>> some(1)\n  '''", []),
        ("def some():\n  '''Do.\n\n  >>> some()\n  '''\n  raise UsageError('no')", ["no `Raises`"]),
        ("def some():\n  '''Raise `UsageError`.\n\n  >>> some()\n  '''\n  raise UsageError('no')", []),
        (
            "class some:\n  '''A layer.\n\n  >>> some()\n  '''\n  def __call__(self, x: Array): raise unknown_name(x)",
            ["no shape of Array", "no `Raises`"],
        ),
    ],
)
def test_what_is_missing_is_found(source, missing):
    assert described(source) == missing


def test_public_names_are_found():
    names = {public.name for public in public_names()}
    assert {"jaxcnn.layers.convolution.Conv", "jaxcnn.layers.initializers.dirac"} <= names
    assert {"jaxcnn.layers.normalization.BATCH_AXIS", "jaxcnn.train.task.Task.loss"} <= names
