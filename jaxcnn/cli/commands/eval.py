"""`jaxcnn eval`: evaluate a run, or published weights, on a test set."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxcnn import data, train
from jaxcnn.cli._flags import parse
from jaxcnn.cli._lines import columns
from jaxcnn.cli._network_flags import NetworkOptions, check_source, open_network
from jaxcnn.cli._report import OUTPUT, check_targets, write_reports
from jaxcnn.errors import UsageError, printable
from jaxcnn.train.evaluation import evaluate_trained, open_test_set
from jaxcnn.train.evaluation.report import report_metrics
from jaxcnn.train.metrics import check_metric_names, make_metrics, numbers
from jaxcnn.train.parts import CustomParts, build_losses


@dataclass(frozen=True, kw_only=True)
class Flags(NetworkOptions):
    """Evaluate a checkpoint of a run on the whole test set of its dataset, or of another dataset.

    The classes of another dataset are mapped to the classes of the run by their names. To evaluate published weights
    instead of a run, give --model, --weights and --dataset.
    """

    dataset: str | None = None
    """Dataset to evaluate on (default: the dataset of the run)."""
    data_dir: str | None = None
    """Directory of prepared datasets (default: the directory that the run used, or $TFDS_DATA_DIR, or
    ~/tensorflow_datasets)."""
    per_class: bool = False
    """Print precision, recall and number of images of each class."""
    metrics: tuple[str, ...] = ()
    """More metrics to compute: topK with any number K (such as top3), balanced_accuracy, per_class, confusion,
    calibration_error."""
    report: tuple[str, ...] = ()
    """Write a per-class report, with F1 and the most frequent wrong prediction of each class. Give one or more files
    that end in .csv, .md or .png, or - to print the report."""
    frozen: bool = False
    """Fold batch normalization into the convolutions before the evaluation. This makes the evaluation faster on a CPU,
    with the same results up to rounding."""
    json: bool = False
    """Print the result as JSON, including the values of each class."""


def run(args: Sequence[str]) -> None:
    """Run `jaxcnn eval`."""
    flags = parse(Flags, "eval", args)
    if flags.json and OUTPUT in flags.report:
        raise UsageError("--json and --report - are mutually exclusive. Give a file for the report.")
    check_targets(flags.report)
    check_metric_names(flags.metrics)
    trained, dataset = _open(flags)
    make_metrics(flags.metrics, trained.num_classes)  # report an unknown metric before images are read
    _, loss = build_losses(trained.config, CustomParts())
    of_report = report_metrics(trained.num_classes) if flags.report else ()
    if flags.frozen:
        trained = trained.frozen()
    values = evaluate_trained(trained, dataset, loss, metrics=(*flags.metrics, *of_report))
    _print(flags, trained, values)
    for path in write_reports(flags.report, values) if flags.report else ():
        print(printable(f"wrote {path}"), file=sys.stderr)


def _print(flags: Flags, trained: train.Trained, values: dict[str, Any]) -> None:
    chosen = {name: values["metrics"][name] for name in flags.metrics}
    if flags.json:
        print(json.dumps({**values, "metrics": chosen}, indent=2))
        return
    for note in values["notes"]:
        print(printable(note))
    source = ("step", f"{trained.step:,}") if flags.weights is None else ("weights", printable(flags.weights))
    rows = [*_summary_rows(values, source), *_metric_rows(chosen)]
    print("\n".join(columns(rows, numbers_from=2)))
    if flags.per_class:
        print("\n".join(columns(_class_rows(values["classes"]))))


def _metric_rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a row (name, text) for each metric. An array is not printed: its row says that --json prints the array."""
    rows = []
    for name, value in values.items():
        found = numbers({name: value})
        rows += [(part, f"{number:.4f}") for part, number in found.items()]
        if not found:
            rows.append((name, "an array, which --json prints"))
    return rows


def _open(flags: Flags) -> tuple[train.Trained, data.Dataset]:
    """Open the network, and the dataset for its evaluation. Return the network and the dataset."""
    check_source(flags)
    if flags.workdir is not None:
        trained = open_network(flags)
        return trained, open_test_set(trained, flags.dataset, flags.data_dir)
    if flags.dataset is None:
        raise UsageError("no dataset given. Give --dataset, the dataset to evaluate the weights on.")
    dataset = data.open_dataset(flags.dataset, flags.data_dir)
    trained = open_network(flags, dataset.class_names)
    return trained, dataset.with_classes(trained.preprocessing.class_names)


def _summary_rows(values: dict[str, Any], source: tuple[str, str]) -> list[tuple[str, str]]:
    rows = [
        ("model", printable(values["model"])),
        ("dataset", printable(values["dataset"])),
        source,
    ]
    if values["test_accuracy"] is not None:
        rows.append(("test accuracy", f"{values['test_accuracy']:.2%}"))
    if "top_5_accuracy" in values:
        rows.append(("top-5 accuracy", f"{values['top_5_accuracy']:.2%}"))
    if "balanced_accuracy" in values:
        rows.append(("balanced accuracy", f"{values['balanced_accuracy']:.2%}"))
    return [
        *rows,
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
