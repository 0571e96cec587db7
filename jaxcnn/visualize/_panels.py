"""Helpers shared by the figures: grids of small panels, and images without interpolation."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MAX_NAME = 40
"""Largest length of a name in characters. A longer name is cut, because it would cover the images."""


def grid(count: int, title: str, *, size: float = 1.1, columns: int = 8) -> tuple[Figure, list[Axes]]:
    """Return a figure with a title and `count` square panels without ticks, in row-major order."""
    columns = min(count, columns)
    rows = math.ceil(count / columns)
    width = max(columns * size, 4.5)  # a narrower figure would cut off the title
    figure = Figure(figsize=(width, rows * size * 1.12 + 0.7), layout="constrained", dpi=120)
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for panel in axes:
        panel.set(xticks=[], yticks=[])
    for panel in axes[count:]:
        panel.set_axis_off()
    figure.suptitle(title)
    return figure, list(axes[:count])


def show(axes: Axes, image: np.ndarray, **options: Any) -> Any:
    """Draw an image `[H, W, C]` with its first row at the top. An image with one channel is drawn in gray."""
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
        options = {"cmap": "gray", **options}
    if image.dtype == np.uint8:
        options = {"vmin": 0, "vmax": 255, **options}
    return axes.imshow(image, origin="upper", interpolation="nearest", **options)


def literal(name: str) -> str:
    """Return a class or layer name as text for matplotlib: at most 40 characters, one line, `$` escaped.

    >>> literal("$5 or $6"), literal("a\\nb")
    ('\\\\$5 or \\\\$6', 'a?b')
    """
    text = "".join(x if x.isprintable() else "?" for x in name)
    text = text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 3]}..."
    return text.replace("$", r"\$")
