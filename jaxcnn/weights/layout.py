"""How an array lies in memory: torch's layout of each kind of parameter, and ours.

| parameter | torch | here |
|---|---|---|
| kernel of a convolution | `[out, in / groups, height, width]` | `[height, width, in / groups, out]` |
| kernel of a fully connected layer | `[out, in]` | `[in, out]` |
| the same behind a flattening | `[out, channels * height * width]` | `[height * width * channels, out]` |
| anything of one axis | the same | the same |
"""

import math
from typing import Literal

import numpy as np

from jaxcnn.errors import UsageError

Change = Literal["as it is", "transposed", "rows permuted, transposed"]

# The last part of a parameter's or statistic's name: ours -> theirs.
FIELDS = {"kernel": "weight", "bias": "bias", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def change(ours: tuple[int, ...], flattened_channels: int | None) -> Change:
    """What becomes of a parameter of our shape `ours` on its way here, and back on its way to torch."""
    if len(ours) == 1:
        return "as it is"
    return "transposed" if flattened_channels is None else "rows permuted, transposed"


def torch_shape(ours: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in torch of a parameter that has the shape `ours` here.

    >>> torch_shape((7, 7, 3, 64)), torch_shape((512, 1000)), torch_shape((64,))
    ((64, 3, 7, 7), (1000, 512), (64,))
    """
    if len(ours) == 4:
        height, width, inputs, outputs = ours
        return (outputs, inputs, height, width)
    return ours[::-1]


def fits(theirs: tuple[int, ...], ours: tuple[int, ...], flattened_channels: int | None) -> bool:
    """Whether torch's array of shape `theirs` can become ours; a fully connected layer may be a convolution there."""
    if len(ours) == 2 and len(theirs) == 4:
        outputs, channels, height, width = theirs
        return channels == (flattened_channels or ours[0]) and (channels * height * width, outputs) == ours
    return theirs == torch_shape(ours)


def from_torch(array: np.ndarray, ours: tuple[int, ...], flattened_channels: int | None) -> np.ndarray:
    """Our array of shape `ours`, from torch's.

    >>> rows = np.arange(8).reshape(1, 8)  # one output; of 2x2 positions in 2 channels
    >>> from_torch(rows, (8, 1), 2).ravel().tolist()
    [0, 4, 1, 5, 2, 6, 3, 7]
    """
    if len(ours) == 4:
        return array.transpose(2, 3, 1, 0)
    if len(ours) == 2 and flattened_channels is not None:
        height, width = _spatial(ours[0], flattened_channels)
        return array.reshape(ours[1], flattened_channels, height, width).transpose(2, 3, 1, 0).reshape(ours)
    return array.reshape(torch_shape(ours)).T


def to_torch(array: np.ndarray, flattened_channels: int | None) -> np.ndarray:
    """Torch's array, from ours: the inverse of `from_torch`."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2 and flattened_channels is not None:
        height, width = _spatial(array.shape[0], flattened_channels)
        outputs = array.shape[1]
        return array.reshape(height, width, flattened_channels, outputs).transpose(3, 2, 0, 1).reshape(outputs, -1)
    return array.T


def _spatial(inputs: int, channels: int) -> tuple[int, int]:
    side = math.isqrt(inputs // channels)
    if side * side * channels != inputs:
        raise UsageError(f"{inputs} inputs are no square of positions in {channels} channels, which torch's names need")
    return side, side
