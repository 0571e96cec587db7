"""Checksums of checkpoints, the names of the arrays in them, and values that are not finite.

Orbax stores no checksum of array data, so that a flipped bit would be restored as a wrong number without notice.
"""

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.errors import RunError, UsageError

Manifest = dict[str, dict[str, Any]]


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by their paths, such as "params/Conv_0/kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def manifest(state: Any) -> Manifest:
    """Return the shape, dtype and CRC-32 of each leaf of a tree of host arrays, as JSON values."""
    return {name: {**_form(leaf), "crc32": _crc32(leaf)} for name, leaf in named_leaves(state).items()}


def check_fits(saved: Manifest, template: Any) -> None:
    """Check that a saved state has the tree, shapes and dtypes of `template`.

    Raises:
      UsageError: if not; it names the first leaf that is missing, unknown, or of another shape or dtype.
    """
    wanted = {name: _form(leaf) for name, leaf in named_leaves(template).items()}
    for name, form in wanted.items():
        if name not in saved:
            raise UsageError(f"the checkpoint has no {name}, which this configuration needs")
        for what in ("shape", "dtype"):
            if saved[name][what] != form[what]:
                raise UsageError(f"{name} has {what} {saved[name][what]} in the checkpoint, not {form[what]}")
    for name in saved:
        if name not in wanted:
            raise UsageError(f"the checkpoint has {name}, which this configuration does not know")


def damaged_leaf(saved: Manifest, state: Any) -> str | None:
    """Return the name of the first leaf whose bytes differ from what was saved, or None."""
    return next((name for name, leaf in named_leaves(state).items() if saved[name]["crc32"] != _crc32(leaf)), None)


def damaged_name(saved: Manifest, leaves: dict[str, Any]) -> str | None:
    """Return the name of the first saved leaf that is missing or whose bytes differ, or None.

    Args:
      saved: of the whole state.
      leaves: by name; those of arrays without values are not compared.
    """
    for name, form in saved.items():
        if 0 not in form["shape"] and (name not in leaves or _crc32(leaves[name]) != form["crc32"]):
            return name
    return None


def non_finite_leaf(state: Any) -> str | None:
    """Return the name of the first leaf of a training state that has an infinite or NaN value, or None.

    Single numbers of the optimizer's state may be infinite: some optimizers keep the best loss, or a bound of it, which
    is infinite at first.
    """
    for name, leaf in named_leaves(state).items():
        if not jax.numpy.issubdtype(leaf.dtype, np.inexact):
            continue
        may_be_infinite = name.startswith("opt_state/") and leaf.ndim == 0
        if np.isnan(leaf).any() or (np.isinf(leaf).any() and not may_be_infinite):
            return name
    return None


def sha256(tree: Any) -> str:
    """Return the SHA-256 of the paths, dtypes, shapes and bits of a tree's arrays.

    >>> sha256({"a": np.zeros(2)}) == sha256({"a": -np.zeros(2)})
    False
    """
    digest = hashlib.sha256()
    for name, leaf in named_leaves(tree).items():
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.dtype} {np.shape(leaf)}\n".encode())
        digest.update(_bytes(array))
    return digest.hexdigest()


def seal(value: Any) -> dict[str, Any]:
    """Return a JSON value together with its checksum."""
    return {"value": value, "crc32": zlib.crc32(_canonical(value))}


def unseal(sealed: Any) -> Any:
    """Return the value that was sealed.

    Raises:
      ValueError: if the checksum is missing or does not match.
    """
    if not isinstance(sealed, dict) or set(sealed) != {"value", "crc32"}:
        raise ValueError("its description has no checksum")
    if zlib.crc32(_canonical(sealed["value"])) != sealed["crc32"]:
        raise ValueError("its description is damaged")
    return sealed["value"]


def _form(leaf: Any) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _crc32(leaf: Any) -> int:
    return zlib.crc32(_bytes(np.ascontiguousarray(leaf)))


def _bytes(array: np.ndarray) -> memoryview:
    # Viewed as uint8: Python knows no buffers of some of JAX's dtypes (bfloat16).
    return array.reshape(-1).view(np.uint8).data


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


class DivergedError(RunError):
    """The loss or the state has an infinite or NaN value. Checkpoints of earlier steps are kept.

    >>> error: DivergedError = diverged(7, "the loss is nan", Path("run"), kept=5, learning_rate=0.1)
    >>> print(*str(error).split("; "), sep="\\n")
    the loss is nan at step 7
    the checkpoint of step 5 in run is kept
    try a lower learning rate (--optimizer.learning-rate 0.01)
    """


def diverged(step: int, what: str, folder: Path, kept: int | None, learning_rate: float) -> DivergedError:
    """Return the error of a run whose loss or state is not finite.

    Args:
      step: the step.
      what: the value that is not finite.
      folder: the run directory.
      kept: step of the last good checkpoint, if there is one.
      learning_rate: peak learning rate of the run.
    """
    where = f"the checkpoint of step {kept} in {folder} is kept" if kept else "there is no checkpoint yet"
    advice = f"try a lower learning rate (--optimizer.learning-rate {learning_rate / 10:g})"
    if step == 1 and what.startswith("the loss"):
        advice = "no step has been made yet, so that the cause is in the model, the loss or the data"
    return DivergedError(f"{what} at step {step}; {where}; {advice}")
