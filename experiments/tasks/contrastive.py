"""SimCLR: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data import compose
from jaxcnn.train import Task, across_devices, device_index, example_keys


def jitter(key: jax.Array, image: jax.Array, strength: float = 0.5, gray: float = 0.2) -> jax.Array:
    """Replace the channels by their mean with probability `gray`, and multiply by 1 - strength to 1 + strength."""
    gray_key, brightness_key = jax.random.split(key)
    mean = image.mean(axis=-1, keepdims=True).astype(image.dtype)
    image = jnp.where(jax.random.bernoulli(gray_key, gray), mean, image)
    factor = jax.random.uniform(brightness_key, minval=1 - strength, maxval=1 + strength)
    return jnp.clip(factor * image, 0, 255).astype(image.dtype)


def unit(x: jax.Array) -> jax.Array:
    """Return vectors `[..., features]` divided by their lengths, float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-12)


def nt_xent(pairs: jax.Array, temperature: float) -> jax.Array:
    """Return the loss of each image, `[N]`, for the projections of two views, `[N, 2, features]` (equation 1).

    Each view is compared with the other views of the batch, those on other devices included.
    """
    own = unit(pairs).reshape(-1, pairs.shape[-1])  # [2N, features]
    similarities = own @ across_devices(own).T / temperature
    view = jnp.arange(len(own))
    place = device_index() * len(own) + view  # of each own view among those of all devices
    others = similarities.at[view, place].set(-jnp.inf)
    losses = jax.nn.logsumexp(others, axis=1) - similarities[view, place ^ 1]
    return losses.reshape(-1, 2).mean(axis=1)


class Projected(nn.Module):
    """An encoder, whose layer `head` is the hidden layer of a projection: `[N, H, W, C] -> [N, features]`."""

    model: nn.Module
    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(self.features, name="projection")(nn.relu(self.model(x, train)))


def encoder(variables: Any) -> Any:
    """Return the variables of a trained `Projected` that belong to the model, without its head."""
    of_model = {collection: tree["model"] for collection, tree in variables.items() if "model" in tree}
    return {**of_model, "params": {name: x for name, x in of_model["params"].items() if name != "head"}}


AUGMENT = compose(["resized_crop:0.2", "flip", jitter])


@dataclass(frozen=True)
class Contrastive(Task):
    """Bring two random views of an image together, and views of different images apart. Labels are not used."""

    augment: Callable[..., jax.Array] = AUGMENT
    temperature: float = 0.5
    normalize: Any = None

    monitor = "effective_rank"

    def bind(self, preprocessing: Any) -> "Contrastive":
        return replace(self, normalize=preprocessing.normalize)

    def prepare(self, key: jax.Array, batch: Any, train: bool) -> Any:
        keys = jax.vmap(jax.random.split)(example_keys(key, len(batch["image"])))  # [N, 2]
        views = jax.vmap(jax.vmap(self.augment, (0, None)))(keys, batch["image"])  # [N, 2, H, W, C]
        return {"views": jax.vmap(self.normalize)(views)}

    def loss(self, model: Any, variables: Any, batch: Any, rngs: Any) -> Any:
        images = batch["views"].reshape(-1, *batch["views"].shape[2:])
        projected, updates = model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])
        losses = nt_xent(projected.reshape(-1, 2, projected.shape[-1]), self.temperature)
        return losses.mean(), updates, {"loss": losses}

    def evaluate(self, model: Any, variables: Any, batch: Any) -> Any:
        first, second = (unit(model.apply(variables, batch["views"][:, view], train=False)) for view in (0, 1))
        return {"similarity": (first * second).sum(-1), "moment": first[:, :, None] * first[:, None, :]}

    def summarize(self, sums: Mapping[str, np.ndarray], count: int) -> dict[str, Any]:
        if "moment" not in sums:  # in training
            return {"loss": sums["loss"] / count}
        # The rank of Garrido et al., "RankMe", 2022: it is 1 if all images have one representation.
        p = np.sqrt(np.maximum(np.linalg.eigvalsh(sums["moment"]), 1e-12))
        entropy = -(p / p.sum() * np.log(p / p.sum())).sum()
        return {"similarity": sums["similarity"] / count, "effective_rank": np.exp(entropy)}
