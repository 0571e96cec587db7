"""Find the tensors in an object that `torch.save` wrote: a state dict, a checkpoint, or a whole module."""

from collections.abc import Iterator
from typing import Any

from jaxcnn.weights.torch_files.machine import Placeholder, Tensor, Unusable

MAX_DEPTH = 32
"""Largest depth of nested containers that is searched."""


def tensors(saved: Any) -> dict[str, Tensor | Unusable]:
    """Return all tensors in a saved object, by their paths in this object.

    A path joins keys of dicts, indices of lists, and names of modules with dots: `{"state_dict": {"fc.bias": ...}}`
    contains "state_dict.fc.bias". An object that occurs in several places is listed under its first path only.
    """
    found: dict[str, Tensor | Unusable] = {}
    waiting = [("", saved, 0)]
    seen = set()
    while waiting:
        path, value, depth = waiting.pop()
        if isinstance(value, Tensor | Unusable):
            found.setdefault(path, value)
        elif depth <= MAX_DEPTH and id(value) not in seen:
            parts = [(f"{path}.{key}" if path else str(key), part, depth + 1) for key, part in _parts(value)]
            if parts:  # Python uses a single object for all empty tuples
                seen.add(id(value))
            waiting.extend(reversed(parts))
    return found


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the named parts of a container or module."""
    if isinstance(value, Placeholder):
        yield from _parts(value.items)
        if isinstance(value.state, dict):
            yield from _parts_of_module(value.state)
    elif isinstance(value, dict):
        yield from ((key, part) for key, part in value.items() if isinstance(key, str | int))
    elif isinstance(value, list | tuple):
        yield from enumerate(value)


def _parts_of_module(state: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the parameters, buffers and modules of a `torch.nn.Module` by their names in its state dict.

    For the state of any other object, yield its attributes.
    """
    tables = [state.get(name) for name in ("_parameters", "_buffers", "_modules")]
    if all(isinstance(table, dict) for table in tables):
        for table in tables:
            yield from _parts(table)
    else:
        yield from _parts(state)
