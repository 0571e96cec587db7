"""What the pictures have in common: grids of small images, and images that matplotlib shows as they are."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def grid(count: int, title: str, *, size: float = 1.1, columns: int = 8) -> tuple[Figure, list[Axes]]:
    """A figure of `count` square panels without ticks, row by row, under a title."""
    columns = min(count, columns)
    rows = math.ceil(count / columns)
    width = max(columns * size, 4.5)  # that a title fits
    figure = Figure(figsize=(width, rows * size * 1.12 + 0.7), layout="constrained", dpi=120)
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for panel in axes:
        panel.set(xticks=[], yticks=[])
    for panel in axes[count:]:
        panel.set_axis_off()
    figure.suptitle(title)
    return figure, list(axes[:count])


def show(axes: Axes, image: np.ndarray, **options: Any) -> Any:
    """An image `[H, W, C]` with its first row at the top; of one channel in grey."""
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
        options = {"cmap": "gray", **options}
    if image.dtype == np.uint8:
        options = {"vmin": 0, "vmax": 255, **options}
    return axes.imshow(image, origin="upper", interpolation="nearest", **options)
