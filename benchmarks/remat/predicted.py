"""What the choice of blocks to recompute predicts of a training step, from shapes."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.layers.recomputation import blocks_of, choose, parse_size
from jaxcnn.models import create_model

UNLIMITED = 10**15
"""Bytes of activations that no model has."""


def plans(model: str, batch: int, remat: str) -> dict[str, Any]:
    """Return the fields of a row that follow from shapes.

    Args:
      model: name of the model, which computes in bfloat16.
      batch: number of images.
      remat: "False", or a size.
    """
    network: Any = create_model(model, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((batch, *network.image_shape), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(lambda x: network.init(keys, x, train=True), images)
    budget = parse_size(remat) or UNLIMITED
    blocks, other_bytes = blocks_of(network, variables, images)
    chosen = choose(blocks, budget, other_bytes)
    return {
        "budget": budget,
        "predicted": chosen.peak_bytes,
        "gradients": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(variables["params"])),
        "blocks": len(blocks),
        "recomputed": len(chosen.recomputed),
        "macs": chosen.macs,
        "all_macs": sum(block.macs for block in blocks),
    }
