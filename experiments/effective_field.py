"""The effective receptive field: how much each pixel matters to a unit (Luo, Li, Urtasun and Zemel, 2016)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def pixel_gradient(model: nn.Module, size: int, seed: int, draws: int = 20) -> np.ndarray:
    """Return the mean absolute gradient of the center unit with respect to each pixel, `[size, size]`.

    The mean is over draws of the model's parameters and of a noise image. Noise is used because in the uniform areas
    of a real image whole regions of ReLUs would be inactive.

    Args:
      model: `[1, size, size, 1] -> [1, H, W, C]`. The gradient is that of the sum over the center unit's channels.
      size: height and width of the image.
      seed: seed of the draws.
      draws: number of draws.
    """

    def center_unit(x: jax.Array, variables: object) -> jax.Array:
        y = model.apply(variables, x)
        return y[0, y.shape[1] // 2, y.shape[2] // 2].sum()

    def draw(key: jax.Array) -> jax.Array:
        x = jax.random.normal(key, (1, size, size, 1))
        return jnp.abs(jax.grad(center_unit)(x, model.init(key, x)))[0, ..., 0]

    keys = jax.random.split(jax.random.key(seed), draws)
    # Fast convolution algorithms leave rounding errors where the gradient is exactly 0; plain sums do not.
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(lambda keys: jax.lax.map(draw, keys).mean(0))(keys))


def extent(gradient: np.ndarray) -> int:
    """Return the number of rows from the first to the last with a nonzero gradient `[size, size]`."""
    rows = np.flatnonzero(gradient.sum(1))
    return int(rows.max() - rows.min()) + 1


def effective_width(gradient: np.ndarray) -> float:
    """Return the width of the uniform field whose rows have the same standard deviation as the gradient's.

    A uniform distribution of width w has the variance w² / 12.
    """
    weights = gradient.sum(1) / gradient.sum()
    rows = np.arange(len(gradient))
    variance = weights @ rows**2 - (weights @ rows) ** 2
    return float(np.sqrt(12 * variance))
