"""A deep network of identical layers, and the gradient that reaches each of them."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.layers import BatchNorm, Conv, Dense, Flatten, ReLU, Sigmoid, Tanh, initializers
from jaxcnn.train.losses import cross_entropy

ACTIVATIONS = {"sigmoid": Sigmoid, "tanh": Tanh, "ReLU": ReLU}

INITIALIZERS = {
    # The common heuristic before Xavier: uniform in ±1/√n, for n inputs (Glorot and Bengio, 2010, equation 1).
    "naive": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    "Xavier": initializers.xavier_uniform,
    "He": initializers.he_uniform,
}


class Layer(nn.Module):
    """A 3x3 convolution that keeps the shape, optional batch normalization, and an activation."""

    activation: str
    initializer: str
    normalized: bool
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        x = Conv(x.shape[-1], 3, padding=1, kernel_init=INITIALIZERS[self.initializer], name="conv")(x)
        if self.normalized:
            x = BatchNorm(name="norm")(x, train=self.train)
        return ACTIVATIONS[self.activation]()(x), None


class DeepStack(nn.Module):
    """A stem convolution, `depth` identical layers, and a classifier. `[N, H, W, C] -> [N, 10]`.

    The layers are one `scan`, so that compile time does not grow with the depth. Their parameters have a leading axis
    of layers.
    """

    depth: int
    activation: str
    initializer: str
    normalized: bool
    width: int = 8

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        stacked = {"params": 0, "batch_stats": 0}
        layers = nn.scan(Layer, variable_axes=stacked, split_rngs={"params": True}, length=self.depth)
        x = Conv(self.width, 3, padding=1, name="stem")(x)
        x, _ = layers(self.activation, self.initializer, self.normalized, train, name="layers")(x, None)
        return Dense(10, name="head")(Flatten()(x))


# Each program runs only a few times, so that optimizing it would take longer than it saves.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.partial(_jit, static_argnums=0)
def _gradients(stack: DeepStack, variables: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    def loss(params: Any) -> jax.Array:
        logits, _ = stack.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return cross_entropy(logits, labels).mean()

    return jax.grad(loss)(variables["params"])["layers"]["conv"]["kernel"]


def gradient_powers(stack: DeepStack, images: jax.Array, labels: jax.Array, seeds: Sequence[int]) -> np.ndarray:
    """Return log10 of the norm of the loss's gradient for each layer's kernel, before training, `[S, depth]`.

    A norm below the range of single precision counts as 1e-45.
    """
    initialize = _jit(lambda seed: stack.init(jax.random.key(seed), images, train=True))
    # The gradient does not depend on the initializer, so that one compiled program serves all of them.
    program = stack.clone(initializer="naive")
    kernels = [_gradients(program, initialize(jnp.uint32(seed)), images, labels) for seed in seeds]
    # Double precision, because the squares of such small numbers underflow in single precision.
    flat = np.asarray(kernels, dtype=np.float64).reshape(len(seeds), stack.depth, -1)
    return np.log10(np.maximum(np.linalg.norm(flat, axis=-1), 1e-45))
