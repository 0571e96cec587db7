"""Arithmetic of sliding windows, shared by convolution and pooling: sizes, strides, padding.

Dumoulin and Visin, *A guide to convolution arithmetic for deep learning*, 2016, is the reference for the formulas.
"""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from jaxcnn.errors import UsageError

Size = int | Sequence[int]
Padding = str | int | Sequence[int | tuple[int, int]]
Sides = tuple[tuple[int, int], tuple[int, int]]


def is_positive(value: Any) -> bool:
    """Whether `value` is a whole number, Python's or NumPy's, of at least 1."""
    return isinstance(value, Integral) and int(value) >= 1


def pair(value: Size, name: str) -> tuple[int, int]:
    """`(height, width)` of a field given as one number for both or as two, all positive.

    >>> pair(3, "kernel_size"), pair((3, 5), "kernel_size")
    ((3, 3), (3, 5))
    """
    both = tuple(value) if isinstance(value, Iterable) else (value, value)
    if len(both) != 2 or not all(is_positive(v) for v in both):
        raise UsageError(f"{name} must be one or two positive integers (height, width), got {value!r}")
    return int(both[0]), int(both[1])


def explicit_padding(
    padding: Padding,
    size: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[tuple[int, int], tuple[int, int]]:
    """`((top, bottom), (left, right))` rows and columns of padding around an image of `size` (height, width).

    `padding` is one number for all sides, one for height and one for width, the four numbers themselves, "VALID"
    (none) or "SAME" (as many as it takes for `ceil(size / stride)` outputs; the odd one goes below and right, which
    is TensorFlow's rule and, at stride 2, not the papers' symmetric one).

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
        raise UsageError(
            f"padding must be 'SAME', 'VALID', a number or ((top, bottom), (left, right)), got {padding!r}"
        )
    sides = tuple(padding) if isinstance(padding, Iterable) else (padding, padding)
    sides = tuple(tuple(side) if isinstance(side, Iterable) else (side, side) for side in sides)
    numbers = [n for side in sides for n in side]
    if [len(side) for side in sides] != [2, 2] or not all(isinstance(n, Integral) and int(n) >= 0 for n in numbers):
        raise UsageError(
            f"padding must be 'SAME', 'VALID', a number >= 0 or ((top, bottom), (left, right)), got {padding!r}"
        )
    top, bottom, left, right = (int(n) for n in numbers)
    return (top, bottom), (left, right)


def image_size(layer: str, shape: Sequence[int]) -> tuple[int, int]:
    """(height, width) of images of `shape` `[N, H, W, C]`; raises `UsageError` if it is no such shape."""
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
    """Raises `UsageError` if images of `shape` `[N, H, W, C]` are too small for one window."""
    height, width = image_size(layer, shape)
    need = [(k - 1) * d + 1 - sum(p) for k, d, p in zip(window, dilation, padding, strict=True)]
    if height < need[0] or width < need[1]:
        raise UsageError(
            f"image too small: {layer} with a {window[0]}x{window[1]} window needs a feature map of at least "
            f"{max(need[0], 1)}x{max(need[1], 1)}, got {height}x{width}"
        )
