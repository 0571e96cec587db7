"""The base class of tasks, which define the loss and the metrics of a run, and the default task: classification.

A task consists of a few pure functions of a batch. `jaxcnn.train.fit` trains, evaluates, saves and resumes all tasks in
the same way, on one device or on many devices. `experiments/tasks/` contains complete examples: contrastive learning,
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
"""A pytree of arrays with a leading axis of N examples. Labeled images are a dict with the keys `image` and `label`."""

Metrics = dict[str, Any]
"""Values of metrics for each example, by name: arrays `[N]` or `[N, ...]`, or `jaxcnn.train.metrics.OneHot`."""


class Task:
    """The loss and the metrics of a run. To define a task, derive a frozen dataclass with `loss` and `evaluate`.

    All methods must be pure functions. `prepare`, `loss` and `evaluate` run on the devices, inside compiled programs. A
    batch has the keys of the dataset, such as `image` and `label`. Metrics have a leading axis of examples. The
    training loop ignores the padding of evaluation batches, and sums metrics over examples and devices. Each example is
    therefore counted once.

    Attributes:
      monitor: name of the metric that chooses the best checkpoint and stops a run early. If the name ends in "loss" or
        "error", the smallest value is the best. For all other names, the largest value is the best.

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
        """Return a copy of the task that uses the preprocessing of the run, such as the normalization of images.

        The default method returns the task unchanged.

        Args:
          preprocessing: object with `normalize(images)`, `mean`, `std`, `image_shape` and `class_names`.
        """
        return self

    def init(self, model: Any, rngs: Any, batch: Batch) -> Any:
        """Return the model's initial variables. By default, call `model.init(rngs, batch["image"], train=True)`.

        Args:
          model: a Linen module.
          rngs: random keys by name.
          batch: a batch of one example, with the keys, shapes and dtypes of the dataset. All values are zero.
        """
        return model.init(rngs, batch["image"].astype(jnp.float32), train=True)

    def prepare(self, key: KeyArray, batch: Batch, train: bool) -> Batch:
        """Prepare a batch of the dataset for `loss` or `evaluate`, for example by augmentation.

        The default method returns the batch unchanged.

        Args:
          key: random key, which is equal on all devices. `example_keys(key, N)` returns a key for each example, `[N]`.
          batch: a batch of the dataset, with arrays `[N, ...]`.
          train: True if the prepared batch is passed to `loss`, False if the batch is passed to `evaluate`.
        """
        return batch

    def loss(self, model: Any, variables: Any, batch: Batch, rngs: Any) -> tuple[Array, Any, Metrics]:
        """Return the mean loss of a training batch, changed variables, and metrics.

        Args:
          model: a Linen module.
          variables: `{"params": ..., "batch_stats": ...}`.
          batch: the batch that `prepare` has returned.
          rngs: a dict with the random key "dropout".

        Returns:
          Three values: the mean loss over the batch, a scalar; a dict with the new `batch_stats`, or an empty dict; and
          a dict of metrics, arrays `[N, ...]`. The metric `loss` is added if it is missing.

        Raises:
          UsageError: if the task does not define this method.
        """
        raise UsageError(
            f"task {type(self).__name__} has no method loss. Define loss(self, model, variables, batch, rngs)."
        )

    def evaluate(self, model: Any, variables: Any, batch: Batch) -> Metrics:
        """Return the metrics of each example of an evaluation batch, as arrays `[N, ...]`.

        Args:
          model: a Linen module.
          variables: `{"params": ..., "batch_stats": ...}`. The values may be moving averages.
          batch: the batch that `prepare` has returned.

        Raises:
          UsageError: if the task does not define this method.
        """
        raise UsageError(
            f"task {type(self).__name__} has no method evaluate. Define evaluate(self, model, variables, batch)."
        )

    def summarize(self, sums: Mapping[str, np.ndarray], count: int) -> dict[str, Any]:
        """Convert sums of metrics over `count` examples to the values to report. The default method returns means.

        In training, `sums` are the summed metrics of `loss`. In evaluations, `sums` are the summed metrics of
        `evaluate`. The sum of a metric `[N, ...]` is an array `[...]`. A returned value is a number, an array, or a
        dict of numbers and arrays. Arrays are stored only in `result.json`.
        """
        return {name: total / count for name, total in sums.items()}

    def scores(self, model: Any, variables: Any, batch: Batch) -> Float[Array, "n classes"]:
        """Return class scores `[N, classes]` for predictions. Class probabilities are the softmax of the scores.

        Args:
          model: a Linen module.
          variables: `{"params": ..., "batch_stats": ...}`.
          batch: a dict with the key `image`, uint8 `[N, H, W, C]`. Labels may be missing.

        Raises:
          UsageError: if the task does not define this method.
        """
        raise UsageError(
            f"task {type(self).__name__} has no class scores, which predictions and pictures need. Define scores(self, "
            "model, variables, batch) -> [N, classes]."
        )


def higher_is_better(metric: str) -> bool:
    """Return whether a larger value of a metric is better, according to the metric's name.

    >>> higher_is_better("accuracy"), higher_is_better("loss"), higher_is_better("calibration_error")
    (True, False, False)
    """
    return not metric.endswith(("loss", "error"))


@dataclass(frozen=True, eq=False)
class Classification(Task):
    """The classification task. Labels are class indices, int `[N]`, or a value for each class, float `[N, classes]`.

    Attributes:
      train_loss: loss function of training, `(logits [N, classes], labels) -> [N]`.
      test_loss: loss function of evaluations, `(logits [N, classes], labels) -> [N]`. Default: `train_loss`.
      augment: function `(key, image [H, W, C]) -> [H, W, C]` that is applied to each training image.
      mix: function that mixes pairs of training images by mixup or cutmix; see `mixing.make_mix`.
      normalize: function from pixels `[N, H, W, C]` to the model's input. Default: normalization with the mean and the
        standard deviation of the run's preprocessing.
      metrics: metrics of evaluations by name, in addition to `loss` and `accuracy`.
      aux_weight: weight of the loss of each auxiliary classifier. The model stores the logits of these classifiers in
        the Flax collection `aux_logits`.
      tta: test-time augmentation: the logits of several views of an image are averaged; see `views`.

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
        """Augment and mix the training images. Raise `UsageError` if labels have a wrong shape or dtype."""
        images, labels = batch["image"], batch["label"]
        check_labels(labels, images.shape[:1])
        if not train or (self.augment is None and self.mix is None):
            return batch
        augment_key, mix_key, _ = jax.random.split(key, 3)  # the training step uses the third key for dropout
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
    """Return the views of images `[N, H, W, C]` whose logits test-time augmentation averages, as pairs (weight, view).

    For "none", the images are the only view. For "flip", the views are the images and their mirror images. "flip_shift"
    adds four views: both views of "flip", shifted by one pixel up and left, and by one pixel down and right, with
    reflection at the border. The two unshifted views have half of the total weight (Jordan, *94% on CIFAR-10 in 3.29
    Seconds on a Single GPU*, 2024, section 3.5).
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
    """Return whether each example is classified correctly, as a boolean array `[N]`.

    For multi-hot labels `[N, classes]`, return the fraction of classes that are predicted correctly for each example. A
    class is predicted if its logit is positive.
    """
    if labels.ndim == 1:
        return jnp.argmax(logits, axis=-1) == labels
    return jnp.mean((logits > 0) == (labels > 0.5), axis=-1)
