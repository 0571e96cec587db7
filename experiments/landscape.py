"""The loss as a function of a network's parameters: the noise of its gradient, and descent on a slice of it."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxcnn.train.losses import cross_entropy

PRINCIPAL = 500
"""Examples that the principal directions are taken from, and that contours are drawn from."""


def mean_loss(model: nn.Module, params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Of a model without running statistics, in evaluation mode, on its inputs `[N, H, W, C]`."""
    return cross_entropy(model.apply({"params": params}, images, train=False), labels).mean()


def survey(
    model: nn.Module, networks: Sequence[Any], images: Any, *, sizes: Sequence[int], **slice_options: Any
) -> dict[str, np.ndarray]:
    """The noise of the gradient at each of several networks by batch size, and a slice of the loss around the first.

    Args:
      model: without running statistics.
      networks: parameters.
      images: the data set, `experiments.training.Images`.
      sizes: examples a batch.
      **slice_options: of `slice_of_loss`, returned with `relative_error_of_gradient` `[len(networks), len(sizes)]`.
    """
    x, y = images.normalize(jnp.asarray(images.train[0])), jnp.asarray(images.train[1])
    gradients = [np.asarray(example_gradients(model, params, x, y)) for params in networks]
    around = slice_of_loss(model, networks[0], gradients[0], x, y, **slice_options)
    return {"relative_error_of_gradient": np.stack([gradient_noise(g, sizes, seed=0) for g in gradients]), **around}


@functools.partial(jax.jit, static_argnums=0)
def example_gradients(model: nn.Module, params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The gradient of each example's loss, `[N, parameters]`."""

    # One by one: on a CPU, XLA has no fast convolution with a kernel for each example.
    def of_one(example: tuple[jax.Array, jax.Array]) -> jax.Array:
        image, label = example
        return ravel_pytree(jax.grad(mean_loss, argnums=1)(model, params, image[None], label[None]))[0]

    return jax.lax.map(of_one, (images, labels))


def gradient_noise(gradients: np.ndarray, sizes: Sequence[int], seed: int, draws: int = 50) -> np.ndarray:
    """How far a mini-batch's gradient is from that of all examples, as a share of the latter's length.

    The root of the mean square over `draws` random batches of each size, `[len(sizes)]`.
    """
    whole, random, noise = gradients.mean(0), np.random.default_rng(seed), []
    for size in sizes:
        rows = [random.permutation(len(gradients))[:size] for _ in range(draws)]
        squares = [np.sum(np.square(gradients[r].mean(0) - whole)) for r in rows]
        noise.append(np.sqrt(np.mean(squares) / np.sum(np.square(whole))))
    return np.asarray(noise)


def slice_of_loss(
    model: nn.Module,
    params: Any,
    gradients: np.ndarray,
    images: jax.Array,
    labels: jax.Array,
    *,
    grid: int,
    radius: float,
    batch_sizes: Sequence[int],
    learning_rate: float,
    steps: int,
) -> dict[str, np.ndarray]:
    """The loss around a network on a plane through the space of its parameters, and paths of descent in that plane.

    The plane's two directions are the principal components of single examples' gradients, in which they differ most.
    Its coordinates are distances in the space of the parameters, at most `radius` from the network.

    Returns:
      `axis` `[grid]`, coordinates in both directions; `surface` `[grid, grid]`, the loss there, row by row of the
      second; `paths` `[len(batch_sizes), steps + 1, 2]` of descent in the two coordinates, all from the same corner.
    """
    origin, restore = ravel_pytree(params)
    centred = gradients[:PRINCIPAL] - gradients[:PRINCIPAL].mean(0)
    _, vectors = np.linalg.eigh(centred @ centred.T)
    basis = (vectors[:, :-3:-1].T @ centred).astype(np.float32)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)

    def loss(position: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
        return mean_loss(model, restore(origin + position @ basis), images, labels)

    @jax.jit
    def descend(position: jax.Array, rows: jax.Array) -> jax.Array:
        return position - learning_rate * jax.grad(loss)(position, images[rows], labels[rows])

    axis = np.linspace(-radius, radius, grid, dtype=np.float32)
    on_row = jax.jit(lambda row: jax.lax.map(lambda p: loss(p, images[:PRINCIPAL], labels[:PRINCIPAL]), row))
    surface = np.stack([on_row(np.stack([axis, np.full_like(axis, y)], axis=-1)) for y in axis])
    random, paths = np.random.default_rng(0), []
    for size in batch_sizes:
        path = [jnp.full(2, 0.8 * radius)]
        for _ in range(steps):
            path.append(descend(path[-1], jnp.asarray(random.permutation(len(labels))[:size])))
        paths.append(np.stack(path))
    return {"axis": axis, "surface": surface, "paths": np.stack(paths)}
