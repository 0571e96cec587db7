"""The feature maps of a layer for one image."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxcnn.array_types import Num
from jaxcnn.train import Trained
from jaxcnn.visualize._panels import grid, show
from jaxcnn.visualize.layers import layer_output

MOST = 31


def feature_map_figure(trained: Trained, image: Num[np.ndarray, "h w c"], layer: str) -> Figure:
    """Return a figure of an image and a layer's feature maps: one panel per channel, at most 31, on a common scale.

    Args:
      trained: a trained network.
      image: the image, as a uint8 array `[H, W, C]`.
      layer: path of a module, one of `jaxcnn.visualize.layer_names`.

    Raises:
      UsageError: no layer has the path `layer`. The message suggests the closest valid name.
    """
    inputs = trained.preprocessing.normalize(jnp.asarray(image)[None])
    maps: Any = np.asarray(layer_output(trained.model, trained.variables, inputs, layer)[0], np.float32)
    height, width, count = maps.shape
    shown = min(count, MOST)
    prefix = "" if shown == count else f"the first {shown} of "
    figure, panels = grid(shown + 1, f"{layer}: {prefix}{count} feature maps of {height}x{width}")
    show(panels[0], image)
    panels[0].set_xlabel("the image", fontsize=7, labelpad=2)
    picture: Any = None
    for index, axes in enumerate(panels[1:]):
        picture = show(
            axes, maps[..., index], cmap="viridis", vmin=maps[..., :shown].min(), vmax=maps[..., :shown].max()
        )
        axes.set_xlabel(str(index), fontsize=7, labelpad=2)
    figure.colorbar(picture, ax=panels, label="activation", shrink=0.8)
    return figure
