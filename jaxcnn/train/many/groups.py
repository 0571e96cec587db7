"""Group networks that share a setting, a compiled program or a dataset, and make their plans."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcnn.data import Dataset, Pipeline, open_dataset
from jaxcnn.train.config import Config
from jaxcnn.train.many.names import fields_of
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime import preprocessing
from jaxcnn.train.runtime.plan import Plan, make_plan

HYPERPARAMETERS = ("optimizer.learning_rate", "optimizer.weight_decay", "label_smoothing")
"""Fields of the configuration that may be arguments of a program: arrays with one number for each network."""

INITIAL = ("seed", "init_scale")
"""Fields of the configuration that change the state before the first step, but not the compiled program."""

DATA = ("dataset", "data_dir", "skip_damaged", "train_split", "test_split")
"""Fields of the configuration that choose the data."""


@dataclass(frozen=True)
class Network:
    """One network of a sweep.

    Attributes:
      name: name of the network's run directory.
      config: configuration of the network, whose field `workdir` is the network's run directory.
    """

    name: str
    config: Config

    @property
    def folder(self) -> Path:
        return Path(str(self.config.workdir))


def program_key(config: Config) -> str:
    """Return a text that is equal for networks that one compiled program can train together.

    Networks with a weight decay of 0 get a text of their own, since the state of their optimizer has no entry for the
    weight decay.
    """
    fields = {name: value for name, value in fields_of(config).items() if name not in (*HYPERPARAMETERS, *INITIAL)}
    # Class weights are constants of a program, and may depend on which images are held out for validation.
    seed = config.seed if holds_out_by_seed(config) and config.class_weights is not None else None
    return json.dumps([fields, config.optimizer.weight_decay > 0, seed], sort_keys=True)


def setting_key(config: Config) -> str:
    """Return a text that is equal for configurations that differ only in their seeds."""
    return json.dumps({name: value for name, value in fields_of(config).items() if name != "seed"}, sort_keys=True)


def holds_out_by_seed(config: Config) -> bool:
    """Return whether the choice of validation images, and therefore of training images, depends on the seed."""
    return isinstance(config.validation, float)


class Plans:
    """Make the plans of networks. Networks that differ only in their seeds share a model and compiled programs.

    Args:
      parts: custom parts that were passed to `fit_many`, such as a model.
      data: the dataset that was passed to `fit_many`, or None.
      devices: devices to shard batches over; None for all devices.
    """

    def __init__(self, parts: CustomParts, data: Dataset | None, devices: Sequence[Any] | None = None):
        self.parts, self._devices = parts, devices
        self._data = data
        self._opened: dict[Any, Dataset] = {}
        self._of_setting: dict[str, Plan] = {}
        self._programs: dict[Any, dict[Any, Any]] = {}

    def whole(self, config: Config) -> Dataset:
        """Return the dataset of a network, without splitting off validation images. Open each dataset only once."""
        if self._data is not None:
            return self._data
        values = {name: getattr(config, name) for name in DATA}
        key = tuple(values.values())
        if key not in self._opened:
            self._opened[key] = open_dataset(values.pop("dataset"), values.pop("data_dir"), **values)
        return self._opened[key]

    def plan(self, network: Network) -> Plan:
        """Return the plan of a network.

        Raises:
          UsageError: if a value of the network's configuration is not valid.
        """
        config = network.config
        stored = preprocessing.read(network.folder) if network.folder.is_dir() else None
        if holds_out_by_seed(config):
            return self._sharing_programs(self._make(config, stored))
        key = setting_key(config)
        if key not in self._of_setting:
            self._of_setting[key] = self._make(config, None)
        plan = self._of_setting[key]
        if stored not in (None, plan.preprocessing):
            return self._make(config, stored)
        recorded = dataclasses.replace(plan.config, seed=config.seed, workdir=config.workdir)
        return dataclasses.replace(plan, config=recorded, pipeline=_with_seed(plan.pipeline, config.seed))

    def _make(self, config: Config, stored: Any) -> Plan:
        plan = make_plan(config, self.parts, stored, data=self.whole(config), devices=self._devices)
        return dataclasses.replace(plan, pipeline=_with_seed(plan.pipeline, config.seed))

    def _sharing_programs(self, plan: Plan) -> Plan:
        """Return a copy of the plan that shares compiled programs with plans of the same setting, where possible."""
        if plan.config.class_weights is not None:
            return plan
        key = (setting_key(plan.config), plan.preprocessing)
        return dataclasses.replace(plan, programs=self._programs.setdefault(key, plan.programs))


def _with_seed(pipeline: Pipeline, seed: int) -> Pipeline:
    """Return a copy of the pipeline that shuffles the examples with the seed `seed`."""
    # Each network has its own cache of the orders of two epochs, since a shared cache would be too small.
    order = functools.lru_cache(maxsize=2)(pipeline.order)
    return dataclasses.replace(pipeline, seed=seed, order=order, waited=0.0)
