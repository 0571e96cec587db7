"""Compute sizes and padding of sliding windows, for convolution and pooling.

References:
  Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016.
"""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from jaxcnn.errors import UsageError

Size = int | Sequence[int]
Padding = str | int | Sequence[int | tuple[int, int]]
Sides = tuple[tuple[int, int], tuple[int, int]]


def is_positive(value: Any) -> bool:
    """Return whether `value` is a Python or NumPy integer of at least 1."""
    return isinstance(value, Integral) and int(value) >= 1


def pair(value: Size, name: str) -> tuple[int, int]:
    """Return `(height, width)` from one positive integer for both, or from two.

    Args:
      value: one or two positive integers.
      name: name of the field, for the error.

    Raises:
      UsageError: `value` is anything else.

    >>> pair(3, "kernel_size"), pair((3, 5), "kernel_size")
    ((3, 3), (3, 5))
    """
    both = tuple(value) if isinstance(value, Iterable) else (value, value)
    if len(both) != 2 or not all(is_positive(v) for v in both):
        raise UsageError(
            f"{name} is neither a positive integer nor a pair of them: {value!r}. "
            "Use one integer, or two for (height, width)."
        )
    return int(both[0]), int(both[1])


def explicit_padding(
    padding: Padding,
    size: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Convert any form of padding to the number of rows and columns on each side.

    Args:
      padding: one of these:
        - one integer for all sides
        - two integers, for (height, width)
        - two pairs, `((top, bottom), (left, right))`
        - "VALID": no padding
        - "SAME": as much as gives `ceil(size / stride)` outputs. As in TensorFlow, an odd row or column goes to the
          bottom or right. At stride 2 this differs from the symmetric padding in papers.
      size: (height, width) of the image.
      window: (height, width) of the window.
      strides: strides along (height, width).
      dilation: dilation of the window along (height, width).

    Returns:
      `((top, bottom), (left, right))`.

    Raises:
      UsageError: `padding` has none of these forms.

    >>> explicit_padding(2, (28, 28), (5, 5), (1, 1))
    ((2, 2), (2, 2))
    >>> explicit_padding("SAME", (28, 28), (3, 3), (2, 2))
    ((0, 1), (0, 1))
    """
    if padding == "VALID":
        return (0, 0), (0, 0)
    if padding == "SAME":
        totals = [
            max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            for n, k, s, d in zip(size, window, strides, dilation, strict=True)
        ]
        top, left = (total // 2 for total in totals)
        return (top, totals[0] - top), (left, totals[1] - left)
    if isinstance(padding, str):
        raise _invalid_padding(padding)
    sides = tuple(padding) if isinstance(padding, Iterable) else (padding, padding)
    sides = tuple(tuple(side) if isinstance(side, Iterable) else (side, side) for side in sides)
    numbers = [n for side in sides for n in side]
    if [len(side) for side in sides] != [2, 2] or not all(isinstance(n, Integral) and int(n) >= 0 for n in numbers):
        raise _invalid_padding(padding)
    top, bottom, left, right = (int(n) for n in numbers)
    return (top, bottom), (left, right)


def _invalid_padding(padding: Any) -> UsageError:
    return UsageError(
        f"invalid padding: {padding!r}. Use 'SAME', 'VALID', an integer >= 0, (height, width) or "
        "((top, bottom), (left, right))."
    )


def image_size(layer: str, shape: Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of images of `shape` `[N, H, W, C]`.

    Raises:
      UsageError: `shape` does not have four axes. The message names `layer`.
    """
    if len(shape) != 4:
        raise UsageError(f"{layer} needs images [N, H, W, C], got shape {list(shape)}")
    return shape[1], shape[2]


def check_fits(
    layer: str,
    shape: Sequence[int],
    window: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    dilation: tuple[int, int] = (1, 1),
) -> None:
    """Check that images of `shape` `[N, H, W, C]` are large enough for one window.

    Raises:
      UsageError: the images are too small. The message names `layer`.
    """
    height, width = image_size(layer, shape)
    required = [(k - 1) * d + 1 - sum(p) for k, d, p in zip(window, dilation, padding, strict=True)]
    if height < required[0] or width < required[1]:
        raise UsageError(
            f"image too small: {height}x{width}. {layer} with a {window[0]}x{window[1]} window needs a feature map of "
            f"at least {max(required[0], 1)}x{max(required[1], 1)}."
        )
