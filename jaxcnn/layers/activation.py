"""Activations: what makes a stack of linear layers more than one linear layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class ReLU(nn.Module):
    """Rectified linear unit, `max(0, x)` (Nair and Hinton, 2010). Keeps the shape.

    >>> ReLU()(jnp.array([-2.0, 0.0, 3.0])).tolist()
    [0.0, 0.0, 3.0]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(x)


class Sigmoid(nn.Module):
    """`1 / (1 + exp(-x))`, between 0 and 1; its slope is at most 1/4. Keeps the shape.

    >>> Sigmoid()(jnp.zeros(2)).tolist()
    [0.5, 0.5]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.sigmoid(x)


class Tanh(nn.Module):
    """Hyperbolic tangent, `scale * tanh(slope * x)`. Keeps the shape.

    The plain one by default; LeCun et al. (*Gradient-Based Learning Applied to Document Recognition*, 1998,
    equation 6 and appendix A) use `scale = 1.7159` and `slope = 2/3`, for which `f(1) = 1` and `f(-1) = -1`.

    >>> Tanh()(jnp.zeros(2)).tolist()
    [0.0, 0.0]
    """

    scale: float = 1.0
    slope: float = 1.0

    def __call__(self, x: jax.Array) -> jax.Array:
        # The plain function adds no multiplications, so that nothing is paid for what is not used.
        x = x if self.slope == 1.0 else self.slope * x
        return jnp.tanh(x) if self.scale == 1.0 else self.scale * jnp.tanh(x)


class Softmax(nn.Module):
    """`exp(x_j) / sum_k exp(x_k)` along `axis`: probabilities of classes that exclude each other.

    Models return logits, and losses apply the softmax themselves, in a numerically safer form; this layer is for
    reading probabilities off.

    >>> Softmax()(jnp.zeros((1, 4))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    axis: int = -1

    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.softmax(x, axis=self.axis)
