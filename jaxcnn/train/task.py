"""The protocol of a task, which defines the loss and the metrics, and the default task: classification.

A task is a few pure functions of a batch. `jaxcnn.train.fit` trains, evaluates, saves and resumes any task in the same
way, on one device or many. `experiments/tasks/` has complete examples, each in one file: contrastive learning,
segmentation, distillation and a network with several heads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.array_types import AnyArray, Array, Float, KeyArray, Num, Shaped
from jaxcnn.errors import UsageError
from jaxcnn.train.examples import example_keys
from jaxcnn.train.losses import Loss, check_labels, cross_entropy
from jaxcnn.train.metrics import Metric
from jaxcnn.train.mixing import Mix, main_labels, mix_batch, mixed_loss

Batch = Any
"""A tree of arrays with a leading axis of N examples. For labeled images, a dict with the keys `image` and `label`."""

Metrics = dict[str, Any]
"""Values of each example, by name: arrays `[N]` or `[N, ...]`, or `jaxcnn.train.metrics.OneHot`."""


class Task:
    """The loss and the metrics of a run. Derive a frozen dataclass, and define `loss` and `evaluate`.

    All methods must be pure functions. `prepare`, `loss` and `evaluate` run on the devices, inside compiled programs. A
    batch has the keys of the data. Metrics have a leading axis of examples. The training loop leaves out the padding of
    evaluation batches, and sums metrics over examples and devices. Each example therefore counts once.

    Attributes:
      monitor: the metric that chooses the best checkpoint and stops a run early. If its name ends in "loss" or "error",
        the smallest value is the best; otherwise, the largest.

    >>> @dataclass(frozen=True)
    ... class Regression(Task):
    ...     def loss(self, model, variables, batch, rngs):
    ...         errors = (model.apply(variables, batch["image"], train=True)[:, 0] - batch["label"]) ** 2
    ...         return errors.mean(), {}, {"loss": errors}
    >>> Regression().monitor
    'loss'
    """

    monitor: str = "loss"

    def bind(self, preprocessing: Any) -> "Task":
        """Return the task with what it needs from the data, such as `normalize`. The default returns the task itself.

        Args:
          preprocessing: has `normalize(images)`, `mean`, `std`, `image_shape` and `class_names`.
        """
        return self

    def init(self, model: Any, rngs: Any, batch: Batch) -> Any:
        """Return the model's initial variables. The default calls `model.init(rngs, batch["image"], train=True)`.

        Args:
          model: a Linen module.
          rngs: random keys by name.
          batch: one example of zeros, as the source gives it.
        """
        return model.init(rngs, batch["image"].astype(jnp.float32), train=True)

    def prepare(self, key: KeyArray, batch: Batch, train: bool) -> Batch:
        """Return the batch for `loss` (if `train`) or for `evaluate`. The default returns the batch unchanged.

        Args:
          key: random key, the same on all devices. `example_keys(key, N)` returns a key for each example, `[N]`.
          batch: as the source gives it, arrays `[N, ...]`.
          train: whether the batch is for `loss`.
        """
        return batch

    def loss(self, model: Any, variables: Any, batch: Batch, rngs: Any) -> tuple[Array, Any, Metrics]:
        """Return the loss, changed variables, and metrics.

        Args:
          model: a Linen module.
          variables: `{"params": ..., "batch_stats": ...}`.
          batch: from `prepare`.
          rngs: the random key "dropout".

        Returns:
          A scalar `[]`, the mean over the batch; a dict with the new `batch_stats`, or an empty one; and metrics,
          arrays `[N, ...]`. The metric `loss` is added if it is missing.

        Raises:
          UsageError: if the task does not define this method.
        """
        raise UsageError(
            f"task {type(self).__name__} has no loss. Define loss(self, model, variables, batch, rngs) in it."
        )

    def evaluate(self, model: Any, variables: Any, batch: Batch) -> Metrics:
        """Return the metrics of each example of an evaluation batch, arrays `[N, ...]`.

        Args:
          model: a Linen module.
          variables: `{"params": ..., "batch_stats": ...}`, which may be moving averages.
          batch: from `prepare`.

        Raises:
          UsageError: if the task does not define this method.
        """
        raise UsageError(
            f"task {type(self).__name__} has no evaluate. Define evaluate(self, model, variables, batch) in it."
        )

    def summarize(self, sums: Mapping[str, np.ndarray], count: int) -> dict[str, Any]:
        """Return numbers from the sums of metrics over `count` examples. The default divides each sum by `count`.

        The sums are those of the metrics of `loss` in training, and those of `evaluate` in evaluations. The sum of a
        metric `[N, ...]` is an array `[...]`. Arrays, and dicts of numbers and arrays, may be returned too. Arrays are
        stored in `result.json` only.
        """
        return {name: total / count for name, total in sums.items()}

    def scores(self, model: Any, variables: Any, batch: Batch) -> Float[Array, "n classes"]:
        """Return class scores `[N, classes]`, whose softmax are probabilities, for predictions and pictures.

        Args:
          model: a Linen module.
          variables: `{"params": ..., "batch_stats": ...}`.
          batch: has the key `image`, uint8 `[N, H, W, C]`; labels may be missing.

        Raises:
          UsageError: if the task does not define this method.
        """
        raise UsageError(
            f"task {type(self).__name__} has no class scores. Predictions and pictures need Task.scores(self, model, "
            "variables, batch) -> [N, classes]."
        )


def higher_is_better(metric: str) -> bool:
    """Return whether a larger value of a metric is better.

    >>> higher_is_better("accuracy"), higher_is_better("loss"), higher_is_better("calibration_error")
    (True, False, False)
    """
    return not metric.endswith(("loss", "error"))


@dataclass(frozen=True, eq=False)
class Classification(Task):
    """Classification: labels are a class for each image, int `[N]`, or a value for each class, float `[N, classes]`.

    Attributes:
      train_loss: `(logits [N, classes], labels) -> [N]`.
      test_loss: loss of evaluations, of the same form. Default: `train_loss`.
      augment: `(key, image [H, W, C]) -> [H, W, C]`, applied to each training image.
      mix: mixup or cutmix of pairs of training images; see `mixing.make_mix`.
      normalize: function from pixels `[N, H, W, C]` to the model's input. Default: standardization by the run's data.
      metrics: further metrics of evaluations by name, in addition to `loss` and `accuracy`.
      aux_weight: weight of the loss of each auxiliary classifier, whose logits the model sows in `aux_logits`.
      tta: test-time augmentation, whose views' logits are averaged; see `views`.

    >>> task = Classification(train_loss=lambda logits, labels: cross_entropy(logits, labels, label_smoothing=0.1))
    >>> task.summarize({"loss": 6.0, "accuracy": 3.0}, 4)
    {'loss': 1.5, 'accuracy': 0.75}
    """

    train_loss: Loss = cross_entropy
    test_loss: Loss | None = None
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    mix: Mix | None = None
    normalize: Callable[[jax.Array], jax.Array] | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    aux_weight: float = 0.3
    tta: Literal["none", "flip", "flip_shift"] = "none"

    monitor = "accuracy"

    def bind(self, preprocessing: Any) -> "Classification":
        return self if self.normalize is not None else replace(self, normalize=preprocessing.normalize)

    def prepare(self, key: KeyArray, batch: Batch, train: bool) -> Batch:
        """Augment and mix the training images. Raises `UsageError` if labels have a wrong shape or type."""
        images, labels = batch["image"], batch["label"]
        check_labels(labels, images.shape[:1])
        if not train or (self.augment is None and self.mix is None):
            return batch
        augment_key, mix_key, _ = jax.random.split(key, 3)  # the third one is for dropout, in the step
        if self.augment is not None:
            images = jax.vmap(self.augment)(example_keys(augment_key, len(images)), images)
        if self.mix is not None:
            images, labels = mix_batch(self.mix, example_keys(mix_key, len(images)), images, labels)
        return {**batch, "image": images, "label": labels}

    def loss(self, model: Any, variables: Any, batch: Batch, rngs: Any) -> tuple[Float[Array, ""], Any, Metrics]:
        logits, updates = model.apply(
            variables, self._inputs(batch), train=True, rngs=rngs, mutable=["batch_stats", "aux_logits"]
        )
        labels = batch["label"]
        losses = mixed_loss(self.train_loss, logits, labels)
        of_heads = [
            mixed_loss(self.train_loss, head, labels) for head in jax.tree.leaves(updates.get("aux_logits", {}))
        ]
        total = losses.mean() + self.aux_weight * sum(head.mean() for head in of_heads)
        return total, updates, {"loss": losses, "accuracy": correct(logits, main_labels(labels))}

    def evaluate(self, model: Any, variables: Any, batch: Batch) -> Metrics:
        logits, labels = self.scores(model, variables, batch), batch["label"]
        losses = (self.test_loss or self.train_loss)(logits, labels)
        more = {name: metric.per_example(logits, labels) for name, metric in self.metrics.items()}
        return {"loss": losses, "accuracy": correct(logits, labels), **more}

    def summarize(self, sums: Mapping[str, Any], count: int) -> dict[str, Any]:
        values = {name: total / count for name, total in sums.items() if name not in self.metrics}
        of_metrics = {
            name: metric.summarize(sums[name], count) for name, metric in self.metrics.items() if name in sums
        }
        return values | of_metrics

    def scores(self, model: Any, variables: Any, batch: Batch) -> Float[Array, "n classes"]:
        images = self._inputs(batch)
        (weight, first), *others = views(images, self.tta)
        logits = weight * model.apply(variables, first, train=False)
        for weight, view in others:
            logits = logits + weight * model.apply(variables, view, train=False)
        return logits

    def _inputs(self, batch: Batch) -> jax.Array:
        return batch["image"] if self.normalize is None else self.normalize(batch["image"])


def views(images: Num[AnyArray, "n h w c"], tta: str) -> list[tuple[float, Num[AnyArray, "n h w c"]]]:
    """Return the views of images `[N, H, W, C]` that test-time augmentation averages, with their weights.

    "none" is the images alone, and "flip" the images and their mirror images. "flip_shift" adds both, shifted by a
    pixel up and left, and down and right, with reflection at the border. The two unshifted views have half the weight
    (Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024, section 3.5).
    """
    if tta == "none":
        return [(1.0, images)]
    shifts = [(1.0, images)]
    if tta == "flip_shift":
        height, width = images.shape[1:3]
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        shifts = [(0.5, images), *((0.25, padded[:, s : s + height, s : s + width]) for s in (0, 2))]
    return [(weight / 2, view) for weight, shifted in shifts for view in (shifted, jnp.flip(shifted, axis=2))]


def correct(logits: Float[AnyArray, "n classes"], labels: Num[AnyArray, "n ..."]) -> Shaped[Array, " n"]:
    """Return whether each example is classified correctly, `[N]`.

    For labels `[N, classes]`, return the fraction of the classes whose logit has the right sign.
    """
    if labels.ndim == 1:
        return jnp.argmax(logits, axis=-1) == labels
    return jnp.mean((logits > 0) == (labels > 0.5), axis=-1)
