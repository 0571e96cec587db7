"""Schedules: the learning rate as a function of the step."""

from collections.abc import Callable
from typing import Any

import optax

from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.train.config import ScheduleConfig


def staircase(config: ScheduleConfig, peak: float, steps: int, warmup: int) -> optax.Schedule:
    """Multiplies the learning rate by `config.factor` at each of `config.milestones`, shares of the whole run."""
    boundaries = [round(milestone * (steps + warmup)) - warmup for milestone in config.milestones]
    if boundaries[0] < 1:
        raise UsageError(
            f"schedule.milestones: {config.milestones[0]:g} of the run is not behind its warm-up of {warmup} steps"
        )
    # A run of few steps may reach two milestones at once.
    scales = {boundary: config.factor ** boundaries.count(boundary) for boundary in boundaries}
    return optax.piecewise_constant_schedule(peak, scales)


# Each takes the configuration, the highest learning rate, the steps behind the warm-up and those of the warm-up, and
# returns a function of the step, counted from the end of the warm-up.
SCHEDULES: dict[str, Callable[[ScheduleConfig, float, int, int], optax.Schedule]] = {
    "constant": lambda config, peak, steps, warmup: optax.constant_schedule(peak),
    "step": staircase,
    # Loshchilov and Hutter, SGDR, 2016, equation 5, without restarts.
    "cosine": lambda config, peak, steps, warmup: optax.cosine_decay_schedule(peak, steps, config.end_factor),
    "linear": lambda config, peak, steps, warmup: optax.linear_schedule(peak, config.end_factor * peak, steps),
    "polynomial": lambda config, peak, steps, warmup: optax.polynomial_schedule(
        peak, config.end_factor * peak, config.power, steps
    ),
    # Smith and Topin, Super-Convergence, 2017, with cosines for lines: up from a 25th to the peak in 30 % of the run,
    # and down to a 10,000th of where it began.
    "onecycle": lambda config, peak, steps, warmup: optax.cosine_onecycle_schedule(steps, peak),
}


def make_schedule(config: ScheduleConfig, learning_rate: float, steps: int, steps_per_epoch: float) -> optax.Schedule:
    """The schedule of a run of `steps` updates, after a linear warm-up from 0 if there is one.

    Raises:
      UsageError: an unknown name, a warm-up that does not end before the run, or milestones that it covers.
    """
    if config.name not in SCHEDULES:
        raise unknown_name("schedule", config.name, SCHEDULES)
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup >= steps:
        raise UsageError(f"schedule.warmup_epochs: a warm-up of {warmup} steps leaves none of the run's {steps}")
    after = SCHEDULES[config.name](config, learning_rate, steps - warmup, warmup)
    if not warmup:
        return after
    first: Any = after(0)
    return optax.join_schedules([optax.linear_schedule(0.0, first, warmup), after], [warmup])
