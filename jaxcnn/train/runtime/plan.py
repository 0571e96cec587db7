"""Build all parts of a run from its configuration, before files are written and programs are compiled."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn import kernels
from jaxcnn.data import Dataset, Pipeline, compose, open_dataset, open_pipeline
from jaxcnn.data.augment import check_sizes
from jaxcnn.errors import UsageError
from jaxcnn.train import metrics
from jaxcnn.train.class_weights import normalized_weights
from jaxcnn.train.config import Config, validate
from jaxcnn.train.config.checks import MAX_STEPS
from jaxcnn.train.devices.parallel import Parallel, batch_norm_fields, check_batch_divides, make_parallel
from jaxcnn.train.gradient import Gradient, parts_of_full_batch
from jaxcnn.train.optim.freezing import Freezing, check_expressions
from jaxcnn.train.optim.lookahead import growing_lookahead
from jaxcnn.train.optim.schedules import make_schedule
from jaxcnn.train.parts import (
    PREFIX,
    CustomParts,
    build_augmentations,
    build_gradient,
    build_model,
    build_optimizer,
    build_task,
    build_template,
)
from jaxcnn.train.runtime.data_identity import check_data
from jaxcnn.train.runtime.initial_weights import InitialWeights, Whitening, initial_weights
from jaxcnn.train.runtime.preprocessing import Preprocessing
from jaxcnn.train.state import TrainState, create_state
from jaxcnn.train.step import make_eval_step, make_train_step
from jaxcnn.train.task import Classification, Task, higher_is_better
from jaxcnn.train.task_checks import check_objects, check_shapes, check_task, readable_keys


@dataclass(frozen=True)
class Plan:
    """All parts of a run that stay constant during training.

    Attributes:
      config: the configuration that the run directory records, with descriptions of custom parts.
      dataset: dataset with the images and labels of the run.
      preprocessing: object that converts image files to the input of the model.
      pipeline: object that makes batches of the dataset, and applies the augmentations that do not run on the device.
      model: the network.
      task: the task, bound to the preprocessing.
      gradient: function that computes the gradient of the loss.
      monitor: metric that chooses the best checkpoint.
      optimizer: optimizer of the trainable parameters, with a loss scale if the dtype is float16.
      schedule: learning rate as a function of the step.
      parallel: object that distributes steps over devices.
      batch_size: number of images in a step, summed over all devices.
      accumulate: number of micro-batches per step on each device.
      steps: number of training steps of the run.
      template: pytree with the structure of the training state, and with the shapes and dtypes of its arrays.
      initial: initial weights, or None if the run starts from random weights.
      programs: cache of compiled steps. Plans that differ only in their seeds may share the cache.
    """

    config: Config
    dataset: Dataset
    preprocessing: Preprocessing
    pipeline: Pipeline
    model: nn.Module
    task: Task
    gradient: Gradient
    monitor: str
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    parallel: Parallel
    batch_size: int
    accumulate: int
    steps: int
    template: TrainState
    initial: InitialWeights | Whitening | None = None
    programs: dict[Any, Any] = field(default_factory=dict, repr=False)

    def initial_state(self) -> TrainState:
        """Return the state before the first step, on one device.

        Raises:
          UsageError: if `config.init_from` is the record of a finished run, which does not contain the path of the
            file.
        """
        if self.config.init_from is not None and self.initial is None:
            raise UsageError(
                f"init_from {self.config.init_from} is the record of a run, not a file. "
                "To start a new run, give the path of the file."
            )
        # The seed is an argument of the program, so that plans with different seeds share the program. The program
        # runs only once for each plan, so a short compile time matters more than fast code.
        quick = {"xla_backend_optimization_level": 0} if kernels.on_cpu() else None
        create = self._program("state", lambda: jax.jit(self.create_state, compiler_options=quick))
        state = create(jax.device_put(np.uint32(self.config.seed)))
        return state if self.initial is None else self.initial.put_into(state, self.optimizer)

    def create_state(self, seed: int | jax.Array, init_scale: float | jax.Array | None = None) -> TrainState:
        """Return a random training state before the first step. JAX may trace this method.

        Args:
          seed: seed of the run.
          init_scale: factor on the initial kernels. Default: `config.init_scale`.
        """
        scale = self.config.init_scale if init_scale is None else init_scale
        return _create_state(self.config, self.model, self.task, self.optimizer, self.example, seed, scale)

    @property
    def example(self) -> Any:
        """Shapes and dtypes of a batch of one example, in the form that the task gets."""
        return self.pipeline.example

    @property
    def held_out(self) -> str:
        """The split that chooses the best checkpoint: "validation" if the run has a validation set, else "test"."""
        return "validation" if "validation" in self.dataset.examples else "test"

    def epoch(self, step: int) -> float:
        """Return the mean number of times that each training image has been used after `step` steps."""
        return step * self.batch_size / self.dataset.examples["train"]

    def evaluates_after(self, step: int) -> bool:
        """Return whether the run evaluates after step `step`, counted from 1; see `Config.evaluate_every`."""
        every = self.config.evaluate_every
        if every is not None:
            return step == self.steps or step % every == 0
        batch, examples = self.batch_size, self.dataset.examples["train"]
        return step == self.steps or step * batch // examples > (step - 1) * batch // examples

    def saves_after(self, step: int) -> bool:
        """Return whether the run saves a checkpoint after step number `step`, counted from 1."""
        every = self.config.checkpoint_every
        return self.evaluates_after(step) or (every is not None and step % every == 0)

    def score(self, values: dict[str, Any]) -> float:
        """Return the monitored metric of an evaluation, negated if smaller values are better."""
        value = metrics.numbers(values).get(self.monitor)
        if value is None or math.isnan(value):
            return -math.inf
        return value if higher_is_better(self.monitor) else -value

    def notes(self) -> list[str]:
        """Return notes for the user before the run starts, one line each."""
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
        note = f"each step sums the gradients of {self.accumulate} micro-batches of about {images:,} images per device"
        if jax.tree.leaves(self.template.batch_stats):
            note += "; batch normalization computes its statistics over each micro-batch, not over the whole batch"
        return note

    def compile_train_step(self) -> Any:
        """Return the compiled training step `(state, batch) -> (state, sums)`. The state is donated."""
        return self._program("step", lambda: self.parallel.compile(self.train_step(), donate_state=True))

    def compile_train_steps(self, count: int, parallel: Parallel | None = None) -> Any:
        """Return a compiled program of `count` training steps. Batches and sums have a leading axis `[count]`.

        Args:
          count: number of steps.
          parallel: object that distributes the steps over devices. Default: the `parallel` of this plan.
        """
        step = self.train_step(norms=self.verifies_norms)
        make = (parallel or self.parallel).compile
        return self._program((count, parallel), lambda: make(step, donate_state=True, several=True))

    @property
    def verifies_norms(self) -> bool:
        """Return whether compiled steps also return norms, which the run verifies against bounds."""
        return self.config.verify_every is not None and self.config.verify.bounds > 0

    def compile_eval_step(self) -> Any:
        """Return the compiled evaluation step `(state, padded) -> sums`."""
        step = make_eval_step(self.model, self.task)
        return self._program("eval", lambda: self.parallel.compile(step, donate_state=False))

    def _program(self, name: Any, make: Callable[[], Any]) -> Any:
        if name not in self.programs:
            self.programs[name] = make()
        return self.programs[name]

    def train_step(self, *, norms: bool = False) -> Any:
        """Return the uncompiled training step `(state, batch) -> (state, sums)`. `norms`: see `make_train_step`."""
        return make_train_step(
            self.model,
            self.optimizer,
            self.task,
            gradient=self.gradient,
            ema_decay=self.config.ema_decay,
            lookahead=growing_lookahead(**vars(self.config.lookahead), steps=self.steps),
            norms=norms,
        )

    def summarize(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Convert sums over examples to metrics, as JSON values. The entry `examples` is the number of examples."""
        count = int(sums["examples"])
        values = self.task.summarize({name: total for name, total in sums.items() if name != "examples"}, count)
        return {**{name: metrics.as_lists(value) for name, value in values.items()}, "examples": count}


def make_plan(
    config: Config,
    custom: CustomParts | None = None,
    recorded: Preprocessing | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    data: Dataset | None = None,
    devices: Sequence[Any] | None = None,
) -> Plan:
    """Build the parts of the run that `config` describes.

    Args:
      config: the configuration of the run.
      custom: model, task, optimizer and other parts that the user passes as Python objects.
      recorded: preprocessing that the run directory stores. Default: the preprocessing of a new run.
      progress: function that shows the progress of preparing an image folder; see `open_dataset`.
      data: the user's own data, in place of the dataset that `config.dataset` names.
      devices: devices to shard a batch over. Default: all devices, or one device if `batch_size` is 1.

    Raises:
      UsageError: if a value of the configuration is not valid. The error message is one line.
    """
    custom = custom or CustomParts()
    check_objects(custom.task, custom.model)
    validate(config)
    kernels.check()
    dataset = _open_data(config, data, progress)
    if recorded is not None and recorded.class_names:
        dataset = dataset.with_classes(recorded.class_names)
    if custom.task is None and not dataset.class_names:
        raise UsageError(
            f"dataset {dataset.name!r} has no classes. Give its class_names, or pass a task of your own: "
            "fit(config, task=...)"
        )
    preprocessing = recorded or Preprocessing.of(dataset, config)
    parallel, batch_size, accumulate = _distribute(config, dataset.examples["train"], devices)
    norm_fields = batch_norm_fields(config.sync_batch_norm, parallel, config.batch_norm_reduce_dtype)
    model = build_model(config, custom, dataset.num_classes, norm_fields)
    weights = None if config.class_weights is None else normalized_weights(config.class_weights, dataset)
    augmentations = () if custom.task is not None else build_augmentations(config, custom)
    pipeline = open_pipeline(
        dataset,
        batch_size,
        config.seed,
        geometry=preprocessing.geometry,
        augment=augmentations,
        share=parallel.share,
        sampling=config.sampling,
    )
    check_sizes(augmentations, pipeline.image_shape)
    soft = has_soft_labels(pipeline.example)
    if recorded is None and custom.task is None and soft and config.loss != "cross_entropy":
        preprocessing = dataclasses.replace(preprocessing, multi_label=True)
    task = build_task(
        config,
        custom,
        augment=compose(pipeline.device_augment) if pipeline.device_augment else None,
        weights=weights,
        num_classes=dataset.num_classes,
        soft=soft,
    ).bind(preprocessing)
    if config.tensorboard_images and type(task).scores is Task.scores:
        raise UsageError(
            f"tensorboard_images needs class scores, which task {type(task).__name__} does not have. "
            "Define the task's method scores, or omit tensorboard_images."
        )
    steps_per_epoch = dataset.examples["train"] / batch_size
    steps = config.steps or math.ceil(config.epochs * steps_per_epoch)
    if steps > MAX_STEPS:
        raise UsageError(f"epochs {config.epochs:g} are too many: {steps:,} steps. Use at most {MAX_STEPS:,} steps.")
    schedule = make_schedule(config.schedule, config.optimizer.learning_rate, steps, steps_per_epoch)
    optimizer = build_optimizer(config, custom, schedule, steps_per_epoch)
    example = pipeline.example
    with readable_keys(task, example):
        create = partial(_create_state, config, model, task, optimizer, example, config.seed, config.init_scale)
        template = build_template(config, model, pipeline.image_shape, create)
    check_expressions(config, template.params)
    initial = initial_weights(config, model, dataset, preprocessing, template.params)
    if isinstance(initial, InitialWeights):
        config = dataclasses.replace(config, init_from=initial.record)
    if custom != CustomParts() and isinstance(task, Classification):
        check_shapes(pipeline.image_shape, dataset.num_classes, model, template, task)
    plan = Plan(
        config=custom.recorded(config),
        dataset=dataset,
        preprocessing=preprocessing,
        pipeline=pipeline,
        model=model,
        task=task,
        gradient=build_gradient(config, accumulate, custom),
        monitor=config.monitor or task.monitor,
        optimizer=optimizer,
        schedule=schedule,
        parallel=parallel,
        batch_size=batch_size,
        accumulate=accumulate,
        steps=steps,
        template=template,
        initial=initial,
    )
    if config.monitor is not None or custom.task is not None or custom.gradient is not None or custom.metrics:
        check_task(plan)
    return plan


def _open_data(config: Config, data: Dataset | None, progress: Callable[[str, int, int], None] | None) -> Dataset:
    """Return the data of a run, with the validation examples that the configuration asks for."""
    if data is None:
        own_data = config.dataset.startswith(PREFIX)
        if own_data:
            name = config.dataset.removeprefix(PREFIX)
            raise UsageError(f"this run used a custom dataset: {name}. Pass the dataset again in Python: data=...")
        data = open_dataset(
            config.dataset,
            config.data_dir,
            skip_damaged=config.skip_damaged,
            train_split=config.train_split,
            test_split=config.test_split,
            progress=progress,
        )
    check_data(data)
    if config.verify_every and config.verify.replay == "interval" and not data.random_access:
        raise UsageError(
            "verify.replay 'interval' needs data with random access. Use verify.replay 'last', or a dataset made with "
            "from_source."
        )
    return data if config.validation is None else data.with_validation(config.validation, config.seed)


def has_soft_labels(example: Any) -> bool:
    """Return whether each label is a vector with one weight per class. `example` has the shapes of a batch."""
    label = example.get("label") if isinstance(example, dict) else None
    return label is not None and len(label.shape) == 2


def _create_state(
    config: Config, model: nn.Module, task: Task, optimizer: Any, example: Any, seed: Any, init_scale: Any
) -> TrainState:
    def init(rngs: Any) -> Any:
        return task.init(
            model, rngs, jax.tree.map(lambda x: jnp.zeros(x.shape, jax.dtypes.canonicalize_dtype(x.dtype)), example)
        )

    return create_state(model, optimizer, (), seed, averaged=config.averages, init=init, init_scale=init_scale)


def _distribute(config: Config, examples: int, devices: Sequence[Any] | None) -> tuple[Parallel, int, int]:
    """Return the devices, the batch size over all devices, and the number of micro-batches on each device.

    Args:
      config: configuration of the run.
      examples: number of training images.
      devices: the devices to use, or None for the default of `make_plan`.
    """
    if devices is None and config.batch_size == 1 and jax.process_count() == 1:
        # A batch of one image cannot be sharded over several devices.
        devices = jax.local_devices()[:1]
    parallel = make_parallel(config.parallel, devices, shard_state=config.shard_state)
    count = len(parallel.devices)
    if config.batch_size == "full":
        if examples % count:
            remedy = f"use {examples // count * count}" if examples > count else "use fewer devices"
            raise UsageError(
                f"batch_size full: {examples} training images cannot be divided over {count} devices; {remedy}"
            )
        images = examples // count
        if (config.accumulate or 1) > images:
            raise UsageError(
                f"accumulate {config.accumulate} is more than the {images} training images on each device; "
                f"use at most {images}"
            )
        return parallel, examples, config.accumulate or parts_of_full_batch(images)
    if config.batch_size > examples:
        raise UsageError(f"batch_size {config.batch_size} is more than the {examples} training images")
    check_batch_divides(config.batch_size, count, most=examples)
    images, accumulate = config.batch_size // count, config.accumulate or 1
    if images % accumulate:
        divisor = max(parts for parts in range(1, min(accumulate, images + 1)) if images % parts == 0)
        raise UsageError(
            f"accumulate {accumulate} does not divide the {images} images of a batch on each device; use {divisor}"
        )
    return parallel, config.batch_size, accumulate
