"""What a run is: frozen dataclasses of values that JSON can hold.

The command line's flags are these fields, so that `fit(Config(...))` and `jaxcnn train` with the same values are
the same run.
"""

import dataclasses
import itertools
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.train.optim.parameter_paths import check_pattern, parse_scales


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients change the parameters."""

    name: str = "momentum"
    """sgd, momentum, nesterov, rmsprop, adagrad, adam, adamw, lars, lamb, lion or muon."""
    learning_rate: float = 0.05
    """The highest learning rate of the schedule."""
    momentum: float = 0.9
    """Share of the past direction that stays (momentum, nesterov, lars and muon)."""
    weight_decay: float = 0.001
    """Decay of kernels; biases and normalisation are left alone."""
    decay_all: bool = False
    """Whether biases and normalisation decay too."""
    clip_norm: float | None = None
    """Longest gradient, over all parameters together; a longer one is shortened to it."""
    learning_rate_scales: tuple[str, ...] = ()
    """Factors of the learning rate of some parameters: EXPRESSION=FACTOR, such as "stem|stage1=0.1" "head=10"; the
    first that matches a parameter's path from its start counts."""


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate changes over the run."""

    name: str = "cosine"
    """constant, step, cosine, linear, polynomial or onecycle."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate first grows linearly from 0."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of the run after which the learning rate falls (step)."""
    factor: float = 0.1
    """What the learning rate is multiplied by at each milestone (step)."""
    power: float = 2.0
    """Exponent of the fall (polynomial)."""
    end_factor: float = 0.0
    """Share of the learning rate that is left at the end (cosine, linear and polynomial)."""


@dataclass(frozen=True)
class Config:
    """A training run. The defaults train LeNet-5 on the images inside the package."""

    model: str = "lenet5"
    """Architecture; `jaxcnn models` lists them."""
    model_options: tuple[str, ...] = ()
    """Fields of the architecture that differ from the named variant's: NAME=VALUE, such as stem=cifar."""
    init_from: str | None = None
    """Weights to start from in place of random ones: a .safetensors or .pth file with our names, torchvision's or
    timm's, hf:OWNER/NAME, or the folder of a run. A classifier for another number of classes is left out."""
    freeze: str | None = None
    """Parameters that stay as they are: a regular expression that matches their paths from the start, such as
    "stem|stage1"; "(?!head)" freezes all but the classifier (a linear probe)."""
    dataset: str = "fashion_mnist_mini"
    """Data set; `jaxcnn datasets` lists them."""
    data_dir: str | None = None
    """Folder of prepared data sets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    image_size: int | None = None
    """Height and width to bring images to; needed for data sets whose images differ in size."""
    epochs: float = 30.0
    """Times that every training image is seen."""
    steps: int | None = None
    """Updates of the parameters, in place of epochs."""
    batch_size: int | Literal["full"] = 64
    """Images in a step, over all devices together: 1 is stochastic, full is vanilla gradient descent."""
    accumulate: int | None = None
    """Micro-batches that a device splits its share of a batch into, to save memory (default: 1; full: by its size)."""
    augment: tuple[str, ...] = ("shift:1",)
    """Changes made to training images at random, in order: flip, shift:PIXELS, crop:PADDING, cutout:SIZE, resized_crop,
    randaugment, trivialaugment."""
    mixup: float = 0.0
    """Alpha of mixup, which blends two images and their labels; 0 is off."""
    cutmix: float = 0.0
    """Alpha of cutmix, which pastes a box of one image into another; 0 is off."""
    loss: str = "cross_entropy"
    """cross_entropy or binary_cross_entropy."""
    label_smoothing: float = 0.1
    """Share of each training label that is spread over all classes; 0 is off."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    aux_weight: float = 0.3
    """Weight of the loss of each auxiliary classifier (GoogLeNet)."""
    ema_decay: float = 0.0
    """Decay, such as 0.999, of an average of parameters and batch statistics, which is then tested; 0 is off."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the computation; parameters are float32 always, and float16 has a dynamic loss scale."""
    tta: Literal["none", "flip"] = "none"
    """Test-time augmentation: flip takes the mean of the logits of an image and of its mirror image."""
    parallel: Literal["auto", "pmap", "shard_map", "jit"] = "auto"
    """How a step is spread over the devices; auto is pmap in one process and shard_map in many."""
    sync_batch_norm: Literal["all", "none"] | int = "all"
    """Devices over which batch normalisation takes its statistics: all, none (each its own images), or groups of so
    many."""
    shard_state: bool = False
    """Whether each device holds only a part of the large parameters and optimizer state (parallel jit only)."""
    steps_per_dispatch: int = 1
    """Updates in one call of the compiled program; more of them hide the cost of a call where a step is short."""
    seed: int = 0
    """Start of all randomness: parameters, order of the data, augmentation, dropout."""
    workdir: str | None = None
    """Folder of the run, continued if it holds this very run (default: a new one in runs/)."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints, in addition to one at each end of an epoch (default: none)."""
    log_every: int = 20
    """Steps between two updates of the progress bar and of the log files, which hold every step."""
    tensorboard_images: int = 0
    """Test images that TensorBoard shows, with what the network says of them, when the run is done; 0 is none."""
    wandb: bool = False
    """Whether to send metrics to Weights & Biases as well (pip install 'jaxcnn[wandb]')."""
    progress: bool = True
    """Whether to show a progress bar and a line for each epoch."""


INFINITE = float("inf")

# Where a run is kept and how it is watched can change between two starts of the same run.
NOT_OF_THE_RUN = (
    "data_dir",
    "workdir",
    "steps_per_dispatch",
    "checkpoint_every",
    "log_every",
    "tensorboard_images",
    "wandb",
    "progress",
)


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested dicts, lists, strings, numbers and None."""
    values = dataclasses.asdict(config)
    return json.loads(json.dumps(values))  # tuples become the lists that a file will hold


def from_dict(values: dict[str, Any]) -> Config:
    """The configuration that `to_dict` wrote.

    Raises:
      UsageError: fields that are missing or unknown, or values of another type.
    """
    try:
        config = Config(
            **{
                **values,
                "model_options": tuple(values["model_options"]),
                "augment": tuple(values["augment"]),
                "optimizer": OptimizerConfig(
                    **{
                        **values["optimizer"],
                        "learning_rate_scales": tuple(values["optimizer"].get("learning_rate_scales", ())),
                    }
                ),
                "schedule": ScheduleConfig(
                    **{**values["schedule"], "milestones": tuple(values["schedule"]["milestones"])}
                ),
            }
        )
        for part in (config, config.optimizer, config.schedule):
            for name, hint in get_type_hints(type(part)).items():
                if not _is_a(getattr(part, name), hint):
                    raise TypeError(f"{name} cannot be {getattr(part, name)!r}")
    except (KeyError, TypeError) as error:
        raise UsageError(f"not a configuration of this version of jaxcnn: {error}") from error
    return config


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type; a whole number is a float too, but True is no number."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_a(item, get_args(hint)[0]) for item in value)
    if get_args(hint):
        return any(_is_a(value, choice) for choice in get_args(hint))
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


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
    optimizer, schedule = config.optimizer, config.schedule
    if isinstance(config.batch_size, str) and config.batch_size != "full":
        raise UsageError(f"batch_size must be a number or 'full', got {config.batch_size!r}")
    for field, names in (("dtype", ("float32", "bfloat16", "float16")), ("tta", ("none", "flip"))):
        if getattr(config, field) not in names:
            raise unknown_name(field, getattr(config, field), names)
    if config.freeze is not None:
        check_pattern("freeze", config.freeze)
    parse_scales(optimizer.learning_rate_scales)
    _check_counts(
        batch_size=1 if config.batch_size == "full" else config.batch_size,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        steps=config.steps,
        steps_per_dispatch=config.steps_per_dispatch,
        accumulate=config.accumulate,
    )
    # Comparisons with NaN are false, so that it is refused by all of these.
    for name, value, right, wanted in (
        ("epochs", config.epochs, 0 < config.epochs < INFINITE, "be a positive number"),
        ("mixup", config.mixup, 0 <= config.mixup < INFINITE, "not be negative"),
        ("cutmix", config.cutmix, 0 <= config.cutmix < INFINITE, "not be negative"),
        ("label_smoothing", config.label_smoothing, 0 <= config.label_smoothing < 1, "be in [0, 1)"),
        ("aux_weight", config.aux_weight, 0 <= config.aux_weight < INFINITE, "not be negative"),
        ("ema_decay", config.ema_decay, 0 <= config.ema_decay < 1, "be in [0, 1)"),
        ("tensorboard_images", config.tensorboard_images, 0 <= config.tensorboard_images <= 64, "be from 0 to 64"),
        ("seed", config.seed, 0 <= config.seed < 2**32, "be from 0 to 2^32 - 1"),
        (
            "optimizer.learning_rate",
            optimizer.learning_rate,
            0 < optimizer.learning_rate < INFINITE,
            "be a positive number",
        ),
        ("optimizer.momentum", optimizer.momentum, 0 <= optimizer.momentum < 1, "be in [0, 1)"),
        ("optimizer.weight_decay", optimizer.weight_decay, 0 <= optimizer.weight_decay < INFINITE, "not be negative"),
        (
            "optimizer.clip_norm",
            optimizer.clip_norm,
            optimizer.clip_norm is None or 0 < optimizer.clip_norm < INFINITE,
            "be a positive number",
        ),
        ("schedule.warmup_epochs", schedule.warmup_epochs, 0 <= schedule.warmup_epochs < INFINITE, "not be negative"),
        ("schedule.milestones", schedule.milestones, _are_milestones(schedule.milestones), "grow between 0 and 1"),
        ("schedule.factor", schedule.factor, 0 <= schedule.factor <= 1, "be in [0, 1]"),
        ("schedule.power", schedule.power, 0 < schedule.power < INFINITE, "be a positive number"),
        ("schedule.end_factor", schedule.end_factor, 0 <= schedule.end_factor <= 1, "be in [0, 1]"),
    ):
        if not right:
            raise UsageError(f"{name} must {wanted}, got {value}")


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")


def _are_milestones(milestones: tuple[float, ...]) -> bool:
    ends = (0.0, *milestones, 1.0)
    return bool(milestones) and all(before < after for before, after in itertools.pairwise(ends))
