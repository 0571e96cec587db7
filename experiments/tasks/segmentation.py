"""Semantic segmentation: a class for each pixel, with images and masks augmented together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.layers import BatchNorm, Conv, MaxPool
from jaxcnn.train import OneHot, Task, example_keys

IGNORED = 255
"""Label of pixels that count neither in the loss nor in the metrics, as in PASCAL VOC and Cityscapes."""


def flip_and_crop(key: jax.Array, image: jax.Array, mask: jax.Array, padding: int = 4) -> tuple[jax.Array, jax.Array]:
    """Mirror an image `[H, W, C]` and its mask `[H, W]` at random, and take the same random window of both.

    Around the image lie `padding` black pixels, whose label is `IGNORED`.
    """
    flip_key, crop_key = jax.random.split(key)
    top, left = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
    is_mirrored = jax.random.bernoulli(flip_key)

    def transform(x: jax.Array, fill: int) -> jax.Array:
        sides = [(padding, padding)] * 2 + [(0, 0)] * (x.ndim - 2)
        padded = jnp.pad(jnp.where(is_mirrored, x[:, ::-1], x), sides, constant_values=fill)
        return jax.lax.dynamic_slice(padded, (top, left, *[0] * (x.ndim - 2)), x.shape)

    return transform(image, 0), transform(mask, IGNORED)


class FullyConvolutional(nn.Module):
    """A small U-Net, `[N, H, W, C] -> [N, H, W, num_classes]` (Ronneberger, Fischer, Brox, 2015)."""

    num_classes: int
    width: int = 16
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def block(x: jax.Array, features: int) -> jax.Array:
            x = Conv(features, 3, padding=1, use_bias=False, dtype=self.dtype)(x)
            return nn.relu(BatchNorm(dtype=self.dtype)(x, train))

        fine = block(x, self.width)
        middle = block(MaxPool(2)(fine), 2 * self.width)
        coarse = block(MaxPool(2)(middle), 4 * self.width)
        for skip, features in ((middle, 2 * self.width), (fine, self.width)):
            coarse = jax.image.resize(coarse, (*skip.shape[:3], coarse.shape[-1]), "nearest")
            coarse = block(jnp.concatenate([coarse, skip], axis=-1), features)
        return Conv(self.num_classes, 1, dtype=jnp.float32, name="head")(coarse)


@dataclass(frozen=True)
class Segmentation(Task):
    """Cross-entropy of each pixel. A batch has `image` `[N, H, W, C]` and `mask`, integers `[N, H, W]`."""

    num_classes: int
    augment: Callable[..., tuple[jax.Array, jax.Array]] | None = flip_and_crop
    normalize: Any = None

    monitor = "mean_iou"

    def bind(self, preprocessing: Any) -> "Segmentation":
        return replace(self, normalize=preprocessing.normalize)

    def prepare(self, key: jax.Array, batch: Any, train: bool) -> Any:
        image, mask = batch["image"], batch["mask"].astype(jnp.int32)
        if train and self.augment is not None:
            image, mask = jax.vmap(self.augment)(example_keys(key, len(image)), image, mask)
        return {"image": self.normalize(image), "mask": mask}

    def loss(self, model: Any, variables: Any, batch: Any, rngs: Any) -> Any:
        logits, updates = model.apply(variables, batch["image"], train=True, rngs=rngs, mutable=["batch_stats"])
        metrics = self.metrics(logits, batch["mask"])
        return metrics["loss"].mean(), updates, metrics

    def evaluate(self, model: Any, variables: Any, batch: Any) -> Any:
        return self.metrics(model.apply(variables, batch["image"], train=False), batch["mask"])

    def metrics(self, logits: jax.Array, mask: jax.Array) -> Any:
        """Return the loss of each image, which is the mean over its labeled pixels, and its confusion matrix."""
        labeled = mask != IGNORED
        of_pixels = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(labeled, mask, 0))
        losses = (of_pixels * labeled).sum((1, 2)) / jnp.maximum(labeled.sum((1, 2)), 1)
        pairs = jnp.stack([mask, logits.argmax(-1)], axis=-1)  # that of an ignored pixel lies outside of the matrix
        return {"loss": losses, "confusion": OneHot(pairs, (self.num_classes, self.num_classes))}

    def summarize(self, sums: Mapping[str, np.ndarray], count: int) -> dict[str, Any]:
        confusion = np.asarray(sums["confusion"], np.float64)  # [true, predicted]
        hits, union = confusion.diagonal(), confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
        iou = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
        mean_iou, accuracy = np.nansum(iou) / max((union > 0).sum(), 1), hits.sum() / max(confusion.sum(), 1)
        return {"loss": sums["loss"] / count, "pixel_accuracy": accuracy, "mean_iou": mean_iou, "iou": iou}
