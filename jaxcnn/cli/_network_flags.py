"""Flags of the commands that use a trained network: a checkpoint of a run, or published weights."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from jaxcnn import train
from jaxcnn.cli._own_model import own_model
from jaxcnn.errors import UsageError, printable
from jaxcnn.local_path import local_path
from jaxcnn.train import Config, Trained
from jaxcnn.train.config import validate
from jaxcnn.train.parts import short_name
from jaxcnn.train.runtime import preprocessing, workdir


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Flags that select the checkpoint of a run, and its model."""

    checkpoint: str | None = None
    """Checkpoint of the run: latest, best (of the best evaluation), or its step (default: the one that the run has
    tested: the best if it holds out validation images, else the latest)."""
    model: str | None = None
    """Own model of the run: FILE.py:NAME or MODULE:NAME, where NAME is a Linen module, or a class or function that
    returns one."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A run or published weights, and changes of the preprocessing."""

    workdir: str | None = None
    """Run directory."""
    checkpoint: str | None = None
    """Checkpoint of the run: latest, best (of the best evaluation), or its step (default: the one that the run has
    tested: the best if it holds out validation images, else the latest)."""
    model: str | None = None
    """With --weights: the architecture, such as resnet50. With --workdir: own model of the run, as FILE.py:NAME or
    MODULE:NAME, where NAME is a Linen module, or a class or function that returns one."""
    weights: str | None = None
    """Weights to use instead of a run: a file of torchvision, timm or jaxcnn, or hf:OWNER/NAME."""
    classes: str | None = None
    """File with the class names of the weights, one per line."""
    image_size: int | tuple[int, int] | None = None
    """Side of the images in pixels, or height and width (default: that of the run or of the weights)."""
    resize: Literal["shorter", "stretch"] | int | None = None
    """How an image is resized before the center crop; see jaxcnn train (default: that of the run or of the weights)."""
    crop_fraction: float | None = None
    """Side of the center crop as a fraction of the resized image (default: that of the run or of the weights)."""
    background: Literal["white", "black"] | None = None
    """Color behind transparent pixels (default: that of the run, or white)."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, from 0 to 1, to normalize with (default: that of the run or of the weights)."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, from 0 to 1, to normalize with (default: that of the run or of the
    weights)."""


CHANGES = ("image_size", "resize", "crop_fraction", "background", "mean", "std")
"""Fields of `NetworkOptions` that change the preprocessing. They are fields of `Config` too."""


def open_run(folder: str, options: RunOptions | NetworkOptions) -> Trained:
    """Return the network of the chosen checkpoint of a run.

    Raises:
      UsageError: if there is no such run or checkpoint, or the model is not that of the run.
    """
    if options.model is None:
        return train.load_run(folder, checkpoint=options.checkpoint)
    path = local_path("--workdir", folder)
    config = workdir.read_config(path)
    if ":" in options.model:
        around = preprocessing.read(path)
        model = own_model(options.model, None if around is None else len(around.class_names))
        return train.load_run(folder, checkpoint=options.checkpoint, model=model)
    if options.model != config.model:
        raise UsageError(
            f"the run in {folder} trained {short_name(config.model)}, not {options.model}. Omit --model, or name "
            "an own model as FILE.py:NAME."
        )
    return train.load_run(folder, checkpoint=options.checkpoint)


def open_network(options: NetworkOptions, class_names: tuple[str, ...] | None = None) -> Trained:
    """Return the network of a run or of published weights, with the preprocessing that the flags ask for.

    Args:
      options: the flags.
      class_names: names of the classes of weights without `--classes`. Default: "0", "1", ...

    Raises:
      UsageError: if the flags contradict each other, or the network cannot be opened.
    """
    check_source(options)
    changes: dict[str, Any] = {name: getattr(options, name) for name in CHANGES}
    changes = {name: value for name, value in changes.items() if value is not None}
    validate(dataclasses.replace(Config(), **changes))
    if options.workdir is not None:
        trained = open_run(options.workdir, options)
    else:
        names = class_names if options.classes is None else read_class_names(options.classes)
        trained = train.trained_from_weights(
            options.model or "", options.weights or "", class_names=names, mean=options.mean, std=options.std
        )
    return _changed(trained, changes) if changes else trained


def check_source(options: NetworkOptions) -> None:
    """Raise `UsageError` unless the flags name either a run, or an architecture and its weights."""
    if options.workdir is not None:
        given = next((name for name in ("weights", "classes") if getattr(options, name) is not None), None)
        if given is not None:
            raise UsageError(f"--workdir and --{given} are mutually exclusive. Omit one of them.")
    elif options.weights is None:
        raise UsageError("no network given. Give a run with --workdir, or weights with --model and --weights.")
    elif options.model is None:
        raise UsageError(
            "the architecture of the weights is missing. Give it with --model, such as resnet50; see `jaxcnn models`."
        )
    elif options.checkpoint is not None:
        raise UsageError("--checkpoint applies only to runs. Omit it with --weights.")


def _changed(trained: Trained, changes: dict[str, Any]) -> Trained:
    """Return the network with changed preprocessing.

    Raises:
      UsageError: if the changes contradict each other, or do not fit the network.
    """
    fields = dict(changes)
    before = trained.preprocessing
    height, width, channels = before.image_shape
    if "image_size" in fields:
        size = fields.pop("image_size")
        height, width = size if isinstance(size, tuple) else (size, size)
        fields["image_shape"] = (height, width, channels)
    for name in ("mean", "std"):
        if len(fields.get(name, before.mean)) != channels:
            raise UsageError(
                f"--{name} has {len(fields[name])} values, but images have {channels} channels. Give one per channel."
            )
    if "resize" in fields:
        _check_resize(fields["resize"], fields.get("crop_fraction"), max(height, width))
    elif isinstance(before.resize, int):
        # A length in pixels belongs to the image size before. The crop keeps its part of the image.
        scale = max(height, width) / max(before.image_shape[:2])
        fields["resize"] = "shorter" if "crop_fraction" in fields else round(before.resize * scale)
    return trained.with_preprocessing(dataclasses.replace(before, **fields))


def _check_resize(resize: str | int, crop_fraction: float | None, side: int) -> None:
    """Raise `UsageError` if a length of the shorter side does not fit the other flags."""
    if isinstance(resize, str):
        return
    if crop_fraction is not None:
        raise UsageError(f"--crop-fraction does not apply to --resize {resize}. Give --resize shorter, or omit it.")
    if resize < side:
        raise UsageError(f"--resize {resize} is less than the image size {side}. Give {side} or more.")


def read_class_names(file: str) -> tuple[str, ...]:
    """Return the class names in a file, one per line.

    Raises:
      UsageError: if the file cannot be read or is empty.
    """
    try:
        lines = local_path("--classes", file).read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}. Give a text file of class names.") from error
    except ValueError as error:
        raise UsageError(f"{file} is not text in UTF-8. Give a text file of class names, one per line.") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UsageError(f"{file} has no class names. Write one on each line.")
    return names


def source_note(trained: Trained, options: RunOptions | NetworkOptions) -> str:
    """Return what was used, for the user: the step of the run's checkpoint, or the file of the weights."""
    if isinstance(options, NetworkOptions) and options.weights is not None:
        return printable(f"{trained.name} with the weights of {options.weights}")
    return printable(f"{trained.name}, checkpoint of step {trained.step:,}")
