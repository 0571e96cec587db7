"""Learning-rate finder: a short run with a growing learning rate, which shows the loss against the learning rate.

Source: Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017, section 3.3. In contrast to the paper, the
learning rate grows geometrically, to cover several orders of magnitude.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.data import Dataset
from jaxcnn.errors import RunError, UsageError
from jaxcnn.train.config import Config
from jaxcnn.train.parts import CustomParts, build_optimizer
from jaxcnn.train.runtime.data_identity import with_name_of_data
from jaxcnn.train.runtime.plan import Plan, make_plan
from jaxcnn.train.runtime.workdir import write_json

# The run ends early if the smoothed loss exceeds this multiple of its minimum.
EXPLODED = 4.0
# Decay of the moving average of the loss.
SMOOTHING = 0.9
# The suggested learning rate is this fraction of the learning rate with the lowest smoothed loss. Slightly above that
# learning rate, training diverges.
SAFETY = 1 / 3
# A fall of the loss is significant if it exceeds this multiple of its standard error. Without any fall, the lowest of
# 100 correlated losses is rarely more than 3 standard errors below their mean.
SIGNIFICANT = 5.0
# Limits of the number of steps and of the learning rates, which are float32 in a step.
MAX_STEPS, SMALLEST, LARGEST = 100_000, 1e-30, 1e30
# Number of validation examples whose loss is computed after each step.
VALIDATION_EXAMPLES = 500


@dataclass(frozen=True)
class LearningRateFinderResult:
    """Learning-rate finder result: the loss and the learning rate of each step.

    Attributes:
      learning_rates: learning rate of each step, increasing.
      losses: loss after each step: the mean over the step's batch, or over validation examples if the run has a
        validation set.
      smoothed: moving average of the losses.
      suggestion: suggested learning rate, a third of the learning rate with the lowest smoothed loss. None if the loss
        does not fall by more than its noise.

    >>> found = LearningRateFinderResult((0.01, 0.1, 1.0), (2.3, 1.8, 9.0), (2.3, 2.0, 4.1), suggestion=0.1 / 3)
    >>> round(found.suggestion, 3)
    0.033
    """

    learning_rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None

    def save(self, folder: Path, title: str) -> None:
        """Write `find_lr.json` and `find_lr.png` to a directory. Create the directory if it does not exist.

        Raises:
          UsageError: if the directory cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "find_lr.json", dataclasses.asdict(self))
            self._draw(title, folder / "find_lr.png")
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error.strerror}") from error

    def _draw(self, title: str, path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained", dpi=120)
        axes = figure.subplots()
        axes.plot(self.learning_rates, self.losses, ".", ms=4, alpha=0.4, label="each step")
        axes.plot(self.learning_rates, self.smoothed, lw=2, label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="tab:green", ls="--", label=f"suggested: {self.suggestion:.2g}")
        # The losses of the last steps may be so large that the rest of the curve would look flat.
        low, high = min(self.losses), max(self.losses[: len(self.losses) // 2])
        axes.set_ylim(low - 0.1 * (high - low), high + 0.2 * (high - low))
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss (nats)", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path)


def find_learning_rate(
    config: Config,
    *,
    steps: int = 100,
    lowest: float = 1e-6,
    highest: float = 10.0,
    data: Dataset | None = None,
    **custom: Any,
) -> LearningRateFinderResult:
    """Train for some steps with a growing learning rate, and suggest a learning rate.

    If the run has a validation set, the losses are computed on its first `VALIDATION_EXAMPLES` examples after each
    step. Without a validation set, the losses are computed on the batch of each step.

    Args:
      config: configuration of the run. The fields for the learning rate, its schedule, epochs and steps are not used.
      steps: number of steps to make, from 20 to 100,000.
      lowest: learning rate of the first step.
      highest: learning rate of the last step.
      data: your own dataset, in place of the dataset that `config.dataset` names.
      custom: keyword arguments of `fit`, such as your own model, task, loss or optimizer. A custom optimizer must be a
        function `schedule -> transformation`.

    Raises:
      UsageError: if an argument or a value of the configuration is not valid.
      RunError: if the loss is not finite within the first tenth of the steps.
    """
    if steps < 20:
        raise UsageError(f"steps must be at least 20 for the learning-rate finder, got {steps}")
    if steps > MAX_STEPS:
        raise UsageError(f"steps must be at most {MAX_STEPS}, got {steps}")
    if not 0 < lowest < highest < math.inf:
        raise UsageError(f"learning rates must be positive and increasing, got {lowest} to {highest}")
    if lowest < SMALLEST or highest > LARGEST:
        raise UsageError(f"learning rates must be from {SMALLEST} to {LARGEST}, got {lowest} to {highest}")
    config = with_name_of_data(config, data)
    parts = CustomParts(**custom)
    plan = make_plan(dataclasses.replace(config, steps=steps, epochs=Config.epochs), parts, data=data)
    factor = (highest / lowest) ** (1 / (steps - 1))
    rates = [lowest * factor**step for step in range(steps)]
    steps_per_epoch = plan.dataset.examples["train"] / plan.batch_size
    optimizer = build_optimizer(config, parts, lambda step: lowest * factor**step, steps_per_epoch)
    plan = dataclasses.replace(plan, optimizer=optimizer)
    train_step = plan.compile_train_step()
    state = plan.parallel.place_state(plan.initial_state())

    validation_loss = _validation_loss(plan) if plan.held_out == "validation" else None

    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    for batch in itertools.islice(plan.pipeline.batches(place=plan.parallel.place_batch), steps):
        state, sums = train_step(state, batch)
        loss = plan.summarize(jax.device_get(sums))["loss"] if validation_loss is None else validation_loss(state)
        if not math.isfinite(loss):
            break
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        losses.append(loss)
        smoothed.append(average / (1 - SMOOTHING ** len(losses)))
        if smoothed[-1] > EXPLODED * min(smoothed):
            break
    if len(losses) < steps // 10:
        raise RunError(f"the loss is not finite from step {len(losses) + 1} on, at a learning rate of {rates[0]:.2g}")
    suggestion = SAFETY * rates[int(np.argmin(smoothed))] if falls(losses, smoothed) else None
    return LearningRateFinderResult(tuple(rates[: len(losses)]), tuple(losses), tuple(smoothed), suggestion)


def _validation_loss(plan: Plan) -> Callable[[Any], float]:
    """Return a function that computes the mean loss of a state on at most `VALIDATION_EXAMPLES` validation examples."""
    devices = len(plan.parallel.devices)
    size = -(-min(VALIDATION_EXAMPLES, plan.dataset.examples["validation"]) // devices) * devices
    batch = next(iter(plan.pipeline.evaluation_batches(size, place=plan.parallel.place_batch, split="validation")))
    step = plan.compile_eval_step()
    return lambda state: plan.summarize(jax.device_get(step(state, batch)))["loss"]


def falls(losses: Sequence[float], smoothed: Sequence[float]) -> bool:
    """Return whether the lowest smoothed loss is significantly below the mean loss of the first steps.

    Args:
      losses: loss of each step, at growing learning rates.
      smoothed: moving average of the losses.
    """
    end = int(np.argmin(smoothed)) + 1
    first = np.asarray(losses[: max(5, len(losses) // 10)])
    # Estimate the noise from differences of successive losses, since the mean loss changes. The median ignores
    # outliers.
    noise = 1.4826 * np.median(np.abs(np.diff(losses[: max(end, len(first))]))) / math.sqrt(2)
    variance_of_average = (1 - SMOOTHING) / (1 + SMOOTHING) * (1 + SMOOTHING**end) / (1 - SMOOTHING**end)
    error = noise * math.sqrt(variance_of_average + 1 / len(first))
    return bool(first.mean() - smoothed[end - 1] > SIGNIFICANT * error)
