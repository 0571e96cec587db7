"""Compiled programs that train and evaluate many networks at once.

`vmap` maps the training step of one network, a pure function, over an axis of networks. `shard_map` shards this axis
over the devices. Each device therefore trains whole networks, and no device waits for another device.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.train.class_weights import normalized_weights
from jaxcnn.train.devices.dispatch import several_steps
from jaxcnn.train.losses import weighted
from jaxcnn.train.optim.schedules import make_schedule
from jaxcnn.train.parts import CustomParts, build_losses, build_optimizer
from jaxcnn.train.runtime.plan import Plan
from jaxcnn.train.state import TrainState
from jaxcnn.train.step import make_eval_step
from jaxcnn.train.task import Classification

NETWORKS = "networks"
"""Name of the mesh axis over which the networks are sharded."""


class Programs:
    """Compiled programs for networks that differ only in seeds and hyperparameters.

    A hyperparameter that is equal in all networks is a constant of the compiled program. Other hyperparameters are
    arguments of the program.

    Args:
      plans: one plan for each network. Each plan is made for one device.
      parts: custom parts that were passed to `fit_many`, such as a model.
      devices: devices to shard the networks over. If the number of networks is not a multiple of the number of devices,
        copies of the first network fill the remaining places. The results of the copies are not used.

    Attributes:
      count: number of networks.
      rows: for each index on the axis of networks, the index of the network in `plans`.
    """

    def __init__(self, plans: Sequence[Plan], parts: CustomParts, devices: Sequence[Any]):
        self.plans, self.parts, self.count = plans, parts, len(plans)
        self.mesh = Mesh(np.array(devices[: self.count]), (NETWORKS,))
        places = -(-self.count // self.mesh.size) * self.mesh.size
        self.rows = [*range(self.count), *[0] * (places - self.count)]
        self.values = self.place(_values(plans))
        config, dataset = plans[0].config, plans[0].dataset
        self._weights = None if config.class_weights is None else normalized_weights(config.class_weights, dataset)
        self._compiled: dict[Any, Any] = {}

    def place(self, stacked: Any, axis: int = 0) -> Any:
        """Select the networks `rows` on the axis of networks, `axis`, and shard this axis over the devices."""
        sharding = NamedSharding(self.mesh, PartitionSpec(*(None,) * axis, NETWORKS))
        return jax.device_put(jax.tree.map(lambda x: np.take(x, self.rows, axis), stacked), sharding)

    def replicate(self, tree: Any) -> Any:
        """Put a copy of the arrays on each device."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def initial_state(self) -> TrainState:
        """Return the training states before the first step, `[networks, ...]`, as host arrays.

        The state of each network is bitwise equal to its initial state in `fit`.
        """
        return jax.tree.map(lambda *x: np.stack(x), *(jax.device_get(plan.initial_state()) for plan in self.plans))

    def train_steps(self, *, gathers: bool) -> Any:
        """Return a compiled program for several training steps: `(state, batches, values, data) -> (state, sums)`.

        Arrays in `state` and `values` have the leading axis `[networks]`. Arrays in `batches` and `sums` have the
        leading axes `[steps, networks]`. The state is donated: the caller must not use it after the call.

        Args:
          gathers: whether `batches` are int32 indices `[steps, networks, N]` of examples in `data`, with N examples in
            a step. If False, `batches` are the examples themselves.
        """
        return self._program(("train", gathers), lambda: self._train_steps(gathers=gathers))

    def evaluate(self, *, per_network: bool) -> Any:
        """Return a compiled program that evaluates a batch: `(state, padded, values) -> sums [networks, ...]`.

        Args:
          per_network: whether the batch has a leading axis of networks. If False, all networks are evaluated on the
            same batch.
        """
        return self._program(("eval", per_network), lambda: self._evaluate(per_network=per_network))

    def _program(self, name: Any, make: Any) -> Any:
        if name not in self._compiled:
            self._compiled[name] = make()
        return self._compiled[name]

    def _train_steps(self, *, gathers: bool) -> Any:
        def train_one(state: Any, batch: Any, values: Any) -> Any:
            return self._plan_with(values).train_step()(state, batch)

        def train_all(state: Any, batches: Any, values: Any, data: Any) -> Any:
            def step(state: Any, batch: Any) -> Any:
                examples = jax.tree.map(lambda x: x[batch], data) if gathers else batch
                return jax.vmap(train_one)(state, examples, values)

            return several_steps(step)(state, batches)

        axis, steps = PartitionSpec(NETWORKS), PartitionSpec(None, NETWORKS)
        mapped = jax.shard_map(
            train_all,
            mesh=self.mesh,
            in_specs=(axis, steps, axis, PartitionSpec()),
            out_specs=(axis, steps),
            check_vma=False,
        )
        # For one device, JAX would infer a sharding that differs from the inputs' sharding, and compile a second time.
        out = (NamedSharding(self.mesh, axis), NamedSharding(self.mesh, steps))
        return jax.jit(mapped, donate_argnums=0, out_shardings=out)

    def _evaluate(self, *, per_network: bool) -> Any:
        def evaluate_one(state: Any, padded: Any, values: Any) -> Any:
            plan = self._plan_with(values)
            return make_eval_step(plan.model, plan.task)(state, padded)

        axis = PartitionSpec(NETWORKS)
        mapped = jax.shard_map(
            jax.vmap(evaluate_one, in_axes=(0, 0 if per_network else None, 0)),
            mesh=self.mesh,
            in_specs=(axis, axis if per_network else PartitionSpec(), axis),
            out_specs=axis,
            check_vma=False,
        )
        return jax.jit(mapped)

    def _plan_with(self, values: dict[str, jax.Array]) -> Plan:
        """Return the plan of the first network with the hyperparameters of another network, `values`."""
        plan, config, changed = self.plans[0], self.plans[0].config, dict[str, Any]()
        if "learning_rate" in values or "weight_decay" in values:
            schedule, steps_per_epoch = plan.schedule, plan.dataset.examples["train"] / plan.batch_size
            if "learning_rate" in values:
                schedule = make_schedule(config.schedule, values["learning_rate"], plan.steps, steps_per_epoch)
            if "weight_decay" in values:
                decaying = dataclasses.replace(config.optimizer, weight_decay=values["weight_decay"])
                config = dataclasses.replace(config, optimizer=decaying)
            changed["optimizer"] = build_optimizer(config, self.parts, schedule, steps_per_epoch)
        task: Any = plan.task
        if "label_smoothing" in values:
            smoothed = dataclasses.replace(config, label_smoothing=values["label_smoothing"])
            loss, _ = build_losses(smoothed, self.parts)
            task = dataclasses.replace(
                task, train_loss=loss if self._weights is None else weighted(loss, self._weights)
            )
        if "mean" in values:
            around = dataclasses.replace(plan.preprocessing, mean=values["mean"], std=values["std"])
            is_named = isinstance(task, Classification) and self.parts.task is None
            own: Any = self.parts.task
            task = dataclasses.replace(task, normalize=around.normalize) if is_named else own.bind(around)
        return dataclasses.replace(plan, task=task, **changed)


def _values(plans: Sequence[Plan]) -> dict[str, np.ndarray]:
    """Return the hyperparameters and normalizations in which the networks differ, float32 `[networks, ...]`."""
    of_networks = [
        {
            "learning_rate": plan.config.optimizer.learning_rate,
            "weight_decay": plan.config.optimizer.weight_decay,
            "label_smoothing": plan.config.label_smoothing,
            "mean": plan.preprocessing.mean,
            "std": plan.preprocessing.std,
        }
        for plan in plans
    ]
    stacked = {name: np.array([values[name] for values in of_networks], np.float32) for name in of_networks[0]}
    differ = {name for name in stacked if len({values[name] for values in of_networks}) > 1}
    if differ & {"mean", "std"}:
        differ |= {"mean", "std"}
    return {name: stacked[name] for name in stacked if name in differ}
