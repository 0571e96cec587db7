"""Put the parts of a run together from its configuration, before anything is written or compiled."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import optax

from jaxcnn import kernels
from jaxcnn.data import Dataset, Pipeline, compose, open_dataset, open_pipeline
from jaxcnn.data.augment import check_sizes
from jaxcnn.errors import UsageError
from jaxcnn.train.class_weights import normalized_weights
from jaxcnn.train.config import Config, validate
from jaxcnn.train.config_checks import MAX_STEPS
from jaxcnn.train.devices.parallel import Parallel, batch_norm_fields, check_batch_divides, make_parallel
from jaxcnn.train.gradient import parts_of_full_batch
from jaxcnn.train.losses import Loss, weighted
from jaxcnn.train.mixing import make_mix
from jaxcnn.train.optim.freezing import Freezing
from jaxcnn.train.optim.schedules import make_schedule
from jaxcnn.train.parameter_paths import check_matches, parse_scales
from jaxcnn.train.parts import (
    CustomParts,
    build_augmentations,
    build_gradient,
    build_losses,
    build_model,
    build_optimizer,
    build_template,
    check_shapes,
)
from jaxcnn.train.prepare import make_prepare
from jaxcnn.train.runtime.initial_weights import InitialWeights, read_initial_weights
from jaxcnn.train.runtime.preprocessing import Preprocessing
from jaxcnn.train.state import TrainState, create_state
from jaxcnn.train.step import make_eval_step, make_train_step


@dataclass(frozen=True)
class Plan:
    """Everything about a run that does not change while it runs.

    Attributes:
      config: the configuration that the run records, with descriptions of custom parts.
      dataset: the images and labels.
      preprocessing: from image files to the input of the model.
      pipeline: makes batches of the dataset, and applies the augmentations that are not left to `augment`.
      model: the network.
      loss: training loss, with label smoothing and class weights if configured.
      test_loss: test loss.
      augment: augmentation of one image on the device; None for none.
      optimizer: of the trainable parameters, with a loss scale in float16.
      schedule: the learning rate by step.
      parallel: how steps are distributed over devices.
      batch_size: images in a step, over all devices together.
      accumulate: micro-batches per step on each device.
      steps: training steps of the run.
      template: tree, shapes and dtypes of the state.
      initial: initial weights, if the run does not start from random ones.
    """

    config: Config
    dataset: Dataset
    preprocessing: Preprocessing
    pipeline: Pipeline
    model: nn.Module
    loss: Loss
    test_loss: Loss
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    parallel: Parallel
    batch_size: int
    accumulate: int
    steps: int
    template: TrainState
    initial: InitialWeights | None = None

    def initial_state(self) -> TrainState:
        """Return the state before the first step, on one device.

        Raises:
          UsageError: If the initial weights are needed but only their record is known.
        """
        if self.config.init_from is not None and self.initial is None:
            raise UsageError(
                f"init_from {self.config.init_from} is the record of a run, not a file. "
                "To start a new run, give the file itself"
            )
        state = _create_state(self.config, self.model, self.optimizer, self.pipeline.image_shape)
        return state if self.initial is None else self.initial.put_into(state, self.optimizer)

    def epoch(self, step: int) -> float:
        """Return the mean number of times that each training image has been seen after `step` steps."""
        return step * self.batch_size / self.dataset.examples["train"]

    def ends_epoch(self, step: int) -> bool:
        """Return whether an epoch, or the run, ends with step number `step` (from 1)."""
        batch, examples = self.batch_size, self.dataset.examples["train"]
        return step == self.steps or step * batch // examples > (step - 1) * batch // examples

    def saves_after(self, step: int) -> bool:
        """Return whether a checkpoint follows step number `step` (from 1)."""
        every = self.config.checkpoint_every
        return self.ends_epoch(step) or (every is not None and step % every == 0)

    def notes(self) -> list[str]:
        """Return what the user should know about this run before it starts, one line each."""
        notes = [*self.dataset.notes]
        if self.initial is not None:
            notes.append(self.initial.note)
        if self.config.freeze is not None:
            notes.append(Freezing(self.config.freeze).note(self.template.params))
        if self.initial is not None and self.initial.normalization_note is not None:
            notes.append(self.initial.normalization_note)
        return notes if self.accumulate == 1 else [*notes, self._note_of_accumulation()]

    def _note_of_accumulation(self) -> str:
        images = self.batch_size // len(self.parallel.devices) // self.accumulate
        note = f"each step sums the gradients of {self.accumulate} micro-batches of about {images:,} images a device"
        if jax.tree.leaves(self.template.batch_stats):
            note += "; batch normalization takes its statistics over each micro-batch, not over the whole batch"
        return note

    def compile_train_step(self) -> Any:
        """Return the compiled training step `(state, batch) -> (state, metrics)`. The state is donated."""
        return self.parallel.compile(self._train_step(), donate_state=True)

    def compile_train_steps(self, count: int) -> Any:
        """Return `count` training steps as one program. Batches and metrics have a leading axis `[count]`."""
        return self.parallel.compile(self._train_step(), donate_state=True, steps=count)

    def _train_step(self) -> Any:
        return make_train_step(
            self.model,
            self.optimizer,
            self.loss,
            prepare=make_prepare(self.augment, make_mix(self.config.mixup, self.config.cutmix)),
            normalize=self.preprocessing.normalize,
            aux_weight=self.config.aux_weight,
            gradient=build_gradient(self.config, self.accumulate),
            ema_decay=self.config.ema_decay,
            axis_name=self.parallel.axis_name,
        )

    def compile_eval_step(self) -> Any:
        """Return the compiled evaluation step `(state, batch) -> metrics`."""
        step = make_eval_step(
            self.model,
            self.test_loss,
            normalize=self.preprocessing.normalize,
            flip=self.config.tta == "flip",
            axis_name=self.parallel.axis_name,
        )
        return self.parallel.compile(step, donate_state=False)


def make_plan(
    config: Config,
    custom: CustomParts | None = None,
    recorded: Preprocessing | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Plan:
    """Build the parts of the run that `config` describes.

    Args:
      config: the configuration of the run.
      custom: the user's own parts.
      recorded: preprocessing that the run directory stores. Default: that of a new run.
      progress: shows how far the preparation of an image folder is; see `open_dataset`.

    Raises:
      UsageError: If the configuration cannot work. The message is one line.
    """
    custom = custom or CustomParts()
    validate(config)
    kernels.check()
    dataset = open_dataset(
        config.dataset,
        config.data_dir,
        skip_damaged=config.skip_damaged,
        train_split=config.train_split,
        test_split=config.test_split,
        progress=progress,
    )
    if recorded is not None:
        dataset = dataset.with_classes(recorded.class_names)
    preprocessing = recorded or Preprocessing.of(dataset, config)
    parallel, batch_size, accumulate = _distribute(config, dataset.examples["train"])
    model = build_model(config, custom, dataset.num_classes, batch_norm_fields(config.sync_batch_norm, parallel))
    loss, test_loss = build_losses(config, custom)
    if config.class_weights is not None:
        loss = weighted(loss, normalized_weights(config.class_weights, dataset))
    augmentations = build_augmentations(config, custom)
    pipeline = open_pipeline(
        dataset,
        batch_size,
        config.seed,
        geometry=preprocessing.geometry,
        augment=augmentations,
        share=parallel.share,
    )
    check_sizes(augmentations, pipeline.image_shape)
    augment = compose(pipeline.device_augment) if pipeline.device_augment else None
    steps_per_epoch = dataset.examples["train"] / batch_size
    steps = config.steps or math.ceil(config.epochs * steps_per_epoch)
    if steps > MAX_STEPS:
        raise UsageError(f"epochs {config.epochs:g} are too many: {steps:,} steps. Use at most {MAX_STEPS:,} steps")
    schedule = make_schedule(config.schedule, config.optimizer.learning_rate, steps, steps_per_epoch)
    optimizer = build_optimizer(config, custom, schedule)
    shape = pipeline.image_shape
    template = build_template(config, model, shape, lambda: _create_state(config, model, optimizer, shape))
    if config.freeze is not None:
        Freezing(config.freeze).check(template.params)
    for pattern, _ in parse_scales(config.optimizer.learning_rate_scales):
        check_matches("optimizer.learning_rate_scales", pattern, template.params)
    initial = None
    if config.init_from is not None:
        initial = read_initial_weights(
            config.init_from, config.model, model, dataset.num_classes, preprocessing, config.init_channels
        )
        if initial is not None:
            config = dataclasses.replace(config, init_from=initial.record)
    elif config.init_channels != "exact":
        raise UsageError("init_channels applies only to initial weights. Give a file with init_from, or omit it.")
    if custom != CustomParts():
        check_shapes(pipeline.image_shape, dataset.num_classes, model, template, test_loss, augment)
    return Plan(
        config=custom.recorded(config),
        dataset=dataset,
        preprocessing=preprocessing,
        pipeline=pipeline,
        model=model,
        loss=loss,
        test_loss=test_loss,
        augment=augment,
        optimizer=optimizer,
        schedule=schedule,
        parallel=parallel,
        batch_size=batch_size,
        accumulate=accumulate,
        steps=steps,
        template=template,
        initial=initial,
    )


def _create_state(config: Config, model: nn.Module, optimizer: Any, image_shape: tuple[int, ...]) -> TrainState:
    return create_state(model, optimizer, image_shape, config.seed, averaged=config.ema_decay > 0)


def _distribute(config: Config, examples: int) -> tuple[Parallel, int, int]:
    """Return the devices, the batch size over all of them, and the micro-batches on each.

    Args:
      config: of the run.
      examples: training images.
    """
    # A batch of one image cannot be sharded: stochastic gradient descent uses one device.
    devices = jax.local_devices()[:1] if config.batch_size == 1 and jax.process_count() == 1 else None
    parallel = make_parallel(config.parallel, devices, shard_state=config.shard_state)
    count, platform = len(parallel.devices), parallel.devices[0].platform
    if config.batch_size == "full":
        if examples % count:
            raise UsageError(
                f"batch_size full: {examples} training images cannot be divided over {count} devices; "
                f"use {examples // count * count}"
            )
        images = examples // count
        if (config.accumulate or 1) > images:
            raise UsageError(
                f"accumulate {config.accumulate} is more than the {images} training images on each device; "
                f"use at most {images}"
            )
        return parallel, examples, config.accumulate or parts_of_full_batch(images, platform)
    if config.batch_size > examples:
        raise UsageError(f"batch_size {config.batch_size} is more than the {examples} training images")
    check_batch_divides(config.batch_size, count)
    images, accumulate = config.batch_size // count, config.accumulate or 1
    if images % accumulate:
        divisor = max(parts for parts in range(1, min(accumulate, images + 1)) if images % parts == 0)
        raise UsageError(
            f"accumulate {accumulate} does not divide the {images} images of a batch on each device; use {divisor}"
        )
    return parallel, config.batch_size, accumulate
