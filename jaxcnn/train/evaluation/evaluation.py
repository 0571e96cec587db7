"""Evaluate a trained network on every example of a test set, over all devices."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcnn import kernels
from jaxcnn.data import Dataset, open_dataset
from jaxcnn.data.datasets import split_name
from jaxcnn.errors import UsageError
from jaxcnn.train import metrics as sums_of
from jaxcnn.train.config import Config
from jaxcnn.train.devices.parallel import make_parallel
from jaxcnn.train.evaluation.batches import evaluation_batches
from jaxcnn.train.losses import Loss
from jaxcnn.train.metrics import METRICS, Metric
from jaxcnn.train.parts import PREFIX, CustomParts, build_losses, build_metrics
from jaxcnn.train.runtime import data_identity, workdir
from jaxcnn.train.runtime.loop import EVALUATION_BATCH
from jaxcnn.train.runtime.plan import has_soft_labels
from jaxcnn.train.runtime.preprocessing import PREPROCESSING
from jaxcnn.train.runtime.trained import Trained, load_run
from jaxcnn.train.step import evaluate_batch
from jaxcnn.train.task import Classification, Task

TOP = 5
"""Number of most probable classes that the top-5 accuracy considers."""


def evaluate(
    folder: str | Path,
    *,
    checkpoint: str | int | None = None,
    data: Dataset | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    model: Any = None,
    task: Task | None = None,
    loss: Callable[..., Any] | None = None,
    augment: Callable[..., Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    optimizer: Any = None,
    gradient: Any = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint of a run on all test examples.

    If you passed Python objects to `fit` (`data`, `model`, `task`, `loss`, `metrics`, `optimizer`), pass the same
    objects again.

    Args:
      folder: the run directory.
      checkpoint: "latest", "best" (the checkpoint of the best evaluation), or the step of a checkpoint. Default: the
        checkpoint that `fit` has tested; see `load_run`.
      data: your own dataset, whose test set is evaluated. The names of its classes must be class names of the run.
      dataset: name of the dataset whose test set is evaluated. Default: the dataset of the run.
      data_dir: folder with prepared datasets. Default: `config.data_dir` of the run.
      model: the model that was passed to `fit`, if the run used a custom model.
      task: the task that was passed to `fit`, if the run used a custom task.
      loss: the loss that was passed to `fit`, if the run used a custom loss.
      augment: ignored, since test images are not augmented. This argument allows you to pass all arguments of `fit`.
      metrics: dict of additional metrics by name.
      optimizer: the optimizer that was passed to `fit`, if the run used a custom optimizer.
      gradient: ignored, since an evaluation computes no gradients. This argument allows you to pass all arguments of
        `fit`.

    Returns:
      The dict that `evaluate_trained` returns.

    Raises:
      UsageError: if `folder` is not a run directory, if the checkpoint does not exist, or if the dataset cannot be
        used.
    """
    if data is not None:
        data_identity.check_data(data)
    trained = load_run(folder, checkpoint=checkpoint, model=model, optimizer=optimizer, task=task)
    config = trained.config
    if data is None:
        data = open_test_set(trained, dataset, data_dir)
    elif dataset is not None:
        raise UsageError(f"data and dataset={dataset!r} are mutually exclusive. Omit one of the two.")
    elif trained.preprocessing.class_names:
        data = data.with_classes(trained.preprocessing.class_names)
    if task is not None:
        return evaluate_trained(trained, data)
    _, test_loss = build_losses(config, CustomParts(loss=loss))
    # The configuration records only the names of custom metrics. The caller need not pass these metrics again.
    named = dataclasses.replace(config, metrics=tuple(x for x in config.metrics if not x.startswith(PREFIX)))
    soft = _has_soft_labels(data)
    chosen = build_metrics(named, CustomParts(metrics=metrics), trained.num_classes, soft=soft)
    return evaluate_trained(trained, data, test_loss, chosen)


def open_test_set(trained: Trained, dataset: str | None = None, data_dir: str | Path | None = None) -> Dataset:
    """Open the dataset of a run, or another dataset, for the evaluation of a trained network.

    The labels of the dataset are mapped to the classes of the network by class name.

    Args:
      trained: a trained network.
      dataset: name of the dataset to open. Default: the dataset of the run.
      data_dir: folder with prepared datasets. Default: `config.data_dir` of the run.

    Raises:
      UsageError: if the dataset cannot be opened, or if it has classes that the network does not have.

    >>> from jaxcnn.data import open_dataset
    >>> from jaxcnn.models import create_model
    >>> from jaxcnn.train.runtime.preprocessing import Preprocessing
    >>> names = open_dataset("fashion_mnist_mini").class_names
    >>> preprocessing = Preprocessing((28, 28, 1), (0.29,), (0.35,), names)
    >>> trained = Trained(Config(), create_model("lenet5"), {}, 0, preprocessing)
    >>> open_test_set(trained, "fashion_mnist_mini").examples["test"]
    2000
    """
    config = trained.config
    if dataset is None and config.dataset.startswith(PREFIX):
        raise UsageError(
            f"the run used a custom dataset: {config.dataset.removeprefix(PREFIX)}. Pass the dataset in Python: "
            "evaluate(folder, data=...), or name another dataset with --dataset."
        )
    root = config.data_dir if data_dir is None else data_dir
    try:
        if dataset is not None:
            opened = open_dataset(dataset, root)
        else:
            opened = open_dataset(
                config.dataset,
                root,
                skip_damaged=config.skip_damaged,
                train_split=config.train_split,
                test_split=config.test_split,
            )
    except UsageError as error:
        missing = None if dataset else _missing_path(config, data_dir)
        if missing is None:
            raise
        raise UsageError(
            f"the data of the run is missing: {missing} does not exist. "
            "Give the new path of the data with --dataset or --data-dir."
        ) from error
    opened = opened.with_classes(trained.preprocessing.class_names)
    if trained.folder is not None:
        unchecked = workdir.note_on_unchecked(trained.folder, (workdir.CONFIG, PREPROCESSING))
        opened = opened if unchecked is None else dataclasses.replace(opened, notes=(*opened.notes, unchecked))
    own_folder = trained.folder if dataset is None else None
    if own_folder is not None and data_identity.is_divided_otherwise(own_folder, opened):
        opened = dataclasses.replace(opened, notes=(*opened.notes, data_identity.OTHER_TEST_SET))
    return opened


def _missing_path(config: Config, data_dir: str | Path | None) -> Path | None:
    """Return a path of the run's data that does not exist, or None if all paths exist.

    Earlier versions recorded relative paths, relative to the directory in which the run was started.
    """
    recorded = []
    prefix, path = split_name(config.dataset)
    if prefix:
        recorded.append(path)
    if config.data_dir is not None and data_dir is None:
        recorded.append(config.data_dir)
    return next((path.absolute() for path in map(Path, recorded) if not _exists(path)), None)


def _exists(path: Path) -> bool:
    try:
        return path.expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # the path is not valid, or "~user" names an unknown user
        return False


def evaluate_trained(
    trained: Trained, dataset: Dataset, loss: Loss | None = None, metrics: Mapping[str, Metric] | Sequence[str] = ()
) -> dict[str, Any]:
    """Evaluate a network on all test examples of a dataset.

    All metrics are computed in a single pass over the test set.

    Args:
      trained: a trained network.
      dataset: dataset with the test set, as returned by `open_test_set`.
      loss: loss function `(logits [N, classes], labels [N]) -> [N]`. Default: cross-entropy.
      metrics: dict of additional metrics of a classification by name, or a list of names in
        `jaxcnn.train.metrics.METRICS`.

    Returns:
      A dict with the keys `model`, `dataset`, `step`, `test_accuracy`, `test_loss`, `test_examples`, `metrics` (all
      metrics by name) and `notes` (notes on the dataset). For a classification with integer labels, the dict also
      contains:

      - `top_5_accuracy`, if there are more than five classes.
      - `balanced_accuracy`: the mean recall over the classes that have test examples.
      - `classes`: a list with a dict for each class. Its keys are `class`, `precision` (None if the class was never
        predicted), `recall` (None if the class has no test examples), `f1` (None if precision or recall is None),
        `examples` and `predicted` (the number of predictions of the class).

    >>> import numpy as np, flax.linen as nn, jax.numpy as jnp
    >>> from jaxcnn.data import from_arrays
    >>> from jaxcnn.train.runtime.preprocessing import Preprocessing
    >>> class Brightness(nn.Module):
    ...     def __call__(self, x, train):
    ...         mean = x.mean((1, 2, 3))
    ...         return jnp.stack([-mean, mean], axis=-1)
    >>> preprocessing = Preprocessing((4, 4, 1), (0.5,), (0.25,), class_names=("dark", "bright"))
    >>> images = np.repeat(np.uint8([10, 200, 250]), 16).reshape(3, 4, 4, 1)
    >>> data = from_arrays(train=(images, [0, 1, 1]), test=(images, [0, 1, 0]), class_names=("dark", "bright"))
    >>> values = evaluate_trained(Trained(Config(), Brightness(), {}, 0, preprocessing), data)
    >>> round(values["test_accuracy"], 3), values["balanced_accuracy"]
    (0.667, 0.75)
    """
    kernels.check()
    soft, count = _has_soft_labels(dataset), trained.num_classes
    counts_classes = isinstance(trained.task, Classification) and not soft
    task = trained.bound_task
    if isinstance(task, Classification):
        if not isinstance(metrics, Mapping):
            names = dataclasses.replace(trained.config, metrics=tuple(metrics))
            metrics = build_metrics(names, CustomParts(), count, soft=soft)
        own = {**task.metrics, **metrics}
        if counts_classes:
            own |= {_CLASSES: METRICS.find("per_class")(count)}
        if counts_classes and count > TOP:
            own |= {_TOP: METRICS.find(f"top{TOP}")(count)}
        task = dataclasses.replace(task, test_loss=loss or task.test_loss, metrics=own)
    values = _evaluate_all(trained, task, dataset)
    examples = values.pop("examples")
    in_top = values.pop(_TOP, None)
    found = values.pop(_CLASSES, None)
    return {
        "model": trained.name,
        "dataset": dataset.name,
        "step": trained.step,
        "test_accuracy": values.get("accuracy"),
        "test_loss": values.get("loss"),
        "test_examples": examples,
        **({} if in_top is None else {"top_5_accuracy": in_top}),
        **({} if found is None else _of_classes(trained.preprocessing.class_names, found)),
        "metrics": values,
        "notes": [*dataset.notes],
    }


# Names of metrics that are always computed. The parentheses prevent conflicts with names of the user's metrics.
_CLASSES, _TOP = "(classes)", "(top)"


def _evaluate_all(trained: Trained, task: Task, dataset: Dataset) -> dict[str, Any]:
    """Return all metrics of the test set. The entry `examples` is the number of examples."""
    parallel = make_parallel(trained.config.parallel)
    devices, examples = len(parallel.devices), dataset.examples["test"]
    batch_size = -(-min(EVALUATION_BATCH, examples) // devices) * devices

    def evaluation_step(variables: Any, padded: Any) -> Any:
        return evaluate_batch(trained.model, task, variables, padded)

    step = parallel.compile(evaluation_step, donate_state=False)
    variables = parallel.place_state(trained.variables)
    batches = evaluation_batches(dataset, trained.preprocessing, batch_size, parallel.share)
    total = sums_of.add(jax.device_get([step(variables, parallel.place_batch(batch)) for batch in batches]))
    if int(total["examples"]) != examples:
        raise AssertionError(f"evaluated {total['examples']:.0f} instead of {examples} examples")
    values = task.summarize({name: value for name, value in total.items() if name != "examples"}, examples)
    return {**sums_of.as_lists(values), "examples": examples}


def _has_soft_labels(dataset: Dataset) -> bool:
    """Return whether each test label is a vector with one weight per class, so that labels are `[N, classes]`."""
    if not dataset.random_access:
        return False
    return has_soft_labels(dataset.load("test", [0], dataset.geometry(1) if dataset.sizes_differ else None))


def _of_classes(class_names: tuple[str, ...], found: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the values of the metric `per_class` to the mean recall and a dict for each class."""
    names = {"precision": "precision", "recall": "recall", "f1": "f1", "examples": "support", "predicted": "predicted"}
    rows = [
        {"class": name, **{ours: found[theirs][index] for ours, theirs in names.items()}}
        for index, name in enumerate(class_names)
    ]
    return {"balanced_accuracy": found["macro_recall"], "classes": rows}
