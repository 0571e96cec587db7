"""Figures of receptive fields, drawn over an image."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxcnn.analysis import summarize
from jaxcnn.array_types import Num
from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.visualize._panels import show

MOST = 10


def receptive_field_figure(model: Any, image: Num[np.ndarray, "h w c"], layer: str | None = None) -> Figure:
    """Return a figure of the receptive field of the unit in the center of a feature map, drawn over an image.

    A receptive field can extend beyond the border of the image.

    Args:
      model: a Linen module.
      image: the image, as a uint8 array `[H, W, C]`.
      layer: path of a module, as in the rows of `jaxcnn.analysis.summarize`. Default: up to 10 layers with different
        receptive fields.

    Raises:
      UsageError: the layer does not exist (the message suggests the closest valid name), or no layer has a receptive
        field.
    """
    rows = [row for row in summarize(model, image.shape).rows if row.origin is not None and len(row.output_shape) == 4]
    names = [row.name for row in rows]
    if layer is not None:
        if layer not in names:
            raise unknown_name("layer", layer, names)
        rows = [row for row in rows if row.name == layer][:1]
    if not rows:
        raise UsageError("the model has no layer whose units have a receptive field. Use a convolutional network.")
    height, width = image.shape[:2]
    figure = Figure(figsize=(7.5, 5.2), layout="constrained", dpi=120)
    axes = figure.subplots()
    show(axes, image)
    seen: dict[tuple[float, ...], str] = {}
    for row in rows:
        assert row.origin is not None
        assert row.stride is not None
        assert row.receptive_field is not None
        middle = [(size - 1) // 2 for size in row.output_shape[1:3]]
        top, left = (start + step * unit for start, step, unit in zip(row.origin, row.stride, middle, strict=True))
        seen.setdefault((left, top, *row.receptive_field[::-1]), row.name)
    if len(seen) > MOST:
        chosen = np.linspace(0, len(seen) - 1, MOST).round().astype(int)
        seen = dict(list(seen.items())[index] for index in chosen)
    colors = [f"C{index % 10}" for index in range(len(seen))]
    for color, ((left, top, across, down), name) in zip(colors, seen.items(), strict=True):
        label = f"{name}: {down:g}x{across:g}"
        # matplotlib centers pixel (0, 0) at the origin.
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), across, down, fill=False, ec=color, lw=2, label=label))
    lefts, tops = [key[0] for key in seen], [key[1] for key in seen]
    rights, bottoms = [key[0] + key[2] for key in seen], [key[1] + key[3] for key in seen]
    axes.set_xlim(min([*lefts, 0]) - 1.5, max([*rights, width]) + 0.5)
    axes.set_ylim(max([*bottoms, height]) + 0.5, min([*tops, 0]) - 1.5)
    axes.set(xlabel="column (pixels)", ylabel="row (pixels)", title="Receptive field of the unit in the center")
    axes.set_facecolor("0.93")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)
    return figure
