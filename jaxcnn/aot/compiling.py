"""Compile the training step of a configuration for targets that need not exist: `compile_for`."""

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
"""Is called with the name of a target and the current stage, such as "compiling"."""


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
    """Compile the training step of a configuration for a target that need not exist, and return its cost.

    The step is the one that `fit(config)` makes: model, optimizer, augmentation, mixing, averages, accumulation and
    steps per dispatch. It is compiled by the target's own compiler, in a fresh process. Nothing runs.

    Args:
      target: a slice of TPUs such as "v5e:2x4" (chips v4, v5e, v5p, v6e), GPUs such as "h100" or "h100:8" (a100, h100,
        h200, b200), or "cpu".
      config: the configuration. `pmap` and `auto` are compiled as `shard_map`, which runs the same step.
      per_device: whether `config.batch_size` is the number of images on each chip, not on all chips together.
      auto_batch: find the largest batch that fits each chip; `config.batch_size` is then not used.
      images: shape of the images, and number of classes. Default: those of the configuration's dataset, or, for the
        default dataset, those that the model was made for.
      effort: "O1" compiles quickly for TPUs, "default" takes minutes for deep models. It does not change GPU programs.
      timeout: time limit of each compilation in seconds.
      show: called with the name of the target and the current stage.

    Returns:
      The report. If the compilation fails or exceeds the time limit, a report with an `error`.

    Raises:
      UsageError: if the target or the configuration cannot work, or the target's compiler is not installed.
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
    """Compile for several targets, one after another; see `compile_for`.

    Args:
      targets: the targets. All are checked before the first compilation.
      config, per_device, auto_batch, images, effort, timeout, show: as for `compile_for`.
      on_report: called with each report when it is complete.

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
    """Return the images of the dataset of a configuration, or of its model if it names the default dataset.

    Raises:
      UsageError: if the model is unknown, or the dataset cannot be opened.
    """
    return Images.of_model(config) if config.dataset == Config.dataset else Images.of_dataset(config)


def _with_batch(config: Config, target: Target, images: Images, per_device: bool) -> Config:
    """Return the configuration with the batch size over all chips."""
    if config.batch_size == "full":
        if images.count is None:
            raise UsageError("batch_size full needs the number of training images. Name a dataset with --dataset.")
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
        raise UsageError(f"--batch-size auto needs a target whose memory is known, not {target.name}. Give a number.")

    def compile_step(size: int) -> Report:
        sized = dataclasses.replace(config, batch_size=size * target.count)
        return _compile(
            target, sized, images, effort, timeout, lambda name, stage: show(name, f"batch {size}, {stage}")
        )

    return largest_batch(compile_step, unit=config.accumulate or 1)
