"""How much each pixel matters to a unit: the effective receptive field (Luo, Li, Urtasun and Zemel, 2016)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def pixel_gradient(model: nn.Module, size: int, seed: int, draws: int = 20) -> np.ndarray:
    """Mean absolute gradient of the middle unit's channels with respect to each pixel, `[size, size]`.

    Over draws of the model's parameters, and of noise in place of an image, whose even parts would leave the ReLUs of
    whole regions silent.
    """

    def middle(x: jax.Array, variables: object) -> jax.Array:
        y = model.apply(variables, x)
        return y[0, y.shape[1] // 2, y.shape[2] // 2].sum()

    def draw(key: jax.Array) -> jax.Array:
        x = jax.random.normal(key, (1, size, size, 1))
        return jnp.abs(jax.grad(middle)(x, model.init(key, x)))[0, ..., 0]

    keys = jax.random.split(jax.random.key(seed), draws)
    with jax.default_matmul_precision("highest"):  # by plain sums, in which what adds nothing is 0 to the last digit
        return np.asarray(jax.jit(lambda keys: jax.lax.map(draw, keys).mean(0))(keys))


def extent(gradient: np.ndarray) -> int:
    """Rows from the first to the last in which any pixel matters."""
    return int(np.ptp(np.flatnonzero(gradient.sum(1)))) + 1


def effective_width(gradient: np.ndarray) -> float:
    """Width of the even field whose pixels lie as far apart as those that matter, weighted by how much they do."""
    share, rows = gradient.sum(1) / gradient.sum(), np.arange(len(gradient))
    return float(np.sqrt(12 * (share @ rows**2 - (share @ rows) ** 2)))
