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
"""A label among this many most probable classes counts for the top-5 accuracy."""


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
    """Evaluate a checkpoint of the run in `folder` on every test example.

    Pass the Python objects of the run (`data`, `model`, `task`, `loss`, `metrics`, `optimizer`) as to `fit`.

    Args:
      folder: the run directory.
      checkpoint: "latest", "best" (of the best evaluation), or a step of which the run has a checkpoint. Default: the
        one that `fit` has tested; see `load_run`.
      data: data of your own, whose test examples are evaluated. Classes are mapped to those of the run by name.
      dataset: name of another dataset. Default: that of the run.
      data_dir: folder of prepared datasets. Default: that of the run.
      model: the run's own model.
      task: the run's own task.
      loss: the run's own loss.
      augment: accepted as in `fit`; test images are not augmented.
      metrics: more metrics by name.
      optimizer: the run's own optimizer.
      gradient: accepted as in `fit`; nothing is differentiated.

    Returns:
      The values of `evaluate_trained`.

    Raises:
      UsageError: if the folder contains no run, the run has no such checkpoint, or the dataset cannot be used.
    """
    if data is not None:
        data_identity.check_data(data)
    trained = load_run(folder, checkpoint=checkpoint, model=model, optimizer=optimizer, task=task)
    config = trained.config
    if data is None:
        data = open_test_set(trained, dataset, data_dir)
    elif dataset is not None:
        raise UsageError(f"data and dataset {dataset!r} are mutually exclusive. Give one of them")
    elif trained.preprocessing.class_names:
        data = data.with_classes(trained.preprocessing.class_names)
    if task is not None:
        return evaluate_trained(trained, data)
    _, test_loss = build_losses(config, CustomParts(loss=loss))
    # Of the run's own metrics only the names are recorded, and these may be left out.
    named = dataclasses.replace(config, metrics=tuple(x for x in config.metrics if not x.startswith(PREFIX)))
    soft = _has_soft_labels(data)
    chosen = build_metrics(named, CustomParts(metrics=metrics), trained.num_classes, soft=soft)
    return evaluate_trained(trained, data, test_loss, chosen)


def open_test_set(trained: Trained, dataset: str | None = None, data_dir: str | Path | None = None) -> Dataset:
    """Open the dataset of a run, or another one, with labels mapped by name to the classes of the network.

    Args:
      trained: a trained network.
      dataset: name of another dataset. Default: that of the run.
      data_dir: folder of prepared datasets. Default: that of the run.

    Raises:
      UsageError: if the dataset cannot be opened, or it has classes that the network does not know.

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
            f"the run used data of its own: {config.dataset.removeprefix(PREFIX)}. Pass it in Python: "
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
            f"the data of the run is missing: {missing} does not exist. Give its new path with --dataset or --data-dir."
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
    """Return the path of the run's data that does not exist, or None.

    Runs of earlier versions recorded paths as they were typed, relative to the directory where the run was started.
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
    except (OSError, RuntimeError, ValueError):  # an impossible name, or an unknown user's home
        return False


def evaluate_trained(
    trained: Trained, dataset: Dataset, loss: Loss | None = None, metrics: Mapping[str, Metric] | Sequence[str] = ()
) -> dict[str, Any]:
    """Evaluate a network on every test example of a dataset.

    All counts come from one pass, so that the accuracy and the counts of the classes agree.

    Args:
      trained: a trained network.
      dataset: the test set, from `open_test_set`.
      loss: `(logits [N, classes], labels [N]) -> [N]`. Default: cross-entropy.
      metrics: more metrics of a classification, by name; or names of `jaxcnn.train.metrics.METRICS`.

    Returns:
      `model`, `dataset`, `step`, `test_accuracy`, `test_loss`, `test_examples`; `metrics`, all metrics by name; and
      `notes` on the dataset. Of a classification with integer labels also: `top_5_accuracy` if there are more than five
      classes; `balanced_accuracy`, the mean recall over the classes that have examples; `classes`, a list of `class`,
      `precision` (None if the class was never predicted), `recall` (None without examples), `f1` (None if one of them
      is), `examples` and `predicted` (the number of predictions of the class).

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


# Names of metrics that are always counted, and cannot be names of a user's.
_CLASSES, _TOP = "(classes)", "(top)"


def _evaluate_all(trained: Trained, task: Task, dataset: Dataset) -> dict[str, Any]:
    """Return the metrics of the test set, with the number of `examples`."""
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
        raise AssertionError(f"evaluated {total['examples']:.0f} of {examples} examples")
    values = task.summarize({name: value for name, value in total.items() if name != "examples"}, examples)
    return {**sums_of.as_lists(values), "examples": examples}


def _has_soft_labels(dataset: Dataset) -> bool:
    """Return whether labels have a weight for each class, `[N, classes]`."""
    if not dataset.random_access:
        return False
    return has_soft_labels(dataset.load("test", [0], dataset.geometry(1) if dataset.sizes_differ else None))


def _of_classes(class_names: tuple[str, ...], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean recall and a row for each class, from the metric `per_class`."""
    names = {"precision": "precision", "recall": "recall", "f1": "f1", "examples": "support", "predicted": "predicted"}
    rows = [
        {"class": name, **{ours: found[theirs][index] for ours, theirs in names.items()}}
        for index, name in enumerate(class_names)
    ]
    return {"balanced_accuracy": found["macro_recall"], "classes": rows}
