"""The parts of an experiment: configurations, a measurement of each, figures, and a conclusion on the claim."""

import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments import claims
from jaxcnn.errors import unknown_name

Budget = Literal["tiny", "small", "full"]
BUDGETS: tuple[Budget, ...] = ("tiny", "small", "full")
"""`tiny` checks in seconds that an experiment runs; `small` takes minutes on two cores; `full` needs an accelerator."""

Config = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """The values measured for one configuration.

    Attributes:
      config: everything that the values depend on except the seeds, as JSON values.
      values: arrays by name. The first axis of a value measured once per seed is the seeds.
      seconds: wall-clock time of the measurement.
    """

    config: Config
    values: dict[str, Any]
    seconds: float

    def __getitem__(self, name: str) -> np.ndarray:
        """Return one of the values as an array, with NaN where a number was not finite."""
        return np.asarray(self.values[name], dtype=float)


@dataclass(frozen=True)
class Conclusion:
    """Whether the measurements confirm a claim, and the numbers behind that in one or two sentences."""

    confirmed: Literal["yes", "partly", "no"]
    text: str


def conclude(parts: Sequence[bool], text: str) -> Conclusion:
    """Return the conclusion on a claim of several parts: "yes" if all hold, "partly" if some do, else "no"."""
    if all(parts):
        return Conclusion("yes", text)
    return Conclusion("partly" if any(parts) else "no", text)


@dataclass(frozen=True)
class Experiment:
    """A claim and the functions that test it.

    Attributes:
      claim: number of the claim, "C1" to "C13".
      configs: `budget -> configurations`. Each configuration names its `dataset`.
      measure: `(config, seeds) -> values`, arrays or numbers by name.
      figures: `measurements -> figures`, matplotlib figures by file name.
      conclusion: `measurements -> Conclusion`.
    """

    claim: str
    configs: Callable[[Budget], list[Config]]
    measure: Callable[[Config, Sequence[int]], dict[str, Any]]
    figures: Callable[[list[Measurement]], dict[str, Any]]
    conclusion: Callable[[list[Measurement]], Conclusion]

    @property
    def module(self) -> types.ModuleType:
        """The module that defines the experiment."""
        return inspect.getmodule(self.measure)  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """The name of the module, without its package."""
        return self.module.__name__.rpartition(".")[2]

    @property
    def title(self) -> str:
        """The claim in words: the first line of the module's docstring."""
        return inspect.getdoc(self.module).partition("\n")[0].rstrip(".")  # type: ignore[union-attr]

    @property
    def text(self) -> str:
        """The rest of the module's docstring: the question, what is varied, what is expected."""
        return inspect.getdoc(self.module).partition("\n")[2].strip()  # type: ignore[union-attr]

    @property
    def source(self) -> str:
        """The code that the values can depend on: the module without its docstring, `figures` and `conclusion`."""
        source = inspect.getsource(self.module)
        for function in (self.figures, self.conclusion):
            source = source.replace(inspect.getsource(function), "")
        return re.sub(r'\A""".*?"""', "", source, flags=re.DOTALL)


def load_experiments() -> dict[str, Experiment]:
    """Return all experiments by name, ordered by the number of their claim."""
    names = [file.name for file in pkgutil.iter_modules(claims.__path__, f"{claims.__name__}.")]
    experiments = [importlib.import_module(name).EXPERIMENT for name in names]
    experiments.sort(key=lambda experiment: int(experiment.claim[1:]))
    return {experiment.name: experiment for experiment in experiments}


def find_experiment(name: str) -> Experiment:
    """Return the experiment with this name, or with this claim ("C4").

    Raises:
      UsageError: no experiment has that name. The message suggests the closest valid one.
    """
    by_name = load_experiments()
    by_claim = {experiment.claim.lower(): experiment for experiment in by_name.values()}
    experiment = by_name.get(name) or by_claim.get(name.lower())
    if experiment is None:
        raise unknown_name("experiment", name, [*by_name, "all"])
    return experiment


def pick(budget: Budget, *, tiny: Any, small: Any, full: Any) -> Any:
    """Return the value for this budget."""
    return {"tiny": tiny, "small": small, "full": full}[budget]


def select(measurements: Sequence[Measurement], order_by: str, **values: Any) -> list[Measurement]:
    """Return the measurements whose configuration has these values, sorted by the field `order_by`."""
    selected = [m for m in measurements if all(m.config[name] == value for name, value in values.items())]
    return sorted(selected, key=lambda m: m.config[order_by])


def standard_deviation(values: np.ndarray) -> float:
    """Return the sample standard deviation over seeds `[S]`; 0 for a single seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def format_mean(values: Any, unit: str = "%", digits: int = 1) -> str:
    """Return the mean and standard deviation over seeds `[S]` as text. Fractions are shown in percent by default.

    >>> format_mean([0.91, 0.93])
    '92.0 ± 1.4 %'
    """
    values = np.asarray(values, dtype=float) * (100 if unit == "%" else 1)
    return f"{values.mean():.{digits}f} ± {standard_deviation(values):.{digits}f} {unit}".rstrip()


def is_above(larger: Any, smaller: Any, margin: float = 2.0) -> bool:
    """Return whether one mean over seeds exceeds another by more than `margin` standard errors of their difference.

    >>> is_above([0.91, 0.92, 0.93], [0.80, 0.81, 0.82]), is_above([0.91, 0.92, 0.93], [0.90, 0.92, 0.93])
    (True, False)
    """
    a, b = np.asarray(larger, dtype=float), np.asarray(smaller, dtype=float)
    variance = sum(standard_deviation(x) ** 2 / len(x) for x in (a, b))
    return bool(a.mean() - b.mean() > margin * np.sqrt(variance))
