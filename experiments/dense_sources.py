"""How much each layer of a dense block weighs the maps of each layer before it (Huang et al., 2017, figure 5)."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.plots import figure


def weight_by_source(params: Any, blocks: int, layers: int, growth_rate: int) -> np.ndarray:
    """Mean absolute weight `[block, layer, source]` of each layer's first convolution on each source's maps.

    Sources are the input of the block, its first layer, its second, and so on; NaN where a layer does not see one.

    Args:
      params: of a `DenseNet` with blocks of the same size.
      blocks: number of its blocks.
      layers: layers in each.
      growth_rate: maps that a layer adds.
    """
    found = np.full((blocks, layers, layers), np.nan)
    for block, layer in np.ndindex(blocks, layers):
        kernel = params[f"block{block + 1}_layer{layer + 1}"]["conv1"]["kernel"]
        maps = np.abs(kernel).mean(axis=(0, 1, 3))
        seen = len(maps) - layer * growth_rate
        found[block, layer, : layer + 1] = [maps[:seen].mean(), *maps[seen:].reshape(layer, growth_rate).mean(axis=1)]
    return found


def draw_sources(weights: np.ndarray) -> Figure:
    """A heat map of each block, from `weight_by_source`."""
    last = weights.mean(axis=0)[-1]
    title = f"The last layers' weights on their sources differ by {100 * last.std() / last.mean():.1f} %"
    made, axes = figure(title, len(weights), width=11, squeeze=False)
    for block, (side, of_block) in enumerate(zip(axes[0], weights, strict=True), start=1):
        shown = side.imshow(of_block, vmin=0, vmax=np.nanmax(weights))
        ticks = range(len(of_block))
        side.set(title=f"block {block}", xlabel="source (0: the block's input)", xticks=ticks)
        side.set(ylabel="layer", yticks=ticks, yticklabels=[tick + 1 for tick in ticks])
        side.grid(visible=False)
    made.colorbar(shown, ax=axes, label="mean absolute weight")
    return made
