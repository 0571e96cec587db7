"""Schedules: the learning rate as a function of the step."""

from collections.abc import Callable

import optax

from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.train.config import ScheduleConfig

# Each takes the highest learning rate and the number of steps, and returns a function step -> learning rate.
SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda peak, steps: optax.constant_schedule(peak),
    # Loshchilov and Hutter, SGDR, 2016, equation 5, without restarts.
    "cosine": lambda peak, steps: optax.cosine_decay_schedule(peak, steps),
}


def make_schedule(config: ScheduleConfig, learning_rate: float, steps: int, steps_per_epoch: float) -> optax.Schedule:
    """The schedule of a run of `steps` updates, after a linear warm-up from 0 if there is one.

    Raises:
      UsageError: an unknown name, or a warm-up that does not end before the run.
    """
    if config.name not in SCHEDULES:
        raise unknown_name("schedule", config.name, SCHEDULES)
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup >= steps:
        raise UsageError(f"schedule.warmup_epochs: a warm-up of {warmup} steps leaves none of the run's {steps}")
    after = SCHEDULES[config.name](learning_rate, steps - warmup)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), after], [warmup])
