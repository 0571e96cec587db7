"""Arrays in a file: the shape and dtype of each array are known, and the values are read on demand."""

import math
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np


class Stored(NamedTuple):
    """An array in a file.

    Attributes:
      shape: shape of the array.
      dtype: dtype of the array.
      read: function that reads the values from the file and returns them.
      problem: kind of an array whose values cannot be read, such as "a quantized tensor"; "" for all other arrays.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    problem: str = ""


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def count(shape: tuple[int, ...]) -> int:
    """Return the number of values in an array of this shape."""
    return math.prod(shape)
