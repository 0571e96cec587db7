"""Compute checksums of checkpoints, name the arrays in checkpoints, and find values that are not finite.

Orbax stores no checksums of arrays. Without the checksums of this module, a flipped bit on the disk would be restored
as a wrong number without an error.
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
    """Return the leaves of a pytree in a dict, by their paths, such as "params/Conv_0/kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def manifest(state: Any) -> Manifest:
    """Return the shape, dtype and CRC-32 of each leaf of a pytree of host arrays, as JSON values."""
    return {name: {**_form(leaf), "crc32": _crc32(leaf)} for name, leaf in named_leaves(state).items()}


def check_fits(saved: Manifest, template: Any) -> None:
    """Check that a saved state has the tree structure, shapes and dtypes of `template`.

    Raises:
      UsageError: if a leaf is missing, unknown, or has another shape or dtype. The error message names the first such
        leaf.
    """
    wanted = {name: _form(leaf) for name, leaf in named_leaves(template).items()}
    for name, form in wanted.items():
        if name not in saved:
            raise UsageError(f"the checkpoint has no {name}, which the configuration of this run needs")
        for what in ("shape", "dtype"):
            if saved[name][what] != form[what]:
                raise UsageError(f"{name} has {what} {saved[name][what]} in the checkpoint, not {form[what]}")
    for name in saved:
        if name not in wanted:
            raise UsageError(f"the checkpoint has {name}, which the configuration of this run does not use")


def damaged_leaf(saved: Manifest, state: Any) -> str | None:
    """Return the name of the first leaf of `state` whose checksum is not the saved checksum, or None if all match."""
    return next((name for name, leaf in named_leaves(state).items() if saved[name]["crc32"] != _crc32(leaf)), None)


def damaged_name(saved: Manifest, leaves: dict[str, Any]) -> str | None:
    """Return the name of the first saved leaf that is missing or damaged in `leaves`, or None if all leaves are intact.

    Args:
      saved: the manifest of the whole saved state.
      leaves: dict from names to arrays. Arrays of size 0 are not compared.
    """
    for name, form in saved.items():
        if 0 not in form["shape"] and (name not in leaves or _crc32(leaves[name]) != form["crc32"]):
            return name
    return None


def non_finite_leaf(state: Any) -> str | None:
    """Return the name of the first leaf of a training state with an infinite or NaN value, or None without such a leaf.

    Scalars in the optimizer's state may be infinite: some optimizers store the best loss so far, which is infinite
    before the first step.
    """
    for name, leaf in named_leaves(state).items():
        if not jax.numpy.issubdtype(leaf.dtype, np.inexact):
            continue
        may_be_infinite = name.startswith("opt_state/") and leaf.ndim == 0
        if np.isnan(leaf).any() or (np.isinf(leaf).any() and not may_be_infinite):
            return name
    return None


def sha256(tree: Any) -> str:
    """Return the SHA-256 of the paths, dtypes, shapes and bytes of all arrays in a pytree.

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
    """Return a dict with a JSON value and its CRC-32 checksum."""
    return {"value": value, "crc32": zlib.crc32(_canonical(value))}


def unseal(sealed: Any) -> Any:
    """Verify the checksum of a dict that `seal` has returned, and return the value in it.

    Raises:
      ValueError: if the checksum is missing or does not match.
    """
    if not isinstance(sealed, dict) or set(sealed) != {"value", "crc32"}:
        raise ValueError("the description of the checkpoint has no checksum")
    if zlib.crc32(_canonical(sealed["value"])) != sealed["crc32"]:
        raise ValueError("the description of the checkpoint is damaged")
    return sealed["value"]


def _form(leaf: Any) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _crc32(leaf: Any) -> int:
    return zlib.crc32(_bytes(np.ascontiguousarray(leaf)))


def _bytes(array: np.ndarray) -> memoryview:
    # The array is viewed as uint8, since Python's buffer protocol does not support bfloat16.
    return array.reshape(-1).view(np.uint8).data


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


class DivergedError(RunError):
    """Raised when the loss or the training state has an infinite or NaN value. Earlier checkpoints are kept.

    >>> error: DivergedError = diverged(7, "the loss is nan", Path("run"), kept=5, learning_rate=0.1)
    >>> print(*str(error).split("; "), sep="\\n")
    the loss is nan at step 7
    the checkpoint of step 5 in run is kept
    try a lower learning rate (--optimizer.learning-rate 0.01)
    """


def diverged(step: int, what: str, folder: Path, kept: int | None, learning_rate: float) -> DivergedError:
    """Return the error to raise when the loss or the training state of a run is not finite.

    Args:
      step: number of the step that computed the value.
      what: description of the value that is not finite, such as "the loss is nan".
      folder: the run directory.
      kept: step of the latest checkpoint, or None if there is no checkpoint.
      learning_rate: peak learning rate of the run. The error message suggests a tenth of this value.
    """
    where = f"the checkpoint of step {kept} in {folder} is kept" if kept else "the run has no checkpoint yet"
    advice = f"try a lower learning rate (--optimizer.learning-rate {learning_rate / 10:g})"
    if step == 1 and what.startswith("the loss"):
        advice = "no step has been made yet, so that the cause is in the model, the loss or the data"
    return DivergedError(f"{what} at step {step}; {where}; {advice}")
