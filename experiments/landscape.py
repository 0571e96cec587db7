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
"""Number of examples used for the principal directions and for the contours."""


def mean_loss(model: nn.Module, params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean loss on images `[N, H, W, C]`, in evaluation mode, of a model without running statistics."""
    return cross_entropy(model.apply({"params": params}, images, train=False), labels).mean()


def survey(
    model: nn.Module, networks: Sequence[Any], images: Any, *, sizes: Sequence[int], **slice_options: Any
) -> dict[str, np.ndarray]:
    """Return the gradient noise by batch size for several networks, and a slice of the loss around the first.

    Args:
      model: a module without running statistics.
      networks: the parameters of each network.
      images: the dataset, `experiments.training.Images`.
      sizes: batch sizes.
      **slice_options: passed to `slice_of_loss`.

    Returns:
      `relative_error_of_gradient` `[len(networks), len(sizes)]`, and what `slice_of_loss` returns.
    """
    x, y = images.normalize(jnp.asarray(images.train[0])), jnp.asarray(images.train[1])
    gradients = [np.asarray(example_gradients(model, params, x, y)) for params in networks]
    noise = np.stack([gradient_noise(of_network, sizes, seed=0) for of_network in gradients])
    around = slice_of_loss(model, networks[0], gradients[0], x, y, **slice_options)
    return {"relative_error_of_gradient": noise, **around}


@functools.partial(jax.jit, static_argnums=0)
def example_gradients(model: nn.Module, params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the gradient of each example's loss, `[N, parameters]`."""

    # Mapped in a loop, because XLA has no fast convolution on a CPU with a separate kernel per example.
    def of_one(example: tuple[jax.Array, jax.Array]) -> jax.Array:
        image, label = example
        return ravel_pytree(jax.grad(mean_loss, argnums=1)(model, params, image[None], label[None]))[0]

    return jax.lax.map(of_one, (images, labels))


def gradient_noise(gradients: np.ndarray, sizes: Sequence[int], seed: int, draws: int = 50) -> np.ndarray:
    """Return the relative error of mini-batch gradients for each batch size, `[len(sizes)]`.

    It is the root mean square distance between the gradients of random batches and the full gradient, divided by the
    norm of the full gradient.

    Args:
      gradients: one gradient per example, `[N, parameters]`.
      sizes: batch sizes.
      seed: seed of the batches.
      draws: number of batches per size.
    """
    full, random, noise = gradients.mean(0), np.random.default_rng(seed), []
    for size in sizes:
        batches = [random.permutation(len(gradients))[:size] for _ in range(draws)]
        squared_errors = [np.sum(np.square(gradients[rows].mean(0) - full)) for rows in batches]
        noise.append(np.sqrt(np.mean(squared_errors) / np.sum(np.square(full))))
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
    """Return the loss on a plane in parameter space around a network, and paths of descent in that plane.

    The plane is spanned by the first two principal components of the per-example gradients, in which the gradients
    differ most. Coordinates are distances in parameter space from the network.

    Args:
      model: a module without running statistics.
      params: the network at the center of the plane.
      gradients: one gradient per example, `[N, parameters]`.
      images: `[N, H, W, C]`, normalized.
      labels: `[N]`.
      grid: points per axis.
      radius: largest coordinate.
      batch_sizes: one path of descent for each.
      learning_rate: of the descent.
      steps: of the descent.

    Returns:
      `axis` `[grid]`, the coordinates in both directions; `surface` `[grid, grid]`, the loss, whose rows follow the
      second direction; `paths` `[len(batch_sizes), steps + 1, 2]`, all from the same corner.
    """
    origin, restore = ravel_pytree(params)
    centered = gradients[:PRINCIPAL] - gradients[:PRINCIPAL].mean(0)
    _, vectors = np.linalg.eigh(centered @ centered.T)
    basis = (vectors[:, :-3:-1].T @ centered).astype(np.float32)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)

    def loss(position: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
        return mean_loss(model, restore(origin + position @ basis), images, labels)

    @jax.jit
    def descend(position: jax.Array, rows: jax.Array) -> jax.Array:
        return position - learning_rate * jax.grad(loss)(position, images[rows], labels[rows])

    @jax.jit
    def losses_at(positions: jax.Array) -> jax.Array:
        return jax.lax.map(lambda position: loss(position, images[:PRINCIPAL], labels[:PRINCIPAL]), positions)

    axis = np.linspace(-radius, radius, grid, dtype=np.float32)
    surface = np.stack([losses_at(np.stack([axis, np.full_like(axis, y)], axis=-1)) for y in axis])
    random, paths = np.random.default_rng(0), []
    for size in batch_sizes:
        path = [jnp.full(2, 0.8 * radius)]
        for _ in range(steps):
            rows = random.permutation(len(labels))[:size]
            path.append(descend(path[-1], jnp.asarray(rows)))
        paths.append(np.stack(path))
    return {"axis": axis, "surface": surface, "paths": np.stack(paths)}
