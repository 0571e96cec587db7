"""Check that the arrays in a file fit a model. Error messages list the arrays that do not fit."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights import layout
from jaxcnn.weights._locations import Location
from jaxcnn.weights._stored import Stored
from jaxcnn.weights.names import COUNTER

Channels = Literal["exact", "sum"]
"""How to load color weights into a model for gray images: "exact" refuses these weights, and "sum" sums the first
kernel over its input channels."""


def kernels_to_sum(
    names: Iterable[str],
    shapes: Mapping[str, Any],
    locations: Mapping[str, Location],
    stored: Mapping[str, Stored],
    channels: Channels,
) -> dict[str, int]:
    """Return the kernels that must be summed over their input channels, with the number of these channels in the file.

    A kernel must be summed if the model is for gray images and the kernel in the file is for color images.

    Raises:
      UsageError: if a kernel must be summed, and `channels` is "exact".
    """
    found = {}
    for name in names:
        location = locations.get(name)
        if location is None or location.name not in stored:
            continue
        theirs, axis = stored[location.name].shape, layout.input_axis(location.same_layout)
        expected = shapes[name].shape if location.same_layout else layout.torch_shape(shapes[name].shape)
        if len(theirs) != 4 or theirs[axis] <= 1:
            continue
        if (*theirs[:axis], 1, *theirs[axis + 1 :]) == expected:
            found[name] = theirs[axis]
    if found and channels == "exact":
        raise UsageError(
            f"the weights in the file are for images of {next(iter(found.values()))} channels, not 1. To sum the first "
            'kernel over its input channels, give --init-channels sum (in Python: channels="sum").'
        )
    return found


def check_finite(arrays: Mapping[str, np.ndarray], locations: Mapping[str, Location]) -> None:
    """Raise `UsageError` if an array from the file contains an infinite or NaN value."""
    damaged = [locations[name].name for name, array in arrays.items() if not np.isfinite(array).all()]
    if damaged:
        raise UsageError(
            f"{len(damaged)} arrays in the file have infinite or NaN values ({_abbreviate(damaged)}). "
            "Use a file of finite weights."
        )


def check_arrays(
    model_name: str,
    shapes: Mapping[str, Any],
    locations: Mapping[str, Location],
    stored: Mapping[str, Stored],
    *,
    dropped: set[str],
    summed: set[str],
) -> list[str]:
    """Return the names of the arrays in the file that the model does not need.

    Args:
      model_name: name of the model, for error messages.
      shapes: shapes and dtypes of the arrays that the model needs from the file.
      locations: location of each array in the file, by the name of the array in jaxcnn.
      stored: all arrays in the file, by their names in the file.
      dropped: names in jaxcnn of arrays that may be in the file but are not used.
      summed: names in jaxcnn of kernels that are summed over their input channels, so that their shapes may differ.

    Raises:
      UsageError: if arrays are missing, unexpected, or of the wrong shape or dtype.
    """
    missing, mismatched = [], []
    for name, ours in shapes.items():
        location = locations.get(name)
        if location is None or location.name not in stored:
            missing.append(location.name if location else name)
            continue
        theirs = stored[location.name]
        if theirs.problem:
            mismatched.append(f"{location.name} is {theirs.problem}")
        elif not jnp.issubdtype(theirs.dtype, np.floating):
            mismatched.append(f"{location.name} of {theirs.dtype}, not float")
        elif name in summed:
            continue
        elif location.same_layout and theirs.shape != ours.shape:
            mismatched.append(f"{location.name} {list(theirs.shape)}, not {list(ours.shape)}")
        elif not location.same_layout and not layout.fits(theirs.shape, ours.shape, location.flattened_channels):
            mismatched.append(f"{location.name} {list(theirs.shape)}, not {list(layout.torch_shape(ours.shape))}")
    used = {locations[name].name for name in shapes if name in locations}
    # In the file, a dropped classifier may consist of other modules, such as "fc.0" and "fc.2" instead of "fc".
    dropped_in_file = tuple(
        f"{locations[name].name.rpartition('.')[0]}." for name in dropped if "." in locations[name].name
    )
    unused = [name for name in stored if name not in used]
    dropped_names = {locations[name].name for name in dropped}
    unexpected = [
        name
        for name in unused
        if name not in dropped_names and not name.startswith(dropped_in_file) and not name.endswith(COUNTER)
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of the wrong shape or dtype": mismatched}
    if any(problems.values()):
        details = "; ".join(f"{len(names)} {kind} ({_abbreviate(names)})" for kind, names in problems.items() if names)
        raise UsageError(
            f"the arrays in the file do not fit {model_name}: {details}. "
            "Check the name of the model and the model options."
        )
    return unused


def _abbreviate(names: list[str], limit: int = 8) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    shown = (name if name.isprintable() else repr(name) for name in names[:limit])
    return ", ".join(name[:80] for name in shown) + rest
