"""The configuration of a run: frozen dataclasses whose values can be stored as JSON.

The command line has a flag for each field, so that `jaxcnn train` and `fit(Config(...))` with the same values start the
same run. A field declares checks of its value in its annotation, and `validate` runs all checks. The names of models,
losses and optimizers are checked later, by the functions in `jaxcnn.train.parts` that build them.
"""

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from jaxcnn.errors import UsageError
from jaxcnn.train.config import checks, compare
from jaxcnn.train.config.parts import (
    Keywords,
    LookaheadConfig,
    OptimizerConfig,
    ScheduleConfig,
    Verification,
    make_immutable,
)


@dataclass(frozen=True)
class Config:
    """Configuration of a training run. The defaults train LeNet-5 on the images that are part of the package."""

    model: str = "lenet5"
    """Name of the architecture; `jaxcnn models` lists all names."""
    model_options: tuple[str, ...] = ()
    """Fields of the architecture to change: NAME=VALUE, such as stem=cifar. scan_blocks=True makes the compiled program
    of deep residual networks smaller, but the step slower. remat=True recomputes activations to save memory. remat=8GB
    recomputes only as many activations as needed to store at most 8 GB."""
    init_from: str | None = None
    """Initial weights: a .safetensors or .pth file with jaxcnn's, torchvision's or timm's names, hf:OWNER/NAME, or the
    directory of another run. A classifier for another number of classes is not loaded."""
    init_channels: Literal["exact", "sum"] = "exact"
    """How to load initial weights of a color model into a model for gray images: exact raises an error, sum adds up the
    input channels of the first kernel."""
    freeze: Annotated[str | None, checks.pattern] = None
    """Parameters to freeze: a regular expression, anchored at the start of the parameter's path, such as "stem|stage1".
    "(?!head)" freezes all parameters except those of the classifier (a linear probe)."""
    freeze_after: Annotated[tuple[str, ...], checks.epochs_of_parameters] = ()
    """Parameters to train only in the first epochs: EXPRESSION=EPOCHS, such as "stem=3". Regular expressions, anchored
    at the start of the parameter's path; the first match wins."""
    whiten: str | None = None
    """Path of a first convolution's kernel, such as whiten/kernel. The kernel is initialized with the whitening
    transform of patches of the training images. To keep the kernel unchanged in training, use freeze."""
    dataset: str = "fashion_mnist_mini"
    """Name of the dataset; `jaxcnn datasets` lists all names. Or imagefolder:PATH, a folder with one subfolder of
    images per class. Or npz:FILE, a NumPy file with x_train, y_train, x_test, y_test (or train_images, train_labels,
    ...)."""
    data_dir: Annotated[str | None, checks.path] = None
    """Directory with prepared datasets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    train_split: str | None = None
    """TFDS split with the training images, such as "train[:90%]" (default: train)."""
    test_split: str | None = None
    """TFDS split with the test images, such as "train[90%:]" (default: the split test, or the split
    validation if there is no split test)."""
    image_size: Annotated[int | tuple[int, int] | None, checks.image_size] = None
    """Side of square images in pixels, or height and width. Required for datasets whose images differ in size."""
    resize: Annotated[Literal["shorter", "stretch"] | int, checks.resize] = "shorter"
    """How to resize an image before the center crop: shorter keeps the aspect ratio, stretch gives the image the aspect
    ratio of image_size. A number is the length of the shorter side in pixels, such as 256 for an image size of 224."""
    crop_fraction: Annotated[float | None, checks.CROP_FRACTION] = None
    """Side of the center crop as a fraction of the resized image's side (default: 1 if all images already have the
    image size, else 0.875)."""
    background: Literal["white", "black"] = "white"
    """Color behind transparent pixels."""
    mean: Annotated[tuple[float, ...] | None, checks.FINITE] = None
    """Mean of each channel for the normalization, from 0 to 1 (default: the mean of the training images)."""
    std: Annotated[tuple[float, ...] | None, checks.ALL_POSITIVE] = None
    """Standard deviation of each channel for the normalization, from 0 to 1 (default: the standard deviation of the
    training images)."""
    validation: Annotated[float | str | None, checks.validation] = None
    """Validation images: a fraction of the training images to hold out, such as 0.1, or a TFDS split, such as
    "train[90%:]". Metrics on the validation images choose the best checkpoint and stop a run early. The test set is
    evaluated only once, at the end (default: the validation set of the dataset, or none)."""
    skip_damaged: bool = False
    """Skip damaged image files of an image folder. By default, a damaged file is an error."""
    data_fingerprint: Literal["sizes", "contents"] = "sizes"
    """What a resumed run compares to detect changed data: sizes compares names and sizes of the files, contents also
    compares the contents of the files."""
    accept_changed_data: bool = False
    """Resume a run although its data has changed."""
    epochs: Annotated[float, checks.POSITIVE, checks.at_most(1e9)] = 30.0
    """Number of passes over the training set."""
    steps: Annotated[int | None, checks.AT_LEAST_ONE, checks.STEPS] = None
    """Number of training steps, in place of a number of epochs."""
    patience: Annotated[int | None, checks.AT_LEAST_ONE] = None
    """Stop the run after this many evaluations in a row without a better value of monitor (default: never)."""
    monitor: str | None = None
    """Metric that chooses the best checkpoint and stops a run early: accuracy, loss, or a metric listed in the field
    metrics. Smaller values are better if the name of the metric ends in loss or error (default: the task's metric,
    accuracy for classification)."""
    metrics: tuple[str, ...] = ()
    """Additional metrics of evaluations: topK with any number K (such as top5), balanced_accuracy, per_class,
    confusion, calibration_error."""
    batch_size: Annotated[int | Literal["full"], checks.batch_size] = 64
    """Number of images in a step, summed over all devices. full uses the whole training set in each step."""
    accumulate: Annotated[int | None, checks.AT_LEAST_ONE] = None
    """Number of micro-batches into which each device splits its part of a batch, to save memory (default: 1; with
    batch_size full, chosen automatically)."""
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    """Order of the training images. shuffle: each image is used once per epoch. balanced: images are drawn at random,
    equally often from each class."""
    augment: tuple[str, ...] = ("shift:1",)
    """Random augmentations of training images, applied in this order: flip, alternating_flip, shift:PIXELS,
    shift_reflect:PIXELS, crop:PADDING, cutout:SIZE, resized_crop, randaugment, trivialaugment."""
    mixup: Annotated[float, checks.NOT_NEGATIVE, checks.MIXING] = 0.0
    """Parameter alpha of mixup, which blends two images and their labels; 0 turns mixup off."""
    cutmix: Annotated[float, checks.NOT_NEGATIVE, checks.MIXING] = 0.0
    """Parameter alpha of cutmix, which pastes a box of one image into another image; 0 turns cutmix off."""
    loss: str = "cross_entropy"
    """Loss function: cross_entropy or binary_cross_entropy."""
    label_smoothing: Annotated[float, checks.LABEL_SMOOTHING] = 0.1
    """Fraction of each training label that is distributed evenly over all classes; 0 turns label smoothing off."""
    class_weights: Annotated[tuple[float, ...] | Literal["balanced"] | None, checks.class_weights] = None
    """Weight of each class in the training loss, normalized so that the training images have a mean weight of 1.
    balanced: the inverse of the number of training images of the class. The test loss has no weights."""
    task: Annotated[Any, checks.text] = "classification"
    """Name of the task. To use your own task, call `fit(config, task=...)`."""
    gradient: Annotated[Any, checks.text] = "plain"
    """Name of the gradient function. To use your own function, call `fit(config, gradient=...)`."""
    init_scale: Annotated[float, checks.POSITIVE, checks.at_most(1e6)] = 1.0
    """Multiply the random initial kernels by this factor."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    lookahead: LookaheadConfig = LookaheadConfig()
    aux_weight: Annotated[float, checks.NOT_NEGATIVE, checks.at_most(1e6)] = 0.3
    """Weight of the loss of each auxiliary classifier of GoogLeNet."""
    ema_decay: Annotated[float, checks.FRACTION_BELOW_ONE] = 0.0
    """Decay of the moving average of parameters and batch statistics, such as 0.999; 0 turns the average off.
    Evaluations use the average."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the computation. Parameters are always float32. float16 uses a dynamic loss scale."""
    tta: Literal["none", "flip", "flip_shift"] = "none"
    """Test-time augmentation: flip averages the logits of each image and its mirror image. flip_shift also averages the
    logits of both images, shifted by a pixel."""
    parallel: Literal["auto", "pmap", "shard_map", "jit"] = "auto"
    """JAX function that distributes a step over devices. auto uses pmap in a single process, and shard_map in a
    multi-process job."""
    sync_batch_norm: Literal["all", "none"] | int = "all"
    """Devices that share batch normalization statistics: all (every device), none (each device uses its own
    statistics), or a number (groups of this many devices)."""
    batch_norm_reduce_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision in which devices exchange batch normalization statistics and their gradients."""
    shard_state: bool = False
    """Shard large parameters and the optimizer state over the devices. This needs parallel=jit."""
    steps_per_dispatch: Annotated[int, checks.AT_LEAST_ONE, checks.at_most(10_000)] = 1
    """Number of steps per dispatch of the compiled program. Increase this number if the device waits for the host
    between short steps."""
    seed: Annotated[int, checks.between(0, 2**32 - 1, "2^32 - 1")] = 0
    """Seed of all randomness: parameters, data order, augmentation, dropout."""
    workdir: Annotated[str | None, checks.path] = None
    """Run directory. If the directory contains a run with the same configuration, the run is resumed (default: a new
    directory in runs/)."""
    evaluate_every: Annotated[int | None, checks.AT_LEAST_ONE, checks.STEPS] = None
    """Number of steps between evaluations. A checkpoint is saved after each evaluation (default: evaluate after each
    epoch)."""
    checkpoint_every: Annotated[int | None, checks.AT_LEAST_ONE, checks.STEPS] = None
    """Number of steps between checkpoints. A checkpoint is also saved after each evaluation (default: only after
    evaluations)."""
    verify_every: Annotated[int | None, checks.AT_LEAST_ONE, checks.STEPS] = None
    """Number of steps between verifications, which detect silent data corruption and repeat the wrong steps (default:
    no verification). States are also verified before they are saved. The verify options choose the checks."""
    verify: Verification = Verification()
    log_every: Annotated[int, checks.AT_LEAST_ONE, checks.STEPS] = 20
    """Number of steps between updates of the progress bar and of the log files. The log files record every step."""
    tensorboard_images: Annotated[int, checks.between(0, 64)] = 0
    """Number of test images to show in TensorBoard with their predictions at the end of the run; 0 shows no images."""
    profile: Annotated[str | None, checks.profile] = None
    """First and last step to trace with JAX's profiler, counted from 1: 10:20 traces 11 steps (default: none)."""
    wandb: bool = False
    """Also send metrics to Weights & Biases (pip install 'jaxcnn[wandb]')."""
    progress: bool = True
    """Show a progress bar, and print a line for each epoch. If turned off, print only the result at the end."""

    def __post_init__(self):
        make_immutable(self)

    @property
    def averages(self) -> bool:
        """Whether the training state has a second set of parameters: moving averages, or lookahead's slow copy."""
        return self.ema_decay > 0 or self.lookahead.period > 0


# Version 0.1 recorded a momentum for every optimizer, but only these optimizers used the momentum.
_USED_MOMENTUM_IN_0_1 = ("momentum", "nesterov", "lars", "muon")

# Fields that were added after version 0.1, with the values that runs of earlier versions used.
_ADDED: dict[str, Any] = {
    "init_channels": "exact",
    "train_split": None,
    "test_split": None,
    "resize": "shorter",
    "crop_fraction": None,
    "background": "white",
    "mean": None,
    "std": None,
    "skip_damaged": False,
    "data_fingerprint": "sizes",
    "accept_changed_data": False,
    "class_weights": None,
    "patience": None,
    "validation": None,
    "monitor": None,
    "metrics": [],
    "evaluate_every": None,
    "sampling": "shuffle",
    "task": "classification",
    "gradient": "plain",
    "init_scale": 1.0,
    "profile": None,
    "batch_norm_reduce_dtype": "float32",
    "freeze_after": [],
    "whiten": None,
    "verify_every": None,
}
_ADDED_TO_PARTS: dict[str, dict[str, Any]] = {
    "optimizer": {"weight_decay_scales": [], "fixed_norm": None},
    "schedule": {"start_factor": 0.2, "peak_at": 0.23},
    "lookahead": dataclasses.asdict(LookaheadConfig()),
    "verify": dataclasses.asdict(Verification()),
}


def validate(config: Config) -> None:
    """Check the value of each field of a configuration, without access to the data and the devices.

    Raises:
      UsageError: if a value is not valid. The error message is one line.
    """
    _validate(config, prefix="")
    if config.steps is not None and config.epochs != Config.epochs:
        raise UsageError(
            f"epochs and steps are mutually exclusive, got epochs {config.epochs:g} and steps {config.steps}. "
            "Set only one of the two."
        )
    if config.ema_decay and config.lookahead.period:
        raise UsageError(
            f"ema_decay and lookahead.period are mutually exclusive, got ema_decay {config.ema_decay:g} and "
            f"lookahead.period {config.lookahead.period}. Set one of the two to 0."
        )
    if (
        config.verify_every
        and not config.verify.replicas
        and config.verify.replay == "off"
        and not config.verify.bounds
    ):
        raise UsageError(
            f"verify_every is {config.verify_every}, but all checks are turned off. "
            "Turn on verify.replicas, verify.replay or verify.bounds."
        )


def _validate(part: Any, prefix: str) -> None:
    for field, hint in get_type_hints(type(part), include_extras=True).items():
        name, value = prefix + field, getattr(part, field)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            if not isinstance(value, hint):
                raise UsageError(f"{name} must be {hint.__name__}(...), got {value!r}")
            _validate(value, f"{name}.")
            continue
        kind, *field_checks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if get_origin(kind) is Literal and isinstance(value, str):
            checks.one_of(get_args(kind))(name, value)
        elif kind != Keywords:  # `json_values` checks their types
            checks.check_type(name, value, kind)
        for check in field_checks if value is not None else ():
            check(name, value)


def to_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as nested dicts, lists, strings, numbers and None, ready for JSON."""
    values = dataclasses.asdict(config)
    values["optimizer"]["options"] = dict(values["optimizer"]["options"])
    return json.loads(json.dumps(values))  # converts tuples to lists, as a JSON file does


def from_dict(values: dict[str, Any]) -> Config:
    """Return the configuration from a dict that `to_dict` has returned in this version or in version 0.1 of jaxcnn.

    Raises:
      UsageError: if a field is missing or unknown, or if a value has a wrong type.
    """
    try:
        return _read(Config, _upgraded(values))
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"the fields are not a configuration of this version of jaxcnn: {error}") from error


def _read(kind: Any, values: dict[str, Any]) -> Any:
    """Build a dataclass from a dict, and check the type of each value."""
    hints = get_type_hints(kind)
    if values.keys() != hints.keys():
        raise TypeError(
            f"the configuration has missing or unknown fields: {', '.join(sorted(values.keys() ^ hints.keys()))}"
        )
    read = {}
    for name, hint in hints.items():
        value = values[name]
        if dataclasses.is_dataclass(hint):
            value = _read(hint, value)
        elif hint == Keywords and isinstance(value, dict):
            value = tuple(value.items())
        elif isinstance(value, list):
            value = tuple(value)
        if not checks.is_a(value, hint):
            raise TypeError(f"the field {name} cannot be {value!r}")
        read[name] = value
    return kind(**read)


def _upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """Upgrade a configuration of an earlier version. Return a configuration of this version unchanged."""
    of_parts = {name: {**added, **values.get(name, {})} for name, added in _ADDED_TO_PARTS.items()}
    values = {**_ADDED, **values, **of_parts}
    if values["steps"] is not None:
        values["epochs"] = Config.epochs  # version 0.1 ignored epochs if steps were given
    optimizer = values["optimizer"]
    if "options" in optimizer:
        return values
    momentum = optimizer["momentum"] if optimizer["name"] in _USED_MOMENTUM_IN_0_1 else None
    return {**values, "optimizer": {**optimizer, "momentum": momentum, "options": {}}}


def differences(old: Any, new: dict[str, Any], left_out: tuple[str, ...] = compare.SETTINGS) -> list[str]:
    """Return a text "name: old -> new" for each field in which two configurations differ.

    Both configurations are dicts, as returned by `to_dict`. `old` may be from version 0.1, or from a damaged file. A
    missing field counts as a difference. Fields in `left_out` are not compared.
    """
    old = old if isinstance(old, dict) else {}
    with contextlib.suppress(KeyError, TypeError):
        old = _upgraded(old)
    return compare.differences(compare.without_settings(old, left_out), compare.without_settings(new, left_out))


def is_out_of_patience(config: Config, epochs_since_best: int) -> bool:
    """Return whether a run must stop early: none of the last `config.patience` evaluations was the best so far."""
    return config.patience is not None and epochs_since_best >= config.patience
