"""Build and compile the training step of a configuration for devices that this machine may lack."""

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from jaxcnn.aot.images import Images, ShapeDataset, without_data
from jaxcnn.train import Config
from jaxcnn.train.devices.sharding import by_rows
from jaxcnn.train.runtime.plan import Plan, make_plan


@dataclass(frozen=True)
class Program:
    """A training step, compiled for a target.

    Attributes:
      plan: the parts of the training run: model, optimizer, data pipeline and devices.
      lowered: the lowered step, before compilation.
      compiled: the compiled step.
      trace_seconds: seconds to trace and lower the step.
      compile_seconds: seconds of XLA compilation.
      compile_cpu_seconds: CPU time of all threads of the process during the compilation, in seconds.
    """

    plan: Plan
    lowered: Any
    compiled: Any
    trace_seconds: float
    compile_seconds: float
    compile_cpu_seconds: float


def plan_of(config: Config, images: Images, devices: Sequence[Any]) -> Plan:
    """Return the parts of the run that `jaxcnn train` would start on `devices`.

    `pmap` works only with devices that exist, so it is replaced by `shard_map`, which runs the same step.

    Raises:
      UsageError: if the configuration is invalid.
    """
    if config.parallel in ("auto", "pmap"):
        config = dataclasses.replace(config, parallel="shard_map")
    batch_size = 1 if config.batch_size == "full" else config.batch_size  # for "full", the number of images is known
    data = ShapeDataset.of(images, batch_size)
    return make_plan(without_data(config, images), data=data, devices=devices)


def lower(plan: Plan, platforms: tuple[str, ...] | None = None) -> Any:
    """Trace and lower the training step of `jaxcnn train`. The arguments are shapes and shardings instead of arrays.

    Args:
      plan: the parts of the run, from `plan_of`.
      platforms: names of the platforms to lower for. Default: the platform of the plan's devices.
    """
    count, mesh = plan.config.steps_per_dispatch, plan.parallel.mesh
    state = jax.tree.map(_placed, plan.template, plan.parallel.state_sharding(plan.template))
    rows = (plan.batch_size,) if count == 1 else (count, plan.batch_size)
    sharding = by_rows(mesh, len(rows) - 1)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*rows, *x.shape[1:]), x.dtype, sharding=sharding), plan.example
    )
    step = plan.compile_train_step() if count == 1 else plan.compile_train_steps(count)
    return step.trace(state, batch).lower(lowering_platforms=platforms)


def _placed(x: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def compile_plan(plan: Plan) -> Program:
    """Lower and compile the training step of a plan, and measure the time to lower it and the time to compile it."""
    started = time.perf_counter()
    lowered = lower(plan)
    traced, cpu = time.perf_counter(), time.process_time()
    compiled = lowered.compile()
    ended = time.perf_counter()
    return Program(plan, lowered, compiled, traced - started, ended - traced, time.process_time() - cpu)


def bytes_on_device(tree: Any, shardings: Any) -> int:
    """Return the number of bytes that the arrays of a pytree need on each device, without padding."""

    def size(x: Any, sharding: Any) -> int:
        return math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(size, tree, shardings)))
