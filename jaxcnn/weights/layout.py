"""Convert arrays between the memory layouts of torch and jaxcnn.

| parameter | torch | jaxcnn |
|---|---|---|
| convolution kernel | `[out, in / groups, height, width]` | `[height, width, in / groups, out]` |
| dense kernel | `[out, in]` | `[in, out]` |
| dense kernel after a flattened feature map | `[out, channels * height * width]` | `[height * width * channels, out]` |
| layer scale | `[channels, 1, 1]` | `[channels]` |
| any other array with one axis | unchanged | unchanged |

For a dense kernel after a flattened feature map, `flattened_channels` is the number of channels of this feature map.
For all other arrays, `flattened_channels` is None.
"""

import math
from typing import Literal

import numpy as np

from jaxcnn.errors import UsageError

Change = Literal["unchanged", "transposed", "rows permuted, transposed"]

# Last part of an array's name in jaxcnn, and in torch.
FIELDS = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
    "gamma": "layer_scale",
}


def change(ours: tuple[int, ...], flattened_channels: int | None) -> Change:
    """Return a description of how a conversion to or from torch changes an array of shape `ours` in jaxcnn."""
    if len(ours) == 1:
        return "unchanged"
    return "transposed" if flattened_channels is None else "rows permuted, transposed"


def torch_shape(ours: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in torch of an array that has the shape `ours` in jaxcnn.

    >>> torch_shape((7, 7, 3, 64)), torch_shape((512, 1000)), torch_shape((64,))
    ((64, 3, 7, 7), (1000, 512), (64,))
    """
    if len(ours) == 4:
        height, width, inputs, outputs = ours
        return (outputs, inputs, height, width)
    return ours[::-1]


def input_axis(same_layout: bool) -> int:
    """Return the axis of the input channels of a convolution kernel, in the layout of jaxcnn or of torch."""
    return 2 if same_layout else 1


def fits(theirs: tuple[int, ...], ours: tuple[int, ...], flattened_channels: int | None) -> bool:
    """Return whether a torch array of shape `theirs` can be converted to shape `ours`.

    A dense layer may be a convolution in torch, and a vector `[C]` may be an array `[C, 1, 1]` (layer scale).
    """
    if len(ours) == 1:
        return tuple(n for n in theirs if n != 1) == tuple(n for n in ours if n != 1)
    if len(ours) == 2 and len(theirs) == 4:
        outputs, channels, height, width = theirs
        return channels == (flattened_channels or ours[0]) and (channels * height * width, outputs) == ours
    return theirs == torch_shape(ours)


def from_torch(array: np.ndarray, ours: tuple[int, ...], flattened_channels: int | None) -> np.ndarray:
    """Convert a torch array to an array of shape `ours`.

    >>> rows = np.arange(8).reshape(1, 8)  # one output, 2 channels of 2x2 positions
    >>> from_torch(rows, (8, 1), 2).ravel().tolist()
    [0, 4, 1, 5, 2, 6, 3, 7]
    """
    if len(ours) == 4:
        return array.transpose(2, 3, 1, 0)
    if len(ours) == 2 and flattened_channels is not None:
        height, width = _spatial_size(ours[0], flattened_channels)
        return array.reshape(ours[1], flattened_channels, height, width).transpose(2, 3, 1, 0).reshape(ours)
    return array.reshape(torch_shape(ours)).T


def to_torch(array: np.ndarray, flattened_channels: int | None, field: str = "kernel") -> np.ndarray:
    """Convert an array to the layout of torch. This function is the inverse of `from_torch`.

    `field` is the last part of the array's name in jaxcnn, such as "kernel".
    """
    if field == "gamma":
        return array[:, None, None]
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2 and flattened_channels is not None:
        height, width = _spatial_size(array.shape[0], flattened_channels)
        outputs = array.shape[1]
        return array.reshape(height, width, flattened_channels, outputs).transpose(3, 2, 0, 1).reshape(outputs, -1)
    return array.T


def as_convolution(array: np.ndarray, channels: int) -> np.ndarray:
    """Return a dense kernel of torch, `[out, channels * height * width]`, as a kernel of a convolution."""
    return array.reshape(len(array), channels, *_spatial_size(array.shape[1], channels))


def _spatial_size(inputs: int, channels: int) -> tuple[int, int]:
    """Return the height, which is also the width, of a square feature map with `inputs` values in all channels."""
    side = math.isqrt(inputs // channels)
    if side * side * channels != inputs:
        raise UsageError(
            f"cannot convert a dense kernel of {inputs} inputs: not a square feature map of {channels} channels. "
            "Use square images."
        )
    return side, side
