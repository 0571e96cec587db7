"""Learning rate schedules: the learning rate as a function of the step."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxcnn.errors import UsageError
from jaxcnn.train.config import ScheduleConfig
from jaxcnn.train.registry import Registry, keywords_of

Peak = float | jax.Array
"""Peak learning rate: a number, or a scalar array, which JAX may trace."""


def constant(peak: Peak, steps: int) -> optax.Schedule:
    """Return a schedule with the constant learning rate `peak`."""
    return optax.constant_schedule(peak)


def staircase(peak: Peak, steps: int, *, warmup: int, milestones: tuple[float, ...], factor: float) -> optax.Schedule:
    """Return a schedule that multiplies the learning rate by `factor` at each milestone.

    A milestone is a fraction of the whole run, including the warm-up.
    """
    boundaries = [round(milestone * (steps + warmup)) - warmup for milestone in milestones]
    if boundaries[0] < 1:
        raise UsageError(
            f"schedule.milestones: milestone {milestones[0]:g} is within the warm-up of {warmup} steps. Use a later "
            "milestone, or a shorter warm-up."
        )
    # In a short run, two milestones may fall on the same step.
    scales = {boundary: factor ** boundaries.count(boundary) for boundary in boundaries}
    return optax.piecewise_constant_schedule(peak, scales)


def cosine(peak: Peak, steps: int, *, end_factor: float) -> optax.Schedule:
    """Return a schedule that decays along half a cosine (Loshchilov and Hutter, *SGDR*, 2016, equation 5).

    In contrast to the paper, the schedule has no restarts.
    """
    return optax.cosine_decay_schedule(peak, steps, end_factor)


def linear(peak: Peak, steps: int, *, end_factor: float) -> optax.Schedule:
    """Return a schedule that decays linearly from `peak` to `end_factor * peak`."""
    return optax.linear_schedule(peak, end_factor * peak, steps)


def polynomial(peak: Peak, steps: int, *, end_factor: float, power: float) -> optax.Schedule:
    """Return a schedule that decays from `peak` to `end_factor * peak` like `(1 - step / steps) ** power`."""
    return optax.polynomial_schedule(peak, end_factor * peak, power, steps)


def onecycle(peak: Peak, steps: int) -> optax.Schedule:
    """Return a schedule that rises from peak / 25 to the peak in 30 % of the run, and then decays to peak / 250,000.

    Source: Smith and Topin, *Super-Convergence*, 2017, with cosine curves in place of straight lines.
    """
    if not isinstance(peak, jax.Array):
        return optax.cosine_onecycle_schedule(steps, peak)
    # Optax computes the breakpoints of this schedule with NumPy, which does not accept traced arrays.
    unit: Any = optax.cosine_onecycle_schedule(steps, 1.0)
    return lambda step: peak * unit(step)


def triangle(peak: Peak, steps: int, *, start_factor: float, peak_at: float, end_factor: float) -> optax.Schedule:
    """Return a schedule that rises linearly from `start_factor * peak` to the peak, then falls to `end_factor * peak`.

    Source: one cycle of Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017, section 3.1. Jordan, *94%
    on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024, uses the default values of `ScheduleConfig` with an `end_factor`
    of 0.07.
    """
    rise = int(peak_at * steps)
    falling = optax.linear_schedule(peak, end_factor * peak, steps - rise)
    if not rise:
        return falling
    return optax.join_schedules([optax.linear_schedule(start_factor * peak, peak, rise), falling], [rise])


# The arguments of each entry are the peak learning rate and the number of steps after the warm-up. The keyword-only
# arguments of an entry are fields of `ScheduleConfig`, or `warmup`, the number of steps of the warm-up. The returned
# schedule counts steps from the end of the warm-up.
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
    """Return the learning rate schedule of a run, with a linear warm-up from 0 if the configuration sets a warm-up.

    Args:
      config: name and options of the schedule.
      learning_rate: peak learning rate.
      steps: number of steps of the run, including the warm-up.
      steps_per_epoch: number of steps in an epoch.

    Raises:
      UsageError: if the name is unknown, if the warm-up is not shorter than the run, or if a milestone is within the
        warm-up.

    >>> schedule = make_schedule(ScheduleConfig("cosine"), learning_rate=0.1, steps=100, steps_per_epoch=10)
    >>> [round(float(schedule(step)), 6) for step in (0, 50, 100)]
    [0.1, 0.05, 0.0]
    """
    schedule = SCHEDULES.find(config.name)
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup >= steps:
        raise UsageError(
            f"schedule.warmup_epochs: the warm-up of {warmup} steps is not shorter than the run of {steps} steps. Use "
            "fewer warmup_epochs."
        )
    available = {**vars(config), "warmup": warmup}
    keywords = {name: available[name] for name in keywords_of(schedule) if name in available}
    after = schedule(learning_rate, steps - warmup, **keywords)
    if not warmup:
        return after
    with jax.transfer_guard("allow"):  # Optax transfers Python numbers to the device, which the user may have forbidden
        first: Any = after(0)
    return optax.join_schedules([optax.linear_schedule(0.0, first, warmup), after], [warmup])
