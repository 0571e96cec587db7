"""One backbone with several heads: classes and numbers, learned together (multi-task learning)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxcnn.layers import Dense
from jaxcnn.train import Task


class MultiHeadModel(nn.Module):
    """A backbone, and a fully connected layer for each head: `[N, H, W, C] -> {name: [N, outputs]}`.

    Attributes:
      backbone: `model(x, train) -> [N, features]`, such as a named model with `num_classes=features`.
      heads: pairs of a name and a number of outputs: the number of classes, or 1 for a regression.
    """

    backbone: nn.Module
    heads: tuple[tuple[str, int], ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        features = nn.relu(self.backbone(x, train))
        return {name: Dense(outputs, dtype=jnp.float32, name=name)(features) for name, outputs in self.heads}


@dataclass(frozen=True, eq=False)
class MultiHead(Task):
    """Cross-entropy of each classification plus the squared error of each regression, with weights.

    Heads and the labels in a batch have the same names.

    Attributes:
      classes: weight of the loss of each classification. Labels are integers `[N]`.
      numbers: weight of the loss of each regression. Labels are floats `[N]`.
      monitor: metric that chooses the best checkpoint.
    """

    classes: Mapping[str, float]
    numbers: Mapping[str, float]
    monitor: str = "loss"
    normalize: Any = None

    def bind(self, preprocessing: Any) -> "MultiHead":
        return replace(self, normalize=preprocessing.normalize)

    def loss(self, model: Any, variables: Any, batch: Any, rngs: Any) -> Any:
        images = self.normalize(batch["image"])
        outputs, updates = model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])
        metrics = self.metrics(outputs, batch)
        return metrics["loss"].mean(), updates, metrics

    def evaluate(self, model: Any, variables: Any, batch: Any) -> Any:
        return self.metrics(model.apply(variables, self.normalize(batch["image"]), train=False), batch)

    def metrics(self, outputs: Mapping[str, jax.Array], batch: Any) -> dict[str, jax.Array]:
        found, loss = {}, jnp.zeros(len(batch["image"]))
        for name, weight in self.classes.items():
            found[f"{name}_accuracy"] = outputs[name].argmax(-1) == batch[name]
            loss += weight * optax.softmax_cross_entropy_with_integer_labels(outputs[name], batch[name])
        for name, weight in self.numbers.items():
            error = outputs[name][:, 0] - batch[name]
            found[f"{name}_error"] = jnp.abs(error)
            loss += weight * jnp.square(error)
        return {"loss": loss, **found}

    def scores(self, model: Any, variables: Any, batch: Any) -> jax.Array:
        """Return the logits of the first classification: the class names of the data are its names."""
        return model.apply(variables, self.normalize(batch["image"]), train=False)[next(iter(self.classes))]
