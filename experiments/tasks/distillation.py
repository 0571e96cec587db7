"""Distillation: a small network, the student, learns from the logits of a trained one, the teacher.

References:
  Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.train import Classification, Trained
from jaxcnn.train.mixing import main_labels, mixed_loss
from jaxcnn.train.task import correct


def soft_loss(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> jax.Array:
    """Return `T^2 KL(teacher || student)` of logits `[N, classes]` divided by the temperature T, `[N]`.

    The factor keeps the size of the gradient as T grows.
    """
    student = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    teacher = jax.nn.log_softmax(teacher_logits.astype(jnp.float32) / temperature)
    return temperature**2 * (jnp.exp(teacher) * (teacher - student)).sum(axis=-1)


@dataclass(frozen=True, eq=False)
class Distillation(Classification):
    """Classification whose training loss is `weight * soft_loss + (1 - weight) * train_loss`.

    Evaluation and predictions are those of `Classification`, so that `Classification()` opens the run too.

    Attributes:
      teacher: a trained network of the same classes. It sees the augmented images, as the student does.
      temperature: softens the logits of both.
      weight: weight of the teacher's part, from 0 to 1.
    """

    teacher: Trained = field(kw_only=True)
    temperature: float = 4.0
    weight: float = 0.9

    def loss(self, model: Any, variables: Any, batch: Any, rngs: Any) -> Any:
        images, labels = self._inputs(batch), batch["label"]
        logits, updates = model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])
        soft = soft_loss(logits, self.teacher.logits(batch["image"]), self.temperature)
        hard = mixed_loss(self.train_loss, logits, labels)
        losses = self.weight * soft + (1 - self.weight) * hard
        metrics = {"loss": losses, "soft_loss": soft, "accuracy": correct(logits, main_labels(labels))}
        return losses.mean(), updates, metrics
