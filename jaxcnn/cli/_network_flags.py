"""Flags of the commands that use a trained network, and functions that open the network.

A network is a checkpoint of a run, or published weights.
"""

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
    """Flags that select a checkpoint of a run, and the model of the run."""

    checkpoint: str | None = None
    """Checkpoint of the run: latest, best (the checkpoint with the best evaluation), or the number of a step (default:
    best if the run holds out validation images, else latest)."""
    model: str | None = None
    """Your own model that the run has trained: FILE.py:NAME or MODULE:NAME. NAME is a Linen module, or a class or
    function that returns a Linen module."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Flags that select a run or published weights, and flags that change the preprocessing of images."""

    workdir: str | None = None
    """Run directory."""
    checkpoint: str | None = None
    """Checkpoint of the run: latest, best (the checkpoint with the best evaluation), or the number of a step (default:
    best if the run holds out validation images, else latest)."""
    model: str | None = None
    """With --weights: the architecture, such as resnet50. With --workdir: your own model that the run has trained,
    FILE.py:NAME or MODULE:NAME. NAME is a Linen module, or a class or function that returns a Linen module."""
    weights: str | None = None
    """Weights to use instead of a run: a file of torchvision, timm or jaxcnn, or hf:OWNER/NAME."""
    classes: str | None = None
    """Text file with the class names of the weights, one name per line."""
    image_size: int | tuple[int, int] | None = None
    """Side of the images in pixels, or height and width (default: the image size of the run or of the weights)."""
    resize: Literal["shorter", "stretch"] | int | None = None
    """How to resize an image before the center crop; see jaxcnn train (default: the method of the run or of the
    weights)."""
    crop_fraction: float | None = None
    """Side of the center crop as a fraction of the resized image (default: the fraction of the run or the weights)."""
    background: Literal["white", "black"] | None = None
    """Color behind transparent pixels (default: the color of the run, or white)."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, from 0 to 1, to normalize images (default: the mean of the run or of the weights)."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, from 0 to 1, to normalize images (default: the standard deviation of the run
    or of the weights)."""


CHANGES = ("image_size", "resize", "crop_fraction", "background", "mean", "std")
"""Fields of `NetworkOptions` that change the preprocessing. `Config` has fields with the same names."""


def open_run(folder: str, options: RunOptions | NetworkOptions) -> Trained:
    """Return the trained network in the chosen checkpoint of a run.

    Raises:
      UsageError: if the run or the checkpoint does not exist, or the run did not train the model that `--model` names.
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
            f"the run in {folder} trained {short_name(config.model)}, not {options.model}. Omit --model, or give "
            "your own model as FILE.py:NAME."
        )
    return train.load_run(folder, checkpoint=options.checkpoint)


def open_network(options: NetworkOptions, class_names: tuple[str, ...] | None = None) -> Trained:
    """Return the trained network of a run or of published weights, with the preprocessing that the flags select.

    Args:
      options: flags that select the network and its preprocessing.
      class_names: names of the classes of published weights if `--classes` is not given. Default: "0", "1", ...

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
    """Check that the flags select one network: either `--workdir`, or `--model` and `--weights`.

    Raises:
      UsageError: if the flags select no network or contradict each other.
    """
    if options.workdir is not None:
        given = next((name for name in ("weights", "classes") if getattr(options, name) is not None), None)
        if given is not None:
            raise UsageError(f"--workdir and --{given} are mutually exclusive. Omit one of the two flags.")
    elif options.weights is None:
        raise UsageError("no network given. Give a run with --workdir, or weights with --model and --weights.")
    elif options.model is None:
        raise UsageError(
            "the architecture of the weights is missing. Give --model, such as --model resnet50; see `jaxcnn models`."
        )
    elif options.checkpoint is not None:
        raise UsageError("--checkpoint applies only to a run. Give the run with --workdir, or omit --checkpoint.")


def _changed(trained: Trained, changes: dict[str, Any]) -> Trained:
    """Return the network with the preprocessing that the flags change.

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
                f"--{name} has {len(fields[name])} values, but images have {channels} channels. "
                "Give one value per channel."
            )
    if "resize" in fields:
        _check_resize(fields["resize"], fields.get("crop_fraction"), max(height, width))
    elif isinstance(before.resize, int):
        # A length in pixels belongs to the old image size. Scale the length, so that the crop contains the same part of
        # the image.
        scale = max(height, width) / max(before.image_shape[:2])
        fields["resize"] = "shorter" if "crop_fraction" in fields else round(before.resize * scale)
    return trained.with_preprocessing(dataclasses.replace(before, **fields))


def _check_resize(resize: str | int, crop_fraction: float | None, side: int) -> None:
    """Raise `UsageError` if `--resize` is a number of pixels that does not fit the image size or `--crop-fraction`."""
    if isinstance(resize, str):
        return
    if crop_fraction is not None:
        raise UsageError(
            f"--crop-fraction does not apply to --resize {resize}. Give --resize shorter, or omit --crop-fraction."
        )
    if resize < side:
        raise UsageError(f"--resize {resize} is less than the image size {side}. Give --resize {side} or more.")


def read_class_names(file: str) -> tuple[str, ...]:
    """Return the class names in a file that has one class name per line.

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
        raise UsageError(f"{file} has no class names. Write one class name per line.")
    return names


def source_note(trained: Trained, options: RunOptions | NetworkOptions) -> str:
    """Return a line that names the network which was used: model and step of a checkpoint, or model and weight file."""
    if isinstance(options, NetworkOptions) and options.weights is not None:
        return printable(f"{trained.name} with the weights of {options.weights}")
    return printable(f"{trained.name}, checkpoint of step {trained.step:,}")
