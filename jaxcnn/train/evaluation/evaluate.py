"""Evaluate a trained network on every image of a test set, over all devices."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import kernels
from jaxcnn.data import Dataset, Padded, open_dataset
from jaxcnn.data.imagefolder import PREFIX as FOLDER
from jaxcnn.errors import UsageError
from jaxcnn.train import metrics
from jaxcnn.train.config import Config
from jaxcnn.train.devices.parallel import make_parallel
from jaxcnn.train.evaluation.batches import evaluation_batches
from jaxcnn.train.losses import Loss, cross_entropy
from jaxcnn.train.parts import CustomParts, build_losses
from jaxcnn.train.runtime import data_identity
from jaxcnn.train.runtime.loop import EVALUATION_BATCH
from jaxcnn.train.runtime.trained import Trained, load_run
from jaxcnn.train.step import evaluation_logits

TOP = 5
"""A label among this many most probable classes counts for the top-5 accuracy."""


def evaluate_run(
    folder: str | Path,
    *,
    checkpoint: str | int = "latest",
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    model: Any = None,
    loss: Callable[..., Any] | None = None,
    augment: Callable[..., Any] | None = None,
    optimizer: Any = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint of the run in `folder` on every test example.

    Pass the Python objects of the run (`model`, `loss`, `optimizer`) as to `fit`.

    Args:
      folder: the run directory.
      checkpoint: "latest", "best" (of the best test accuracy), or a step of which the run has a checkpoint.
      dataset: another dataset, whose classes are mapped to those of the run by name. Default: that of the run.
      data_dir: folder of prepared datasets. Default: that of the run.
      model: the run's own model.
      loss: the run's own loss.
      augment: accepted as in `fit`; test images are not augmented.
      optimizer: the run's own optimizer.

    Returns:
      The values of `evaluate_trained`.

    Raises:
      UsageError: if the folder contains no run, the run has no such checkpoint, or the dataset cannot be used.
    """
    trained = load_run(folder, checkpoint=checkpoint, model=model, optimizer=optimizer)
    _, test_loss = build_losses(trained.config, CustomParts(loss=loss))
    return evaluate_trained(trained, open_test_set(trained, dataset, data_dir), test_loss)


def open_test_set(trained: Trained, dataset: str | None = None, data_dir: str | Path | None = None) -> Dataset:
    """Open the dataset of a run, or another one, with labels mapped by name to the classes of the network.

    Args:
      trained: a trained network.
      dataset: name of another dataset. Default: that of the run.
      data_dir: folder of prepared datasets. Default: that of the run.

    Raises:
      UsageError: the dataset cannot be opened, or it has classes that the network does not know.
    """
    config = trained.config
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
    own_folder = trained.folder if dataset is None else None
    if own_folder is not None and data_identity.is_divided_otherwise(own_folder, opened):
        opened = dataclasses.replace(opened, notes=(*opened.notes, data_identity.OTHER_TEST_SET))
    return opened


def _missing_path(config: Config, data_dir: str | Path | None) -> Path | None:
    """Return the path of the run's data that does not exist, or None.

    Runs of earlier versions recorded paths as they were typed, relative to the directory where the run was started.
    """
    recorded = []
    if config.dataset.startswith(FOLDER):
        recorded.append(config.dataset.removeprefix(FOLDER))
    if config.data_dir is not None and data_dir is None:
        recorded.append(config.data_dir)
    return next((path.absolute() for path in map(Path, recorded) if not _exists(path)), None)


def _exists(path: Path) -> bool:
    try:
        return path.expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # an impossible name, or an unknown user's home
        return False


def evaluate_trained(trained: Trained, dataset: Dataset, loss: Loss = cross_entropy) -> dict[str, Any]:
    """Evaluate a network on every test example of a dataset.

    All counts come from one pass, so that the accuracy and the counts of the classes agree.

    Args:
      trained: a trained network.
      dataset: the test set, from `open_test_set`.
      loss: `(logits [N, classes], labels [N]) -> [N]`.

    Returns:
      `model`, `dataset`, `step`, `test_accuracy`, `test_loss`, `test_examples`; `top_5_accuracy` if there are more than
      five classes; `balanced_accuracy`, the mean recall over the classes that have examples; `classes`, a list of
      `class`, `precision` (None if the class was never predicted), `recall` (None without examples), `examples` and
      `predicted` (the number of predictions of the class); and `notes` on the dataset.
    """
    kernels.check()
    parallel = make_parallel(trained.config.parallel)
    devices, examples = len(parallel.devices), dataset.examples["test"]
    batch_size = -(-min(EVALUATION_BATCH, examples) // devices) * devices
    step = parallel.compile(make_evaluation_step(trained, loss, parallel.axis_name), donate_state=False)
    variables = parallel.place_state(trained.variables)
    batches = evaluation_batches(dataset, trained.preprocessing, batch_size, parallel.share)
    fetched = jax.device_get([step(variables, parallel.place_batch(batch)) for batch in batches])
    total = {name: np.sum([sums[name] for sums in fetched], axis=0, dtype=np.float64) for name in fetched[0]}
    if int(total["examples"]) != examples:
        raise AssertionError(f"evaluated {total['examples']:.0f} of {examples} examples")
    means = metrics.means(total)
    by_class = _class_rows(trained.preprocessing.class_names, total)
    recalls = [row["recall"] for row in by_class if row["recall"] is not None]
    return {
        "model": trained.name,
        "dataset": dataset.name,
        "step": trained.step,
        "test_accuracy": means["accuracy"],
        "test_loss": means["loss"],
        "test_examples": examples,
        **({"top_5_accuracy": float(total["in_top"]) / examples} if "in_top" in total else {}),
        "balanced_accuracy": sum(recalls) / len(recalls),
        "classes": by_class,
        "notes": [*dataset.notes],
    }


def make_evaluation_step(trained: Trained, loss: Loss, axis_name: str | None) -> Callable[[Any, Any], metrics.Sums]:
    """Return the pure function `(variables, batch) -> sums` over the examples of a batch, and over the devices.

    The sums are those of `metrics.sums`; `in_top`, the number of labels among the five largest logits, if there are
    more than five classes; and per class, `[classes]`, the numbers of examples, of predictions, and of `hits`, which
    are correct predictions.
    """
    count, flip = trained.num_classes, trained.config.tta == "flip"

    def evaluation_step(variables: Any, padded: Padded) -> metrics.Sums:
        (examples, mask), labels = padded, padded.batch["label"]
        inputs = trained.preprocessing.normalize(examples["image"])
        logits = evaluation_logits(trained.model, variables, inputs, flip=flip)
        predicted = jnp.argmax(logits, axis=-1)

        def per_class(classes: jax.Array, counted: jax.Array) -> jax.Array:
            return jnp.zeros(count, jnp.int32).at[classes].add(counted.astype(jnp.int32))

        sums = {
            **metrics.sums(loss(logits, labels), logits, labels, mask),
            "labels": per_class(labels, mask),
            "predictions": per_class(predicted, mask),
            "hits": per_class(labels, mask & (predicted == labels)),
        }
        if count > TOP:
            _, best = jax.lax.top_k(logits, TOP)
            sums["in_top"] = jnp.where(mask, (best == labels[:, None]).any(axis=-1), False).sum()
        return sums if axis_name is None else jax.lax.psum(sums, axis_name)

    return evaluation_step


def _class_rows(class_names: tuple[str, ...], total: dict[str, Any]) -> list[dict[str, Any]]:
    """Return precision, recall and counts of each class."""
    rows = []
    for index, name in enumerate(class_names):
        hits, examples, predicted = (int(total[key][index]) for key in ("hits", "labels", "predictions"))
        rows.append(
            {
                "class": name,
                "precision": hits / predicted if predicted else None,
                "recall": hits / examples if examples else None,
                "examples": examples,
                "predicted": predicted,
            }
        )
    return rows
