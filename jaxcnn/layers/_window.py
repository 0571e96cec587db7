"""Sizes and padding of sliding windows.

Source: Dumoulin and Visin, *A guide to convolution arithmetic for deep learning*, 2016. A pair of numbers means
(height, width). A pair of pairs means ((top, bottom), (left, right)).
"""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from jaxcnn.errors import TooSmallError, UsageError

Size = int | Sequence[int]
Padding = str | int | Sequence[int | tuple[int, int]]
Pair = tuple[int, int]
Sides = tuple[Pair, Pair]


def is_positive(value: Any) -> bool:
    """Return whether `value` is a Python or NumPy integer of at least 1."""
    return isinstance(value, Integral) and int(value) >= 1


def pair(value: Size, name: str) -> Pair:
    """Return `value`, a pair or one integer, as (height, width).

    One positive integer stands for an equal height and width. Raise `UsageError` if `value` is neither a positive
    integer nor two positive integers. `name` is the name of the argument in the error message.
    """
    both = tuple(value) if isinstance(value, Iterable) else (value, value)
    if len(both) != 2 or not all(is_positive(v) for v in both):
        raise UsageError(
            f"invalid {name}: {value!r}. Use one positive integer for height and width, or two for (height, width)."
        )
    return int(both[0]), int(both[1])


def explicit_padding(padding: Padding, size: Pair, window: Pair, strides: Pair, dilation: Pair = (1, 1)) -> Sides:
    """Return the numbers of rows and columns that `padding` adds on each side of an image of `size`.

    `padding` is one integer for all sides, two integers (height, width), two pairs ((top, bottom), (left, right)),
    "VALID" or "SAME". "VALID" adds nothing. "SAME" adds as many rows and columns as `ceil(size / stride)` outputs need.
    If the number of added rows is odd, the bottom gets one more row than the top, as in TensorFlow. If the number of
    added columns is odd, the right side gets one more column than the left side. At stride 2, "SAME" therefore differs
    from the symmetric padding in papers. Raise `UsageError` for any other `padding`.

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
    sides = tuple(padding) if isinstance(padding, Iterable) else (padding, padding)
    sides = tuple(tuple(side) if isinstance(side, Iterable) else (side, side) for side in sides)
    numbers = [n for side in sides for n in side]
    if [len(side) for side in sides] != [2, 2] or not all(isinstance(n, Integral) and int(n) >= 0 for n in numbers):
        raise UsageError(
            f"invalid padding: {padding!r}. Use 'SAME', 'VALID', an integer >= 0, (height, width) or "
            "((top, bottom), (left, right))."
        )
    top, bottom, left, right = (int(n) for n in numbers)
    return (top, bottom), (left, right)


def image_size(layer: str, shape: Sequence[int]) -> Pair:
    """Return (height, width) for a shape `[N, H, W, C]` of images. Raise `UsageError` if there are not four axes."""
    if len(shape) != 4:
        raise UsageError(f"{layer} needs images [N, H, W, C], got shape {list(shape)}")
    return shape[1], shape[2]


def check_fits(layer: str, size: Pair, window: Pair, padding: Sides, dilation: Pair = (1, 1)) -> None:
    """Raise `TooSmallError` if a padded image of `size` is smaller than one window."""
    required = [(k - 1) * d + 1 - sum(p) for k, d, p in zip(window, dilation, padding, strict=True)]
    if size[0] < required[0] or size[1] < required[1]:
        raise TooSmallError(
            f"image too small: {size[0]}x{size[1]}. {layer} with a {window[0]}x{window[1]} window needs a feature map "
            f"of at least {max(required[0], 1)}x{max(required[1], 1)}."
        )
