"""Test accuracy of training in bfloat16, compared with float32 over several seeds.

    python -m benchmarks.precision.accuracy [--models lenet5,resnet20_cifar,vgg11_bn] [--seeds 5] [--epochs 2]
                                            [--dtypes float32,bfloat16] [--dataset cifar10 --data-dir DIR]

`jaxcnn.train.fit_many` trains each network with the default recipe of `jaxcnn train`. Networks of one seed have equal
initial parameters, data order and augmentation in every dtype. `vgg11_bn` has its stem for small images. The default
dataset is the part of Fashion-MNIST that is inside the package.

The first dtype is the baseline. For every other dtype, a row has the mean difference of the test accuracy from the
baseline, and its 95 % confidence interval: Student's t over the differences of each seed. The verdict is

- "within the spread" if the interval contains 0, or if the absolute mean difference is below the standard deviation of
  the baseline over its seeds;
- "outside the spread" otherwise;
- "diverged" if a network diverged in one dtype, and "unknown" for fewer than two seeds.

A wide interval contains 0 even if there is a difference: the verdict says what this number of seeds can show, and the
interval says how large a difference they would miss.

To resume after a stop, repeat the command: a finished network is not trained again while its run directory in `--runs`
is there. Remove that folder after a change of the code, or choose another one. Checkpoints of finished networks are
removed. Rows of other models, datasets and numbers of steps in `--out` are kept.
"""

import argparse
import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, write
from benchmarks.suite import words
from jaxcnn import startup
from jaxcnn.errors import unknown_name
from jaxcnn.measure.probes import machine
from jaxcnn.train import Config, fit_many
from jaxcnn.train.many import Setting, Statistic

TITLE = "Accuracy of training by dtype"

MODELS: dict[str, tuple[tuple[str, ...], float]] = {
    "lenet5": ((), 10.0),
    "resnet20_cifar": ((), 4.0),
    "vgg11_bn": (("stem=cifar",), 2.0),
}
"""Options and epochs of each model. Together, ten networks of each take about ten minutes on two CPU cores."""

WITHIN, OUTSIDE, DIVERGED, UNKNOWN = "within the spread", "outside the spread", "diverged", "unknown"


def configurations(model: str, arguments: argparse.Namespace) -> list[Config]:
    """Return the configuration of a model for each dtype."""
    options, epochs = MODELS[model]
    epochs = Config.epochs if arguments.steps else arguments.epochs or epochs
    return [
        Config(
            model=model,
            model_options=options,
            dataset=arguments.dataset,
            data_dir=arguments.data_dir,
            batch_size=arguments.batch_size,
            steps=arguments.steps,
            epochs=epochs,
            dtype=dtype,
            progress=False,
        )
        for dtype in arguments.dtypes
    ]


def folder_name(config: Config) -> str:
    """Return a name for the run directories of a model, which differs where the recipe differs.

    >>> folder_name(Config(steps=100))
    'lenet5-fashion_mnist_mini-batch64-100steps'
    """
    dataset = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in config.dataset)
    length = f"{config.steps}steps" if config.steps else f"{config.epochs:g}epochs"
    return f"{config.model}-{dataset}-batch{config.batch_size}-{length}"


def train(configs: list[Config], seeds: Sequence[int], runs: Path) -> list[dict[str, Any]]:
    """Train a network for each configuration and seed, and return a row for each configuration.

    Args:
      configs: configurations of one model, which differ in dtype. The first one is the baseline.
      seeds: the seeds.
      runs: folder of the run directories.
    """
    results = fit_many(configs, seeds=seeds, workdir=runs / folder_name(configs[0]))
    for run in results.runs:
        shutil.rmtree(run.workdir / "checkpoints", ignore_errors=True)
    baseline = results.settings[0]
    return [row(setting, baseline) for setting in results.settings]


def row(setting: Setting, baseline: Setting) -> dict[str, Any]:
    """Return the row of a setting: its accuracies, and how they differ from the baseline's."""
    config, accuracy = setting.config, setting.statistic("accuracy")
    finished = next((run.values for run in setting.runs if run.values), {})
    found = {
        "model": config.model,
        "dataset": config.dataset,
        "batch_size": config.batch_size,
        "length": f"{config.steps} steps" if config.steps else f"{config.epochs:g} epochs",
        "dtype": config.dtype,
        "steps": finished.get("steps"),
        "test_examples": finished.get("test_examples"),
        "versions": finished.get("versions"),
        "seeds": [run.config.seed for run in setting.runs],
        "test_accuracy": list(accuracy.values),
        "test_loss": list(setting.statistic("loss").values),
        "mean": accuracy.mean,
        "std": accuracy.std,
        "diverged": setting.diverged,
    }
    if setting is not baseline:
        of_baseline = baseline.statistic("accuracy")
        difference = differences(accuracy, of_baseline)
        low, high = difference.interval
        found |= {"difference": difference.mean, "low": low, "high": high, "baseline": baseline.config.dtype}
        found["verdict"] = DIVERGED if setting.diverged or baseline.diverged else verdict(difference, of_baseline)
    return {name: _json_value(value) for name, value in found.items()}


def differences(accuracy: Statistic, baseline: Statistic) -> Statistic:
    """Return the statistics of the differences of each seed."""
    return Statistic(tuple(a - b for a, b in zip(accuracy.values, baseline.values, strict=True)))


def verdict(difference: Statistic, baseline: Statistic) -> str:
    """Return the verdict, by the rule above, for networks that did not diverge."""
    low, high = difference.interval
    if math.isnan(low):
        return UNKNOWN
    return WITHIN if low <= 0.0 <= high or abs(difference.mean) < baseline.std else OUTSIDE


def _json_value(value: Any) -> Any:
    """Return NaN, which JSON does not have, as None."""
    if isinstance(value, list):
        return [_json_value(x) for x in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def merged(earlier: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the earlier rows of other networks, followed by the new rows."""

    def network(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in ("model", "dataset", "batch_size", "length"))

    replaced = {network(row) for row in new}
    return [row for row in earlier if network(row) not in replaced] + new


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the rows in a folder of results; none if there is no file."""
    file = folder / "rows.json"
    return json.loads(file.read_text())["rows"] if file.exists() else []


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "Accuracies in percent, differences in percentage points. The verdict's rule is in "
        "`benchmarks/precision/accuracy.py`.\n",
        "| model | dataset | steps x batch | dtype | test accuracy of each seed | mean | std "
        "| difference (95 % interval) | verdict |",
        "| --- | --- | ---: | --- | --- | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        accuracies = ", ".join(_percent(x) for x in row["test_accuracy"])
        difference = ""
        if row.get("difference") is not None:
            difference = _percent(row["difference"], "+")
            if row["low"] is not None:
                difference += f" ({_percent(row['low'], '+')} to {_percent(row['high'], '+')})"
        lines.append(
            f"| {row['model']} | {row['dataset']} | {row['steps']} x {row['batch_size']} | {row['dtype']} "
            f"| {accuracies} | {_percent(row['mean'])} | {_percent(row['std'])} | {difference} "
            f"| {row.get('verdict', 'baseline')} |"
        )
    return "\n".join(lines) + "\n"


def _percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{100 * value:{sign}.2f}"


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=words, default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0 (default: %(default)s)")
    parser.add_argument("--dtypes", type=words, default="float32,bfloat16", help="the first one is the baseline")
    epochs = ", ".join(f"{model} {epochs:g}" for model, (_, epochs) in MODELS.items())
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=float, help=f"epochs of each network (default: {epochs})")
    length.add_argument("--steps", type=int, help="steps of each network, instead of epochs")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step (default: %(default)s)")
    parser.add_argument("--dataset", default="fashion_mnist_mini", help="default: %(default)s")
    parser.add_argument("--data-dir", help="folder of prepared datasets (default: that of `jaxcnn train`)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/precision"), help="folder for run directories (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "precision" / "accuracy", help="folder for the results")
    arguments = parser.parse_args(args)
    for model in arguments.models:
        if model not in MODELS:
            parser.error(str(unknown_name("model", model, MODELS)))
    rows = read(arguments.out)
    for model in arguments.models:
        print(f"{model}: {', '.join(arguments.dtypes)} with {arguments.seeds} seeds", file=sys.stderr, flush=True)
        found = train(configurations(model, arguments), range(arguments.seeds), arguments.runs)
        for row in found:
            print(f"  {row['dtype']}: {_percent(row['mean'])} % {row.get('verdict', '')}", file=sys.stderr, flush=True)
        rows = merged(rows, found)
        write(arguments.out, TITLE, rows, to_markdown(rows), machine=machine.describe(arguments.dtypes[-1]))
    print(to_markdown(rows))
    return 0


if __name__ == "__main__":
    startup.settle()
    sys.exit(main())
