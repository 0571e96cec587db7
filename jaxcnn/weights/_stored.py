"""An array in a file: what is known of it before it is read."""

import math
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np


class Stored(NamedTuple):
    """A named array's shape and type, and how to read it; nothing is read of an array that nobody asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def count(shape: tuple[int, ...]) -> int:
    """Number of values in an array of this shape."""
    return math.prod(shape)
