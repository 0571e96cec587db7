"""Learning rate schedules: the learning rate as a function of the step."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxcnn.errors import UsageError
from jaxcnn.train.config import ScheduleConfig
from jaxcnn.train.registry import Registry, keywords_of

Peak = float | jax.Array
"""Peak learning rate: a number, or a scalar array, also within a compiled program."""


def constant(peak: Peak, steps: int) -> optax.Schedule:
    """Return `peak` at every step."""
    return optax.constant_schedule(peak)


def staircase(peak: Peak, steps: int, *, warmup: int, milestones: tuple[float, ...], factor: float) -> optax.Schedule:
    """Multiply the learning rate by `factor` at each milestone, a fraction of the whole run with its warm-up."""
    boundaries = [round(milestone * (steps + warmup)) - warmup for milestone in milestones]
    if boundaries[0] < 1:
        raise UsageError(f"schedule.milestones: {milestones[0]:g} of the run is within its warm-up of {warmup} steps")
    # In a run of few steps, two milestones may fall on the same step.
    scales = {boundary: factor ** boundaries.count(boundary) for boundary in boundaries}
    return optax.piecewise_constant_schedule(peak, scales)


def cosine(peak: Peak, steps: int, *, end_factor: float) -> optax.Schedule:
    """Decay along half a cosine (Loshchilov and Hutter, *SGDR*, 2016, equation 5, without restarts)."""
    return optax.cosine_decay_schedule(peak, steps, end_factor)


def linear(peak: Peak, steps: int, *, end_factor: float) -> optax.Schedule:
    """Decay linearly to `end_factor * peak`."""
    return optax.linear_schedule(peak, end_factor * peak, steps)


def polynomial(peak: Peak, steps: int, *, end_factor: float, power: float) -> optax.Schedule:
    """Decay to `end_factor * peak` as `(1 - step / steps) ** power`."""
    return optax.polynomial_schedule(peak, end_factor * peak, power, steps)


def onecycle(peak: Peak, steps: int) -> optax.Schedule:
    """Rise from peak / 25 to the peak in 30 % of the run, then decay to a 10,000th of the start.

    Smith and Topin, *Super-Convergence*, 2017, with cosines instead of lines.
    """
    if not isinstance(peak, jax.Array):
        return optax.cosine_onecycle_schedule(steps, peak)
    # Optax computes the corners of the curve with NumPy, which takes no array of a compiled program.
    unit: Any = optax.cosine_onecycle_schedule(steps, 1.0)
    return lambda step: peak * unit(step)


def triangle(peak: Peak, steps: int, *, start_factor: float, peak_at: float, end_factor: float) -> optax.Schedule:
    """Rise linearly from `start_factor * peak` to the peak, then fall linearly to `end_factor * peak`.

    One cycle of Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017, section 3.1. The defaults, and an
    `end_factor` of 0.07, are those of Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024.
    """
    rise = int(peak_at * steps)
    falling = optax.linear_schedule(peak, end_factor * peak, steps - rise)
    if not rise:
        return falling
    return optax.join_schedules([optax.linear_schedule(start_factor * peak, peak, rise), falling], [rise])


# Each entry takes the peak learning rate and the number of steps after the warm-up. Its keyword-only arguments are
# fields of `ScheduleConfig`, and `warmup`, the number of steps before. The schedule counts steps from the end of the
# warm-up.
SCHEDULES: Registry[Callable[..., optax.Schedule]] = Registry(
    "schedule",
    {
        "constant": constant,
        "step": staircase,
        "cosine": cosine,
        "linear": linear,
        "polynomial": polynomial,
        "onecycle": onecycle,
        "triangle": triangle,
    },
)


def make_schedule(config: ScheduleConfig, learning_rate: Peak, steps: int, steps_per_epoch: float) -> optax.Schedule:
    """Return the schedule of a run of `steps` steps, after a linear warm-up from 0 if the configuration has one.

    Args:
      config: names the schedule.
      learning_rate: the peak.
      steps: number of steps of the run, with the warm-up.
      steps_per_epoch: number of steps in an epoch.

    Raises:
      UsageError: if the name is unknown, the warm-up covers the whole run, or it covers a milestone.

    >>> schedule = make_schedule(ScheduleConfig("cosine"), learning_rate=0.1, steps=100, steps_per_epoch=10)
    >>> [round(float(schedule(step)), 6) for step in (0, 50, 100)]
    [0.1, 0.05, 0.0]
    """
    schedule = SCHEDULES.find(config.name)
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup >= steps:
        raise UsageError(f"schedule.warmup_epochs: a warm-up of {warmup} steps leaves none of the run's {steps}")
    available = {**vars(config), "warmup": warmup}
    keywords = {name: available[name] for name in keywords_of(schedule) if name in available}
    after = schedule(learning_rate, steps - warmup, **keywords)
    if not warmup:
        return after
    with jax.transfer_guard("allow"):  # Optax computes with Python numbers, also where a program forbids transfers
        first: Any = after(0)
    return optax.join_schedules([optax.linear_schedule(0.0, first, warmup), after], [warmup])
