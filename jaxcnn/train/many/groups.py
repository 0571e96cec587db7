"""Group networks that share a setting, a program, or data, and plan them."""

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
"""Fields that a program may take as arrays, one number for each network."""

INITIAL = ("seed", "init_scale")
"""Fields that change the state before the first step, and no program."""

DATA = ("dataset", "data_dir", "skip_damaged", "train_split", "test_split")
"""Fields that choose the data."""


@dataclass(frozen=True)
class Network:
    """One network of many.

    Attributes:
      name: name of its run directory.
      config: its configuration, with this directory as `workdir`.
    """

    name: str
    config: Config

    @property
    def folder(self) -> Path:
        return Path(str(self.config.workdir))


def program_key(config: Config) -> str:
    """Return a text that is equal for networks that one program can train together.

    The optimizer's state has no entry for a weight decay of 0, so that networks with and without it are apart.
    """
    fields = {name: value for name, value in fields_of(config).items() if name not in (*HYPERPARAMETERS, *INITIAL)}
    # The class weights, which are constants of a program, may depend on which images are held out.
    seed = config.seed if holds_out_by_seed(config) and config.class_weights is not None else None
    return json.dumps([fields, config.optimizer.weight_decay > 0, seed], sort_keys=True)


def setting_key(config: Config) -> str:
    """Return a text that is equal for configurations that differ by seed only."""
    return json.dumps({name: value for name, value in fields_of(config).items() if name != "seed"}, sort_keys=True)


def holds_out_by_seed(config: Config) -> bool:
    """Return whether the validation images, and so the training images, depend on the seed."""
    return isinstance(config.validation, float)


class Plans:
    """Makes the plans of networks. Networks that differ by seed only share their parts and compiled programs.

    Args:
      parts: the user's own parts.
      data: the user's own data, or None.
      devices: the devices to divide batches over; None for all.
    """

    def __init__(self, parts: CustomParts, data: Dataset | None, devices: Sequence[Any] | None = None):
        self.parts, self._devices = parts, devices
        self._data = data
        self._opened: dict[Any, Dataset] = {}
        self._of_setting: dict[str, Plan] = {}
        self._programs: dict[Any, dict[Any, Any]] = {}

    def whole(self, config: Config) -> Dataset:
        """Return the dataset of a network, before images are held out of it. It is opened once."""
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
          UsageError: if the configuration cannot work.
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
        """Return the plan with the programs of the setting, if they have the same constants."""
        if plan.config.class_weights is not None:
            return plan
        key = (setting_key(plan.config), plan.preprocessing)
        return dataclasses.replace(plan, programs=self._programs.setdefault(key, plan.programs))


def _with_seed(pipeline: Pipeline, seed: int) -> Pipeline:
    """Return the same pipeline with the order of another seed."""
    # With its own cache of two epochs: those of many networks would push each other out of a common one.
    order = functools.lru_cache(maxsize=2)(pipeline.order)
    return dataclasses.replace(pipeline, seed=seed, order=order, waited=0.0)
