"""Weights and images by formula, so that outputs can be compared between libraries without storing the weights.

Values come from SplitMix64 over integers, keyed by name: NumPy keeps its bit streams from version to version but not
what its distributions make of them, and a sine differs in its last bits between platforms. Integers wrap the same
everywhere, and what follows them is exact or correctly rounded by IEEE 754.
"""

import math
import zlib

import numpy as np

GAMMA = 0x9E3779B97F4A7C15
CHUNK = 1 << 18  # of a size for the cache, and so that VGG's 102 million weights need no 64-bit copy


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values of a parameter or running statistic: `name` as in torchvision's `state_dict`, `shape` as there.

    The layouts are PyTorch's, `[out, in / groups, height, width]` and `[out, in]`. Values fill them in C order, so
    transpose afterwards.

    >>> parameter("fc.bias", (3,)).tolist()
    [0.09866999089717865, -0.13871178030967712, 0.19693394005298615]
    """
    field = name.rpartition(".")[2]
    if field == "weight" and len(shape) > 1:
        limit = math.sqrt(6 / math.prod(shape[1:]))  # variance 2 / fan-in (He), which ReLU halves
        return uniform(name, shape, -limit, limit)
    # The end of a residual branch: in evaluation nothing else stops the variance growing at every block.
    if name.endswith((".bn3.weight", ".conv.3.weight", ".layers.7.weight", ".f.c.1.weight", ".layer_scale")):
        return uniform(name, shape, 0.25, 0.75)
    if name.endswith((".block.2.1.weight", ".block.3.1.weight")):
        # Large values would saturate the sigmoids of squeeze-and-excitation, whose inputs then lose their digits.
        return uniform(name, shape, 0.05, 0.15)
    low, high = {"weight": (0.5, 1.5), "bias": (-0.2, 0.2), "running_mean": (-0.2, 0.2), "running_var": (0.5, 1.5)}[
        field
    ]
    return uniform(name, shape, low, high)


def images(batch: int, size: int, width: int | None = None) -> np.ndarray:
    """Float32 images from -2 to 2, `[batch, size, width or size, 3]`; `size` and `width` are multiples of 16.

    White noise alone would look the same to a network in every image once it is averaged over space: each image has
    a colour of its own and coarse squares besides.
    """
    colour = uniform("images.colour", (batch, 1, 1, 3), -0.5, 0.5)
    width = width or size
    coarse = uniform("images.coarse", (batch, size // 16, width // 16, 3), -1.0, 1.0).repeat(16, 1).repeat(16, 2)
    fine = uniform("images.fine", (batch, size, width, 3), -0.5, 0.5)
    return colour + coarse + fine


def uniform(key: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Float32 values from `low` to `high` in steps of `2**-24` of the range, the same for the same `key`."""
    seed = int(mix(np.array([zlib.crc32(key.encode())], np.uint64))[0])
    values = np.empty(math.prod(shape), np.float32)
    steps = np.arange(1, CHUNK + 1, dtype=np.uint64) * np.uint64(GAMMA)
    for start in range(0, values.size, CHUNK):
        part = values[start : start + CHUNK]
        offset = np.uint64((seed + start * GAMMA) % 2**64)  # in Python, as NumPy warns of a scalar that wraps
        part[:] = mix(steps[: part.size] + offset) >> np.uint64(40)
    values *= np.float32((high - low) / 2**24)
    values += np.float32(low)
    return values.reshape(shape)


def mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, of a `uint64` array."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
