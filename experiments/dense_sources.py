"""The weights of each layer of a dense block on its sources (Huang et al., 2017, figure 5)."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.plots import figure


def weight_by_source(params: Any, blocks: int, layers: int, growth_rate: int) -> np.ndarray:
    """Return the mean absolute weight of each layer's first convolution on each source, `[block, layer, source]`.

    Sources are the input of the block, its first layer, its second layer, and so on. The entry is NaN where a layer
    does not see a source.

    Args:
      params: parameters of a `DenseNet` with blocks of the same size.
      blocks: number of blocks.
      layers: number of layers per block.
      growth_rate: feature maps that a layer adds.
    """
    weights = np.full((blocks, layers, layers), np.nan)
    for block, layer in np.ndindex(blocks, layers):
        kernel = params[f"block{block + 1}_layer{layer + 1}"]["conv1"]["kernel"]
        by_map = np.abs(kernel).mean(axis=(0, 1, 3))
        # The last maps of the input were added by earlier layers, the maps before them are the input of the block.
        input_maps = len(by_map) - layer * growth_rate
        weights[block, layer, 0] = by_map[:input_maps].mean()
        weights[block, layer, 1 : layer + 1] = by_map[input_maps:].reshape(layer, growth_rate).mean(axis=1)
    return weights


def draw_sources(weights: np.ndarray) -> Figure:
    """Return a figure with a heat map for each block of `weight_by_source`."""
    of_last_layer = weights.mean(axis=0)[-1]
    variation = 100 * of_last_layer.std() / of_last_layer.mean()
    title = f"The last layers' weights on their sources vary by {variation:.1f} % (standard deviation / mean)"
    made, axes = figure(title, len(weights), width=11, squeeze=False)
    for block, (axis, of_block) in enumerate(zip(axes[0], weights, strict=True), start=1):
        image = axis.imshow(of_block, vmin=0, vmax=np.nanmax(weights))
        ticks = range(len(of_block))
        axis.set(title=f"block {block}", xlabel="source (0: the block's input)", xticks=ticks)
        axis.set(ylabel="layer", yticks=ticks, yticklabels=[tick + 1 for tick in ticks])
        axis.grid(visible=False)
    made.colorbar(image, ax=axes, label="mean absolute weight")
    return made
