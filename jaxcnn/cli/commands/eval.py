"""`jaxcnn eval`: evaluate a run, or published weights, on a test set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxcnn import data, train
from jaxcnn.cli._flags import parse
from jaxcnn.cli._lines import columns
from jaxcnn.cli._network_flags import NetworkOptions, check_source, open_network
from jaxcnn.errors import UsageError, printable
from jaxcnn.train.evaluation import evaluate_trained, open_test_set
from jaxcnn.train.parts import CustomParts, build_losses


@dataclass(frozen=True, kw_only=True)
class Flags(NetworkOptions):
    """Evaluate a checkpoint of a run on the whole test set of its dataset, or of another one.

    Classes of another dataset are mapped to those of the run by name. With --model and --weights, evaluate published
    weights on a dataset instead.
    """

    dataset: str | None = None
    """Dataset to evaluate on (default: that of the run)."""
    data_dir: str | None = None
    """Directory of prepared datasets (default: that of the run, or $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    per_class: bool = False
    """Print precision, recall and number of images of each class."""
    json: bool = False
    """Print the result as JSON, with the values of each class."""


def run(args: Sequence[str]) -> None:
    """Run `jaxcnn eval`."""
    flags = parse(Flags, "eval", args)
    trained, dataset = _open(flags)
    _, loss = build_losses(trained.config, CustomParts())
    values = evaluate_trained(trained, dataset, loss)
    if flags.json:
        print(json.dumps(values, indent=2))
        return
    for note in values["notes"]:
        print(printable(note))
    source = ("step", f"{trained.step:,}") if flags.weights is None else ("weights", printable(flags.weights))
    print("\n".join(columns(_summary_rows(values, source), numbers_from=2)))
    if flags.per_class:
        print("\n".join(columns(_class_rows(values["classes"]))))


def _open(flags: Flags) -> tuple[train.Trained, data.Dataset]:
    """Return the network and the dataset."""
    check_source(flags)
    if flags.workdir is not None:
        trained = open_network(flags)
        return trained, open_test_set(trained, flags.dataset, flags.data_dir)
    if flags.dataset is None:
        raise UsageError("no dataset given. Give the one to evaluate the weights on with --dataset.")
    dataset = data.open_dataset(flags.dataset, flags.data_dir)
    trained = open_network(flags, dataset.class_names)
    return trained, dataset.with_classes(trained.preprocessing.class_names)


def _summary_rows(values: dict[str, Any], source: tuple[str, str]) -> list[tuple[str, str]]:
    rows = [
        ("model", printable(values["model"])),
        ("dataset", printable(values["dataset"])),
        source,
        ("test accuracy", f"{values['test_accuracy']:.2%}"),
    ]
    if "top_5_accuracy" in values:
        rows.append(("top-5 accuracy", f"{values['top_5_accuracy']:.2%}"))
    return [
        *rows,
        ("balanced accuracy", f"{values['balanced_accuracy']:.2%}"),
        ("test loss", f"{values['test_loss']:.4f}"),
        ("test images", f"{values['test_examples']:,}"),
    ]


def _class_rows(classes: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("class", "precision", "recall", "images")]
    for row in classes:
        fractions = (row["precision"], row["recall"])
        shown = ("-" if fraction is None else f"{fraction:.2%}" for fraction in fractions)
        rows.append((printable(row["class"]), *shown, f"{row['examples']:,}"))
    return rows
