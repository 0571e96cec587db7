"""What an experiment is: configurations, a measurement of each, figures, and what they say of the claim."""

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
"""`tiny` shows in seconds that an experiment runs, `small` is for two cores and minutes, `full` for an accelerator."""

Config = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What was measured for one configuration.

    Attributes:
      config: all that the values depend on but the seeds, as JSON holds it.
      values: arrays by name; where something was measured for each seed, the first axis is the seeds.
      seconds: how long it took.
    """

    config: Config
    values: dict[str, Any]
    seconds: float

    def __getitem__(self, name: str) -> np.ndarray:
        """An array of the values; a number that was not finite is NaN."""
        return np.asarray(self.values[name], dtype=float)


@dataclass(frozen=True)
class Finding:
    """Whether a claim was seen, and the sentence that says so by the numbers."""

    seen: Literal["yes", "partly", "no"]
    text: str


def judge(shown: Sequence[bool], text: str) -> Finding:
    """The finding on a claim of several parts: "yes" if all of them were shown, "partly" if some were."""
    return Finding("yes" if all(shown) else "partly" if any(shown) else "no", text)


@dataclass(frozen=True)
class Experiment:
    """A claim and how it is put to the test.

    Attributes:
      claim: its number, "C1" to "C13".
      configs: what is varied, for a budget; each names its `dataset`.
      measure: `(config, seeds) -> values`, arrays or numbers by name.
      figures: `records -> figures`, matplotlib figures by the name of their file.
      finding: what the records say of the claim.
    """

    claim: str
    configs: Callable[[Budget], list[Config]]
    measure: Callable[[Config, Sequence[int]], dict[str, Any]]
    figures: Callable[[list[Record]], dict[str, Any]]
    finding: Callable[[list[Record]], Finding]

    @property
    def module(self) -> types.ModuleType:
        return inspect.getmodule(self.measure)  # type: ignore[return-value]

    @property
    def name(self) -> str:
        return self.module.__name__.rpartition(".")[2]

    @property
    def title(self) -> str:
        """The claim itself: the first line of the file."""
        return inspect.getdoc(self.module).partition("\n")[0].rstrip(".")  # type: ignore[union-attr]

    @property
    def text(self) -> str:
        """What the file says before its code: the question, what is varied, what is expected."""
        return inspect.getdoc(self.module).partition("\n")[2].strip()  # type: ignore[union-attr]

    @property
    def source(self) -> str:
        """The code that values depend on: without the docstring, the figures and the finding."""
        whole = inspect.getsource(self.module)
        for drawn in (self.figures, self.finding):
            whole = whole.replace(inspect.getsource(drawn), "")
        return re.sub(r'\A""".*?"""', "", whole, flags=re.DOTALL)


def load_experiments() -> dict[str, Experiment]:
    """All experiments by name, in the order of their claims."""
    modules = [importlib.import_module(f.name) for f in pkgutil.iter_modules(claims.__path__, f"{claims.__name__}.")]
    found = sorted((module.EXPERIMENT for module in modules), key=lambda e: int(e.claim[1:]))
    return {experiment.name: experiment for experiment in found}


def find_experiment(name: str) -> Experiment:
    """The experiment of this name, or of this claim ("C4").

    Raises:
      UsageError: there is none; the nearest name is told.
    """
    known = load_experiments()
    by_claim = {experiment.claim.lower(): experiment for experiment in known.values()}
    experiment = known.get(name) or by_claim.get(name.lower())
    if experiment is None:
        raise unknown_name("experiment", name, [*known, "all"])
    return experiment


def pick(budget: Budget, *, tiny: Any, small: Any, full: Any) -> Any:
    """One of three values, by budget."""
    return {"tiny": tiny, "small": small, "full": full}[budget]


def where(records: Sequence[Record], by: str, **values: Any) -> list[Record]:
    """The records whose configuration has these values, in the order of what is varied, `by`."""
    found = [record for record in records if all(record.config[name] == value for name, value in values.items())]
    return sorted(found, key=lambda record: record.config[by])


def deviation(values: np.ndarray) -> float:
    """Standard deviation over seeds (one dimension), and 0 where there is but one."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def spread(values: Any, unit: str = "%", digits: int = 1) -> str:
    """Mean and standard deviation over seeds (the last axis of one dimension), in words.

    >>> spread([0.91, 0.93])
    '92.0 ± 1.4 %'
    """
    values = np.asarray(values, dtype=float) * (100 if unit == "%" else 1)
    return f"{values.mean():.{digits}f} ± {deviation(values):.{digits}f} {unit}".rstrip()


def is_above(larger: Any, smaller: Any, margin: float = 2.0) -> bool:
    """Whether one mean over seeds is above another by more than `margin` standard errors of their difference.

    >>> is_above([0.91, 0.92, 0.93], [0.80, 0.81, 0.82]), is_above([0.91, 0.92, 0.93], [0.90, 0.92, 0.93])
    (True, False)
    """
    a, b = np.asarray(larger, dtype=float), np.asarray(smaller, dtype=float)
    variance = sum(deviation(x) ** 2 / len(x) for x in (a, b))
    return bool(a.mean() - b.mean() > margin * np.sqrt(variance))
