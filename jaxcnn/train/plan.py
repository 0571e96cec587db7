"""A run's parts, put together from its configuration and checked before anything is written or compiled."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import optax

from jaxcnn.data import Dataset, compose, normalize, open_dataset
from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm
from jaxcnn.models import create_model, model_fields
from jaxcnn.train.config import Config, validate
from jaxcnn.train.optimizers import make_optimizer
from jaxcnn.train.parallel import Parallel, check_batch_divides, make_parallel
from jaxcnn.train.schedules import make_schedule
from jaxcnn.train.state import TrainState, create_state
from jaxcnn.train.step import make_eval_step, make_train_step


@dataclass(frozen=True)
class Plan:
    """Everything about a run that does not change while it runs.

    Attributes:
      steps: updates that the run makes.
      template: the state's tree, shapes and dtypes.
    """

    config: Config
    dataset: Dataset
    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    parallel: Parallel
    steps: int
    template: TrainState

    def initial_state(self) -> TrainState:
        """The state before the first step, on one device."""
        return create_state(self.model, self.optimizer, self.dataset.image_shape, self.config.seed)

    def epoch(self, step: int) -> float:
        """How many times each training image has been seen after `step` updates, on average."""
        return step * self.config.batch_size / self.dataset.examples["train"]

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch, or the run, ends with the update number `step` (from 1)."""
        batch, examples = self.config.batch_size, self.dataset.examples["train"]
        return step == self.steps or step * batch // examples > (step - 1) * batch // examples

    def compile_train_step(self) -> Any:
        """The training step over the devices, `(state, batch) -> (state, metrics)`; it consumes its state."""
        step = make_train_step(
            self.model,
            self.optimizer,
            augment=compose(self.config.augment) if self.config.augment else None,
            normalize=self._normalize(),
            aux_weight=self.config.aux_weight,
            axis_name=self.parallel.axis_name,
        )
        return self.parallel.compile(step, donate_state=True)

    def compile_eval_step(self) -> Any:
        """The evaluation step over the devices, `(state, batch) -> metrics`."""
        step = make_eval_step(self.model, normalize=self._normalize(), axis_name=self.parallel.axis_name)
        return self.parallel.compile(step, donate_state=False)

    def _normalize(self) -> Any:
        statistics = self.dataset.statistics()
        return functools.partial(normalize, mean=statistics.mean, std=statistics.std)


def make_plan(config: Config) -> Plan:
    """The parts of the run that `config` describes.

    Raises:
      UsageError: a configuration that cannot work, in one line.
    """
    validate(config)
    dataset = open_dataset(config.dataset, config.data_dir)
    model = _build_model(config, dataset.num_classes)
    parallel = make_parallel(config.parallel)
    if parallel.axis_name is None and not config.sync_batch_norm:
        raise UsageError("sync_batch_norm cannot be off under parallel 'jit', which sees one whole batch; use pmap")
    compose(config.augment)  # refuses unknown names
    examples = dataset.examples["train"]
    if config.batch_size > examples:
        raise UsageError(f"batch_size {config.batch_size} is more than the {examples} training images")
    check_batch_divides(config.batch_size, len(parallel.devices))
    steps_per_epoch = examples / config.batch_size
    steps = config.steps or math.ceil(config.epochs * steps_per_epoch)
    schedule = make_schedule(config.schedule, config.optimizer.learning_rate, steps, steps_per_epoch)
    optimizer = make_optimizer(config.optimizer, schedule)
    template = jax.eval_shape(lambda: create_state(model, optimizer, dataset.image_shape, config.seed))
    return Plan(config, dataset, model, optimizer, schedule, parallel, steps, template)


def _build_model(config: Config, num_classes: int) -> nn.Module:
    fields = {}
    if not config.sync_batch_norm and "norm" in model_fields(config.model):
        fields["norm"] = functools.partial(BatchNorm, axis_name=None)
    return create_model(config.model, num_classes, **fields)
