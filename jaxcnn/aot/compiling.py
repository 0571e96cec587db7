"""Compile the training step of a configuration for targets, such as TPU slices, that this machine may lack."""

import dataclasses
from collections.abc import Callable, Sequence

from jaxcnn.aot.auto_batch import largest_batch
from jaxcnn.aot.images import Images
from jaxcnn.aot.job import Effort, Job
from jaxcnn.aot.report import Report
from jaxcnn.aot.targets import Target, check_installed, parse_target
from jaxcnn.errors import UsageError
from jaxcnn.train import Config
from jaxcnn.train.config import validate

DEFAULT_TIMEOUT = 1800.0
"""Time limit of a compilation in seconds."""

Show = Callable[[str, str], None]
"""A function that shows progress, given the name of a target and the current stage, such as "compiling"."""


def compile_for(
    target: str,
    config: Config,
    *,
    per_device: bool = False,
    auto_batch: bool = False,
    images: Images | None = None,
    effort: Effort = "O1",
    timeout: float | None = DEFAULT_TIMEOUT,
    show: Show = lambda target, stage: None,
) -> Report:
    """Compile the training step of a configuration for a target that this machine may lack, and return its cost.

    The compiled step is the training step of `fit(config)`, with model, optimizer, augmentation, mixing, moving
    averages, gradient accumulation and steps per dispatch. The compiler of the target compiles the step in a fresh
    process. The step does not run.

    Args:
      target: a slice of TPUs such as "v5e:2x4" (chips v4, v5e, v5p, v6e), GPUs such as "h100" or "h100:8" (a100, h100,
        h200, b200), or "cpu".
      config: the configuration. For `parallel` "pmap" or "auto", `shard_map` is compiled, which runs the same step.
      per_device: whether `config.batch_size` is the number of images on each chip instead of the total number.
      auto_batch: whether to find the largest batch that fits each chip, and to ignore `config.batch_size`.
      images: shape and number of the training images, and number of classes. Default: the images of the
        configuration's dataset. For the default dataset, the default image shape of the model is used instead.
      effort: optimization level of the TPU compiler. "O1" compiles quickly; "default" takes minutes for deep models.
        The level has no effect for GPUs.
      timeout: time limit of each compilation in seconds.
      show: function that is called with the name of the target and the current stage, such as "compiling".

    Returns:
      The report. If the compilation fails or exceeds the time limit, the report has an `error`.

    Raises:
      UsageError: if the target or the configuration is invalid, or the compiler of the target is not installed.
    """
    return compile_all(
        [parse_target(target)],
        config,
        per_device=per_device,
        auto_batch=auto_batch,
        images=images,
        effort=effort,
        timeout=timeout,
        show=show,
    )[0]


def compile_all(
    targets: Sequence[Target],
    config: Config,
    *,
    per_device: bool = False,
    auto_batch: bool = False,
    images: Images | None = None,
    effort: Effort = "O1",
    timeout: float | None = DEFAULT_TIMEOUT,
    show: Show = lambda target, stage: None,
    on_report: Callable[[Report], None] = lambda report: None,
) -> list[Report]:
    """Compile a training step for several targets, one after another, and return a report for each target.

    Args:
      targets: the targets, from `parse_target`. All targets are checked before the first compilation.
      config, per_device, auto_batch, images, effort, timeout, show: see `compile_for`.
      on_report: function that is called with each report when the report is complete.

    >>> compile_all([parse_target("cpu")], Config(model="resnet5"))
    Traceback (most recent call last):
    ...
    jaxcnn.errors.UsageError: unknown model 'resnet5'; did you mean 'resnet50'?
    """
    validate(config)
    for target in targets:
        check_installed(target)
    images = images or images_of(config)
    sized = [_with_batch(config, target, images, per_device) for target in targets]
    reports = []
    for target, of_target in zip(targets, sized, strict=True):
        if auto_batch:
            report = _with_largest_batch(target, of_target, images, effort, timeout, show)
        else:
            report = _compile(target, of_target, images, effort, timeout, show)
        on_report(report)
        reports.append(report)
    return reports


def images_of(config: Config) -> Images:
    """Return the image shapes of the configuration's dataset, or of its model if the dataset is the default dataset.

    Raises:
      UsageError: if the model is unknown, or the dataset cannot be opened.
    """
    return Images.of_model(config) if config.dataset == Config.dataset else Images.of_dataset(config)


def _with_batch(config: Config, target: Target, images: Images, per_device: bool) -> Config:
    """Return the configuration with a batch size that counts the images on all chips of the target."""
    if config.batch_size == "full":
        if images.count is None:
            raise UsageError("batch_size full needs the number of training images. Give --dataset.")
        return config
    return dataclasses.replace(config, batch_size=config.batch_size * target.count) if per_device else config


def _compile(
    target: Target, config: Config, images: Images, effort: Effort, timeout: float | None, show: Show
) -> Report:
    return Job.of(target, config, images, effort).run(lambda stage: show(target.name, stage), timeout)


def _with_largest_batch(
    target: Target, config: Config, images: Images, effort: Effort, timeout: float | None, show: Show
) -> Report:
    if target.memory is None:
        raise UsageError(
            f"--batch-size auto needs the memory size of target {target.name}, and this size is unknown. "
            "Give --batch-size a number."
        )

    def compile_step(size: int) -> Report:
        sized = dataclasses.replace(config, batch_size=size * target.count)
        return _compile(
            target, sized, images, effort, timeout, lambda name, stage: show(name, f"batch {size}, {stage}")
        )

    return largest_batch(compile_step, unit=config.accumulate or 1)
