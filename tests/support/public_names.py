"""The public names of jaxcnn, read from its source: what each package lists in `__all__`, and where that is defined."""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Public:
    """A public function, class, method or constant.

    Attributes:
      name: such as "jaxcnn.layers.Conv".
      modules: the packages that export it, and the module that defines it.
      node: its definition; None for a constant.
      doc: its docstring (a method may inherit one), or the string below a constant; "" if there is none.
      owner: the class of a method.
    """

    name: str
    modules: tuple[str, ...]
    node: Definition | None
    doc: str
    owner: ast.ClassDef | None = None


@functools.cache
def public_names() -> tuple[Public, ...]:
    """Return the names that packages export, each once, and the public methods of exported classes."""
    exported: dict[tuple[str, str], list[str]] = {}
    for module in modules():
        for name in exports(module):
            found = resolve(module, name)
            if found is not None:
                exported.setdefault(found, []).append(module)
    return tuple(public for (module, name), by in exported.items() for public in describe(module, name, by))


def modules() -> list[str]:
    """Return the modules without an underscore in their path."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "jaxcnn").rglob("*.py"))]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    return [name for name in names if not any(part.startswith("_") for part in name.split("."))]


@functools.cache
def tree(module: str) -> ast.Module | None:
    """Return the syntax tree of a module of jaxcnn; None if there is no such module."""
    stem = ROOT.joinpath(*module.split("."))
    path = next((p for p in (stem / "__init__.py", stem.with_suffix(".py")) if p.is_file()), None)
    return None if path is None else ast.parse(path.read_text(encoding="utf-8"))


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, also within `if` and `try`."""
    for node in body:
        yield node
        for part in ("body", "orelse"):
            if isinstance(node, ast.If | ast.Try):
                yield from statements(getattr(node, part))


def targets(node: ast.stmt) -> list[str]:
    found = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in found if isinstance(target, ast.Name)]


def exports(module: str) -> list[str]:
    """Return the names in a module's `__all__`."""
    found = tree(module)
    lists = [node.value for node in found.body if "__all__" in targets(node)] if found else []
    return [*ast.literal_eval(lists[0])] if lists else []


def resolve(module: str, name: str) -> tuple[str, str] | None:
    """Return the module that defines a name, and its name there; None if it comes from another library."""
    found = tree(module)
    for node in statements(found.body) if found else ():
        if name in targets(node) or (isinstance(node, Definition) and node.name == name):
            return module, name
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            if (alias.asname or alias.name) == name:
                source = str(node.module)
                return None if tree(f"{source}.{alias.name}") else resolve(source, alias.name)
    return None


def describe(module: str, name: str, by: list[str]) -> Iterator[Public]:
    """Yield the public name, and its public methods if it is a class."""
    found = tree(module)
    assert found is not None
    body, path, where = [*statements(found.body)], f"{module}.{name}", (*by, module)
    for index, node in enumerate(body):
        if name in targets(node):
            below = body[index + 1] if index + 1 < len(body) else None
            text = below.value if isinstance(below, ast.Expr) else None
            is_text = isinstance(text, ast.Constant) and isinstance(text.value, str)
            yield Public(path, where, None, str(text.value) if is_text else "")
            return
        if isinstance(node, Definition) and node.name == name and not is_overload(node):
            yield Public(path, where, node, ast.get_docstring(node) or "")
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and method.name != "setup":
                    doc = ast.get_docstring(method) or inherited(module, node, method.name)
                    yield Public(f"{path}.{method.name}", where, method, doc, node)
            return


def is_overload(node: Definition) -> bool:
    return any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)


def inherited(module: str, node: ast.ClassDef, method: str) -> str:
    """Return the docstring of a method in the base classes that jaxcnn defines; "" if there is none."""
    found = [resolve(module, base.id) for base in node.bases if isinstance(base, ast.Name)]
    methods = [public for each in found if each for public in describe(*each, by=[])]
    return next((public.doc for public in methods if public.name.endswith(f".{method}")), "")
