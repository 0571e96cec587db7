"""What a run is: frozen dataclasses of values that JSON can hold.

The command line's flags are these fields, so that `fit(Config(...))` and `jaxcnn train` with the same values are
the same run.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from jaxcnn.errors import UsageError


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients change the parameters."""

    name: str = "momentum"
    """sgd, momentum, nesterov, adam or adamw."""
    learning_rate: float = 0.05
    """The highest learning rate of the schedule."""
    momentum: float = 0.9
    """Share of the past direction that stays (momentum and nesterov)."""
    weight_decay: float = 0.002
    """Decay of kernels; biases and normalisation are left alone."""


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate changes over the run."""

    name: str = "cosine"
    """constant or cosine."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate first grows linearly from 0."""


@dataclass(frozen=True)
class Config:
    """A training run. The defaults train LeNet-5 on the images inside the package."""

    model: str = "lenet5"
    """Architecture; `jaxcnn models` lists them."""
    dataset: str = "fashion_mnist_mini"
    """Data set; `jaxcnn datasets` lists them."""
    data_dir: str | None = None
    """Folder of prepared data sets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    epochs: float = 30.0
    """Times that every training image is seen."""
    steps: int | None = None
    """Updates of the parameters, in place of epochs."""
    batch_size: int = 64
    """Images in a step, over all devices together."""
    augment: tuple[str, ...] = ()
    """Changes made to training images at random, in order: flip, shift:PIXELS."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    aux_weight: float = 0.3
    """Weight of the loss of each auxiliary classifier (GoogLeNet)."""
    parallel: Literal["auto", "pmap", "shard_map", "jit"] = "auto"
    """How a step is spread over the devices; auto is pmap."""
    sync_batch_norm: bool = True
    """Whether batch normalisation takes its statistics over all devices or over each one's own images."""
    seed: int = 0
    """Start of all randomness: parameters, order of the data, augmentation, dropout."""
    workdir: str | None = None
    """Folder of the run, continued if it holds this very run (default: a new one in runs/)."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints, in addition to one at each end of an epoch (default: none)."""
    log_every: int = 20
    """Steps between two updates of the progress bar and of the log files, which hold every step."""
    progress: bool = True
    """Whether to show a progress bar and a line for each epoch."""


# Where a run is kept and how it is watched can change between two starts of the same run.
NOT_OF_THE_RUN = ("data_dir", "workdir", "checkpoint_every", "log_every", "progress")


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested dicts, lists, strings, numbers and None."""
    values = dataclasses.asdict(config)
    values["augment"] = list(config.augment)
    return values


def from_dict(values: dict[str, Any]) -> Config:
    """The configuration that `to_dict` wrote.

    Raises:
      UsageError: fields that are missing or unknown.
    """
    try:
        return Config(
            **{
                **values,
                "augment": tuple(values["augment"]),
                "optimizer": OptimizerConfig(**values["optimizer"]),
                "schedule": ScheduleConfig(**values["schedule"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"not a configuration of this version of jaxcnn: {error}") from error


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Fields of the run in which two configurations (as dicts) differ, as "name: old -> new"."""
    found = []
    for name in sorted({*old, *new} - ({*NOT_OF_THE_RUN} if not prefix else set())):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name}: {before!r} -> {after!r}")
    return found


def validate(config: Config) -> None:
    """Checks what can be checked without data and devices.

    Raises:
      UsageError: a value that cannot work, in one line.
    """
    at_least_one = ("batch_size", "steps", "checkpoint_every", "log_every")
    for name in at_least_one:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    # `not x > 0` also refuses NaN, for which every comparison is false.
    if not 0 < config.epochs < float("inf"):
        raise UsageError(f"epochs must be a positive number, got {config.epochs}")
    if not 0 < config.optimizer.learning_rate < float("inf"):
        raise UsageError(f"optimizer.learning_rate must be a positive number, got {config.optimizer.learning_rate}")
    if not 0 <= config.optimizer.momentum < 1:
        raise UsageError(f"optimizer.momentum must be in [0, 1), got {config.optimizer.momentum}")
    if not 0 <= config.optimizer.weight_decay < float("inf"):
        raise UsageError(f"optimizer.weight_decay must not be negative, got {config.optimizer.weight_decay}")
    if not 0 <= config.schedule.warmup_epochs < float("inf"):
        raise UsageError(f"schedule.warmup_epochs must not be negative, got {config.schedule.warmup_epochs}")
    if not 0 <= config.aux_weight < float("inf"):
        raise UsageError(f"aux_weight must not be negative, got {config.aux_weight}")
    if not 0 <= config.seed < 2**32:
        raise UsageError(f"seed must be from 0 to 2^32 - 1, got {config.seed}")
