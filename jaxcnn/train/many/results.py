"""Results of `fit_many`: the result of each network, and the statistics of each setting over its seeds."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.train.config import Config, to_dict
from jaxcnn.train.many.names import describe, differing, fields_of

CONFIDENCE = 0.95
"""Confidence level of the interval of a mean."""

PERCENT = ("accuracy", "top", "precision", "recall", "f1")
"""A metric is shown in percent if its name contains one of these texts."""


@dataclass(frozen=True)
class NetworkResult:
    """The result of one network.

    Attributes:
      name: name of the network's run directory.
      config: configuration of the network.
      workdir: run directory of the network, which `load_run` and `evaluate` accept.
      values: all values in the network's `result.json`; empty if the network diverged.
      diverged: why the network diverged, or None if it did not diverge.
    """

    name: str
    config: Config
    workdir: Path
    values: dict[str, Any]
    diverged: str | None = None

    @property
    def test_accuracy(self) -> float:
        """Fraction of the test examples that the network classifies correctly; NaN if the network diverged."""
        return self.metric("accuracy")

    @property
    def test_loss(self) -> float:
        """Mean test loss; NaN if the network diverged."""
        return self.metric("loss")

    def metric(self, name: str) -> float:
        """Return a test metric, such as "loss"; NaN if the network diverged or the metric is not a single number."""
        value = self.values.get("metrics", {}).get(name)
        return float(value) if _is_number(value) else math.nan


@dataclass(frozen=True)
class Statistic:
    """Statistics of a metric over the networks of a setting that did not diverge.

    Attributes:
      values: the metric of each network; NaN if the network diverged.
    """

    values: tuple[float, ...]

    @cached_property
    def finite(self) -> np.ndarray:
        """The values of the networks that did not diverge, float64 `[N]`."""
        values = np.asarray(self.values, np.float64)
        return values[~np.isnan(values)]

    @property
    def mean(self) -> float:
        """Mean over the networks that did not diverge; NaN if all networks diverged."""
        return float(self.finite.mean()) if len(self.finite) else math.nan

    @property
    def std(self) -> float:
        """Sample standard deviation, with n - 1 in the denominator for n networks; NaN for fewer than two networks."""
        return float(self.finite.std(ddof=1)) if len(self.finite) > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the mean, from Student's t distribution; NaN for fewer than two networks."""
        count = len(self.finite)
        if count < 2:
            return math.nan, math.nan
        from scipy.special import stdtrit  # the quantile of Student's t distribution

        half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * self.std / math.sqrt(count)
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Setting:
    """Networks that differ only in their seeds.

    Attributes:
      name: the fields in which settings differ, such as "optimizer.learning_rate=0.1". "all" if there is only one
        setting.
      runs: results of the networks, one for each seed.
    """

    name: str
    runs: tuple[NetworkResult, ...]

    @property
    def config(self) -> Config:
        """Configuration of the first network of this setting."""
        return self.runs[0].config

    @property
    def diverged(self) -> int:
        """Number of networks that diverged."""
        return sum(run.diverged is not None for run in self.runs)

    def statistic(self, metric: str) -> Statistic:
        """Return the statistics of a metric of the test set, such as "accuracy"."""
        return Statistic(tuple(run.metric(metric) for run in self.runs))


@dataclass(frozen=True)
class Results:
    """The results of `fit_many`.

    Attributes:
      workdir: directory that contains all run directories, `sweep.json` and `sweep.png`.
      runs: the result of each network, in the order of the configurations.
      how: how the networks were trained: "together", "turns" or "processes".
      seconds: wall-clock time of the sweep in seconds, including the time before the sweep was resumed.

    >>> runs = [
    ...     NetworkResult(f"seed={seed}", Config(seed=seed), Path("sweep"), {"metrics": {"accuracy": accuracy}})
    ...     for seed, accuracy in enumerate((0.90, 0.92, 0.91))
    ... ]
    >>> results = Results(Path("sweep"), tuple(runs), how="together", seconds=12.0)
    >>> print(results.table())
    setting  metric            mean     std       95 % interval  networks
    -------  -------------  -------  ------  ------------------  --------
    all      test accuracy  91.00 %  1.00 %  88.52 % to 93.48 %         3
    """

    workdir: Path
    runs: tuple[NetworkResult, ...]
    how: str
    seconds: float

    @property
    def configs(self) -> tuple[Config, ...]:
        """Configuration of each network."""
        return tuple(run.config for run in self.runs)

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """The settings, in the order of the configurations. Networks that differ only in their seeds form a setting."""
        names = [name for name in differing(self.configs) if name != "seed"]
        members: dict[str, list[NetworkResult]] = {}
        for run in self.runs:
            members.setdefault(describe(run.config, names) or "all", []).append(run)
        return tuple(Setting(name, tuple(runs)) for name, runs in members.items())

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all test metrics that are single numbers: first "accuracy" and "loss", then all other metrics."""
        found = [(name, x) for run in self.runs for name, x in run.values.get("metrics", {}).items()]
        names = dict.fromkeys(name for name, value in found if _is_number(value))
        usual = ("accuracy", "loss")
        return tuple(sorted(names, key=lambda name: usual.index(name) if name in usual else len(usual)))

    def table(self) -> str:
        """Return a table as text: mean, standard deviation and 95 % confidence interval of each metric and setting."""
        header = ("setting", "metric", "mean", "std", "95 % interval", "networks")
        rows = [row for setting in self.settings for row in self._table_rows(setting)]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

        def line(row: Sequence[str]) -> str:
            cells = [
                cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            return "  ".join(cells).rstrip()

        return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])

    def _table_rows(self, setting: Setting) -> Iterator[tuple[str, ...]]:
        networks = f"{len(setting.runs)}" + (f" ({setting.diverged} diverged)" if setting.diverged else "")
        for index, metric in enumerate(self.metrics or ("accuracy",)):
            found = setting.statistic(metric)
            low, high = (format_metric(metric, x) for x in found.interval)
            interval = "" if math.isnan(found.interval[0]) else f"{low} to {high}"
            std = "" if math.isnan(found.std) else format_metric(metric, found.std)
            first = (setting.name, networks) if index == 0 else ("", "")
            yield (
                first[0],
                f"test {metric.replace('_', ' ')}",
                format_metric(metric, found.mean),
                std,
                interval,
                first[1],
            )

    def to_json(self) -> dict[str, Any]:
        """Return the content of `sweep.json`: the statistics of each setting, and the metrics of each network.

        Statistics and metrics that are NaN, such as the metrics of a network that diverged, are None.
        """
        return {
            "how": self.how,
            "seconds": self.seconds,
            "finished": all(run.values or run.diverged for run in self.runs),
            "settings": [self._setting_json(setting) for setting in self.settings],
            "runs": [_run_json(run) for run in self.runs],
        }

    def _setting_json(self, setting: Setting) -> dict[str, Any]:
        fields, names = fields_of(setting.config), [n for n in differing(self.configs) if n != "seed"]
        return {
            "name": setting.name,
            "fields": {name: fields.get(name) for name in names},
            "seeds": [run.config.seed for run in setting.runs],
            "diverged": setting.diverged,
            "metrics": {metric: _statistic_json(setting.statistic(metric)) for metric in self.metrics},
        }


def _statistic_json(found: Statistic) -> dict[str, Any]:
    numbers = {"mean": found.mean, "std": found.std, "low": found.interval[0], "high": found.interval[1]}
    return {name: _number(x) for name, x in numbers.items()} | {"values": [_number(x) for x in found.values]}


def _run_json(run: NetworkResult) -> dict[str, Any]:
    return {
        "name": run.name,
        "workdir": str(run.workdir),
        "diverged": run.diverged,
        "metrics": {name: value for name, value in run.values.get("metrics", {}).items() if _is_number(value)},
        "config": to_dict(run.config),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(x: float) -> float | None:
    return x if math.isfinite(x) else None


def format_metric(name: str, value: float) -> str:
    """Return a metric as text. Metrics whose name contains a text in `PERCENT` are shown in percent.

    >>> format_metric("accuracy", 0.8512), format_metric("loss", 0.41234), format_metric("loss", float("nan"))
    ('85.12 %', '0.4123', 'NaN')
    """
    if math.isnan(value):
        return "NaN"
    return f"{100 * value:.2f} %" if any(part in name for part in PERCENT) else f"{value:.4f}"
