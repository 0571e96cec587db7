"""The configuration of a run: frozen dataclasses whose values JSON can hold.

The flags of the command line are these fields, so `fit(Config(...))` and `jaxcnn train` with the same values are the
same run. A field that needs more than its type declares its check beside it; `validate` runs all checks. Names of
models, losses, optimizers and other parts are checked where the parts are built (`parts`).
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
    """A training run. The defaults train LeNet-5 on the images inside the package."""

    model: str = "lenet5"
    """Architecture; `jaxcnn models` lists them."""
    model_options: tuple[str, ...] = ()
    """Fields of the architecture to change: NAME=VALUE, such as stem=cifar. scan_blocks=True makes the program of deep
    residual networks smaller, and the step slower. remat=True recomputes activations to save memory; remat=8GB
    recomputes only as many as needed to store at most 8 GB."""
    init_from: str | None = None
    """Initial weights: a .safetensors or .pth file with jaxcnn's, torchvision's or timm's names, hf:OWNER/NAME, or a
    run directory, whose network may contain the model. A classifier for another number of classes is not loaded."""
    init_channels: Literal["exact", "sum"] = "exact"
    """What to do if the initial weights are for color images and the model is for gray images: exact raises an error,
    sum adds the input channels of the first kernel."""
    freeze: Annotated[str | None, checks.pattern] = None
    """Parameters to freeze: a regular expression, anchored at the start of the path, such as "stem|stage1".
    "(?!head)" freezes all but the classifier (a linear probe)."""
    freeze_after: Annotated[tuple[str, ...], checks.epochs_of_parameters] = ()
    """Parameters to train in the first epochs only: EXPRESSION=EPOCHS, such as "stem=3". Regular expressions, anchored
    at the start of the path; the first match wins."""
    whiten: str | None = None
    """Kernel of the first convolution to initialize with the whitening transformation of patches of the training
    images: its path, such as whiten/kernel. Freeze it to keep it."""
    dataset: str = "fashion_mnist_mini"
    """Dataset; `jaxcnn datasets` lists them. Or imagefolder:PATH, a folder with one folder of images for each class; or
    npz:FILE, a NumPy file with x_train, y_train, x_test, y_test (or train_images, train_labels, ...)."""
    data_dir: Annotated[str | None, checks.path] = None
    """Directory of prepared datasets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    train_split: str | None = None
    """Training images, as a part of a TFDS dataset: "train[:90%]" (default: train)."""
    test_split: str | None = None
    """Test images, as a part of a TFDS dataset: "train[90%:]" (default: test, or validation)."""
    image_size: Annotated[int | tuple[int, int] | None, checks.image_size] = None
    """Side of the images in pixels, or height and width. Required for datasets whose images differ in size."""
    resize: Annotated[Literal["shorter", "stretch"] | int, checks.resize] = "shorter"
    """How an image is resized before the center crop: shorter keeps the aspect ratio, stretch changes it to that of
    the image size. A number is the length of the shorter side in pixels, such as 256 for an image size of 224."""
    crop_fraction: Annotated[float | None, checks.CROP_FRACTION] = None
    """Side of the center crop as a fraction of the resized image (default: 1 if all images have the image size
    already, else 0.875)."""
    background: Literal["white", "black"] = "white"
    """Color behind transparent pixels."""
    mean: Annotated[tuple[float, ...] | None, checks.FINITE] = None
    """Mean of each channel, from 0 to 1, to normalize with (default: that of the training images)."""
    std: Annotated[tuple[float, ...] | None, checks.ALL_POSITIVE] = None
    """Standard deviation of each channel, from 0 to 1, to normalize with (default: that of the training images)."""
    validation: Annotated[float | str | None, checks.validation] = None
    """Validation images to hold out: a fraction of the training images, such as 0.1, or a TFDS split, such as
    "train[90%:]". They choose the best checkpoint and stop a run early. The test images are then used once, at the end
    (default: the validation images of the dataset, or none)."""
    skip_damaged: bool = False
    """Leave out damaged image files of an image folder, instead of stopping."""
    data_fingerprint: Literal["sizes", "contents"] = "sizes"
    """What a resumed run compares to detect changed data: sizes compares names and sizes of the files, contents also
    their contents."""
    accept_changed_data: bool = False
    """Resume a run although its data has changed."""
    epochs: Annotated[float, checks.POSITIVE, checks.at_most(1e9)] = 30.0
    """Passes over the training set."""
    steps: Annotated[int | None, checks.AT_LEAST_ONE, checks.STEPS] = None
    """Training steps, instead of epochs."""
    patience: Annotated[int | None, checks.AT_LEAST_ONE] = None
    """Stop after this many evaluations in a row without a better result (default: never); see monitor."""
    monitor: str | None = None
    """Metric that chooses the best checkpoint and stops a run early: accuracy, loss, or one of metrics. If its name
    ends in loss or error, the smallest value is the best (default: that of the task, accuracy for classification)."""
    metrics: tuple[str, ...] = ()
    """Further metrics of evaluations: topK with any number K, balanced_accuracy, per_class, confusion,
    calibration_error."""
    batch_size: Annotated[int | Literal["full"], checks.batch_size] = 64
    """Images in a step, over all devices. 1 is stochastic gradient descent; full uses the whole training set."""
    accumulate: Annotated[int | None, checks.AT_LEAST_ONE] = None
    """Micro-batches per step on each device, to save memory (default: 1; for batch size full: chosen by the size)."""
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    """Order of the training images: shuffle uses each image once in an epoch, balanced draws each class equally
    often."""
    augment: tuple[str, ...] = ("shift:1",)
    """Random augmentations of training images, in order: flip, alternating_flip, shift:PIXELS, shift_reflect:PIXELS,
    crop:PADDING, cutout:SIZE, resized_crop, randaugment, trivialaugment."""
    mixup: Annotated[float, checks.NOT_NEGATIVE, checks.MIXING] = 0.0
    """Alpha of mixup, which blends two images and their labels; 0 is off."""
    cutmix: Annotated[float, checks.NOT_NEGATIVE, checks.MIXING] = 0.0
    """Alpha of cutmix, which pastes a box of one image into another; 0 is off."""
    loss: str = "cross_entropy"
    """cross_entropy or binary_cross_entropy."""
    label_smoothing: Annotated[float, checks.LABEL_SMOOTHING] = 0.1
    """Fraction of each training label that is distributed evenly over all classes; 0 is off."""
    class_weights: Annotated[tuple[float, ...] | Literal["balanced"] | None, checks.class_weights] = None
    """Weight of the training loss of each class, normalized so that the training images have a mean weight of 1.
    balanced: the inverse of the number of training images of the class. The test loss has no weights."""
    task: Annotated[Any, checks.text] = "classification"
    """Name of the task. Pass your own task to `fit`."""
    gradient: Annotated[Any, checks.text] = "plain"
    """Name of the function that computes the gradient of the loss. Pass your own function to `fit`."""
    init_scale: Annotated[float, checks.POSITIVE, checks.at_most(1e6)] = 1.0
    """Multiply the random initial kernels by this factor."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    lookahead: LookaheadConfig = LookaheadConfig()
    aux_weight: Annotated[float, checks.NOT_NEGATIVE, checks.at_most(1e6)] = 0.3
    """Weight of the loss of each auxiliary classifier (GoogLeNet)."""
    ema_decay: Annotated[float, checks.FRACTION_BELOW_ONE] = 0.0
    """Decay, such as 0.999, of a moving average of parameters and batch statistics; 0 is off. Evaluations use the
    average."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the computation. Parameters are always float32; float16 uses a dynamic loss scale."""
    tta: Literal["none", "flip", "flip_shift"] = "none"
    """Test-time augmentation: flip averages the logits of each image and its mirror image, flip_shift also those of
    both shifted by a pixel."""
    parallel: Literal["auto", "pmap", "shard_map", "jit"] = "auto"
    """How a step is distributed over devices. auto is pmap on one process and shard_map on many."""
    sync_batch_norm: Literal["all", "none"] | int = "all"
    """Devices that share batch normalization statistics: all, none (each device its own), or the number of devices in
    a group."""
    batch_norm_reduce_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision in which devices exchange batch normalization statistics and their gradients."""
    shard_state: bool = False
    """Shard large parameters and optimizer state over the devices (parallel jit only)."""
    steps_per_dispatch: Annotated[int, checks.AT_LEAST_ONE, checks.at_most(10_000)] = 1
    """Steps per call of the compiled program. Increase it if a step is short compared with the overhead of a call."""
    seed: Annotated[int, checks.between(0, 2**32 - 1, "2^32 - 1")] = 0
    """Seed of all randomness: parameters, data order, augmentation, dropout."""
    workdir: Annotated[str | None, checks.path] = None
    """Run directory. A run of the same configuration there is resumed (default: a new one in runs/)."""
    evaluate_every: Annotated[int | None, checks.AT_LEAST_ONE, checks.STEPS] = None
    """Steps between evaluations. A checkpoint is saved after each evaluation (default: evaluate after each epoch)."""
    checkpoint_every: Annotated[int | None, checks.AT_LEAST_ONE, checks.STEPS] = None
    """Steps between checkpoints, in addition to one after each evaluation (default: none)."""
    verify_every: Annotated[int | None, checks.AT_LEAST_ONE, checks.STEPS] = None
    """Steps between verifications, which find silent data corruption and undo it (default: none). States are also
    verified before they are saved. The verify options choose the checks."""
    verify: Verification = Verification()
    log_every: Annotated[int, checks.AT_LEAST_ONE, checks.STEPS] = 20
    """Steps between updates of the progress bar and of the log files, which record every step."""
    tensorboard_images: Annotated[int, checks.between(0, 64)] = 0
    """Test images to show in TensorBoard with their predictions at the end of the run; 0 is none."""
    profile: Annotated[str | None, checks.profile] = None
    """Steps to trace with JAX's profiler: FIRST:LAST, counted from 1, such as 10:20 (default: none)."""
    wandb: bool = False
    """Also send metrics to Weights & Biases (pip install 'jaxcnn[wandb]')."""
    progress: bool = True
    """Show a progress bar, and print a line for each epoch; otherwise print only the result, at the end."""

    def __post_init__(self):
        make_immutable(self)

    @property
    def averages(self) -> bool:
        """Return whether the state has a second network: moving averages, or the slow network of lookahead."""
        return self.ema_decay > 0 or self.lookahead.period > 0


# Version 0.1 recorded a momentum for every optimizer. Only these optimizers used it.
_USED_MOMENTUM_IN_0_1 = ("momentum", "nesterov", "lars", "muon")

# Fields that were added after version 0.1, with their values in runs that do not record them.
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
    """Check each field by the check declared beside it. Data and devices are not needed.

    Raises:
      UsageError: if a value cannot work. The message is one line.
    """
    _validate(config, prefix="")
    if config.steps is not None and config.epochs != Config.epochs:
        raise UsageError(
            f"epochs and steps are mutually exclusive, got epochs {config.epochs:g} and steps {config.steps}. "
            "Set one of them"
        )
    if config.ema_decay and config.lookahead.period:
        raise UsageError(
            f"ema_decay and lookahead.period are mutually exclusive, got {config.ema_decay:g} and "
            f"{config.lookahead.period}. Set one of them to 0"
        )
    if (
        config.verify_every
        and not config.verify.replicas
        and config.verify.replay == "off"
        and not config.verify.bounds
    ):
        raise UsageError(
            f"verify_every {config.verify_every} has nothing to verify. "
            "Set verify.replicas, verify.replay or verify.bounds"
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
    return json.loads(json.dumps(values))  # turns tuples into lists, as they come back from a file


def from_dict(values: dict[str, Any]) -> Config:
    """Return the configuration that `to_dict` wrote, in this version or in version 0.1.

    Raises:
      UsageError: if a field is missing or unknown, or a value has the wrong type.
    """
    try:
        return _read(Config, _upgraded(values))
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"not a configuration of this version of jaxcnn: {error}") from error


def _read(kind: Any, values: dict[str, Any]) -> Any:
    """Build a dataclass from a dict, and check the type of each value."""
    hints = get_type_hints(kind)
    if values.keys() != hints.keys():
        raise TypeError(f"missing or unknown fields: {', '.join(sorted(values.keys() ^ hints.keys()))}")
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
            raise TypeError(f"{name} cannot be {value!r}")
        read[name] = value
    return kind(**read)


def _upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of an earlier version in the form of this version. Return others unchanged."""
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
    """Return the fields of the run in which two configurations (as dicts) differ, as "name: old -> new".

    `old` may come from version 0.1, or from a damaged file; missing fields are differences. Fields in `left_out` are
    not compared.
    """
    old = old if isinstance(old, dict) else {}
    with contextlib.suppress(KeyError, TypeError):
        old = _upgraded(old)
    return compare.differences(compare.without_settings(old, left_out), compare.without_settings(new, left_out))


def is_out_of_patience(config: Config, epochs_since_best: int) -> bool:
    """Return whether a run ends after so many epochs without a better evaluation."""
    return config.patience is not None and epochs_since_best >= config.patience
