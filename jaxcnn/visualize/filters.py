"""The filters of the first convolution."""

from typing import Any

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict
from matplotlib.figure import Figure

from jaxcnn.errors import UsageError
from jaxcnn.visualize._panels import grid, show
from jaxcnn.visualize.layers import layer_names

MOST = 64


def filter_figure(model: nn.Module, variables: Any, image_shape: tuple[int, ...]) -> Figure:
    """Return a figure of the kernels of the first convolution: at most 64 kernels, one kernel in each panel.

    Kernels with three input channels are shown in color, each scaled to its own range. For kernels with another number
    of input channels, the figure shows the mean over the input channels, positive in red and negative in blue, on a
    common scale.

    Args:
      model: a Linen module.
      variables: variables of the model, which contain the collection "params".
      image_shape: shape `(H, W, C)` of the images.

    Raises:
      UsageError: the model has no convolution.
    """
    kernels: Any = flatten_dict(variables["params"], sep="/")
    order = [f"{name}/kernel" for name in layer_names(model, variables, image_shape)]
    name = next((name for name in order if name in kernels and np.ndim(kernels[name]) == 4), None)
    if name is None:
        raise UsageError("no filters to show: the model has no convolution. Use a model with a convolution.")
    kernel = np.asarray(kernels[name])  # [H, W, in, out]
    height, width, channels, count = kernel.shape
    shown = min(count, MOST)
    prefix = "" if shown == count else f"the first {shown} of "
    figure, panels = grid(
        shown, f"{name.removesuffix('/kernel')}: {prefix}{count} filters of {height}x{width}x{channels}"
    )
    largest = float(np.abs(kernel).max())
    picture = None
    for index, axes in enumerate(panels):
        one = kernel[..., index]
        if channels == 3:
            low, high = one.min(), one.max()
            show(axes, (one - low) / max(high - low, 1e-12))
        else:
            picture = show(axes, one.mean(-1), cmap="RdBu_r", vmin=-largest, vmax=largest)
        axes.set_xlabel(str(index), fontsize=7, labelpad=2)
    if picture is not None:
        figure.colorbar(picture, ax=panels, label="weight", shrink=0.8)
    return figure
