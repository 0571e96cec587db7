"""Callbacks that the configuration of a run turns on: TensorBoard, Weights & Biases, and the profiler."""

from collections.abc import Callable

from jaxcnn.train.callbacks import Callback
from jaxcnn.train.devices.distributed import is_first
from jaxcnn.train.runtime.callbacks.profile import Profile, parse_profile
from jaxcnn.train.runtime.callbacks.tensorboard import TensorBoard, has_tensorboard
from jaxcnn.train.runtime.callbacks.wandb import WeightsAndBiases, check_wandb

__all__ = ["Profile", "TensorBoard", "WeightsAndBiases", "built_in", "check_wandb", "has_tensorboard", "parse_profile"]


def built_in(*, wandb: bool, profile: tuple[int, int] | None, show: Callable[[str], object]) -> list[Callback]:
    """Return the built-in callbacks of a run for this process.

    Callbacks that write metrics are returned in the first process only. `TensorBoard` is omitted if tensorboardX is not
    installed. `Profile` is returned in every process, since it decides which steps are dispatched together.

    Args:
      wandb: whether to send metrics to Weights & Biases.
      profile: first and last step to trace; see `parse_profile`.
      show: function that prints a line of text.
    """
    callbacks: list[Callback] = []
    if is_first() and has_tensorboard():
        callbacks.append(TensorBoard())
    if is_first() and wandb:
        callbacks.append(WeightsAndBiases())
    if profile is not None:
        callbacks.append(Profile(*profile, show=show))
    return callbacks
