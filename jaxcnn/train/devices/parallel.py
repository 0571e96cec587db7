"""Distribute a training step over devices with `pmap`, `shard_map` or `jit`.

The batch is sharded over the devices. The arrays of the state have no axis of devices, so that checkpoints do not
depend on the number of devices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.layers import BATCH_AXIS
from jaxcnn.train.devices.dispatch import several_steps
from jaxcnn.train.devices.sharding import by_rows, divided, make_mesh, whole

Strategy = Callable[[Callable[..., Any], "Parallel", bool, int], Callable[..., Any]]


def check_batch_divides(batch_size: int, devices: int, most: int | None = None) -> None:
    """Raise `UsageError` if `batch_size` is not a multiple of `devices`. The error names the nearest valid sizes.

    Args:
      batch_size: number of examples in a batch, summed over all devices.
      devices: number of devices.
      most: number of training examples, which is the largest valid batch size. None sets no limit.
    """
    if batch_size % devices == 0:
        return
    below = batch_size // devices * devices
    valid = [size for size in (below, below + devices) if size and (most is None or size <= most)]
    remedy = f"use {' or '.join(map(str, valid))}" if valid else f"use fewer devices: there are {most} training images"
    raise UsageError(f"batch_size {batch_size} cannot be divided over {devices} devices; {remedy}")


@dataclass(frozen=True)
class Parallel:
    """Distribution of training steps over devices.

    Attributes:
      name: the JAX function that distributes the steps: "pmap", "shard_map" or "jit".
      devices: devices over which a batch is sharded, ordered by process.
      axis_name: name of the axis of devices, over which the step computes means. None for "jit": its program gets the
        whole batch.
      shard_state: whether large arrays of the state are sharded over the devices. If False, the state is replicated.
    """

    name: str
    devices: tuple[Any, ...]
    axis_name: str | None
    shard_state: bool = False

    @property
    def mesh(self) -> Mesh:
        return make_mesh(self.devices)

    @property
    def share(self) -> tuple[int, int]:
        """Process index and count `(p, P)`. This process provides part p of P equal parts of every batch."""
        count = len({device.process_index for device in self.devices})
        return (jax.process_index(), count) if count > 1 else (0, 1)

    def state_sharding(self, state: Any) -> Any:
        """Return the sharding of each array of a state. The state may also be a pytree of shapes and dtypes."""
        mesh = self.mesh
        return jax.tree.map(lambda x: divided(mesh, x.shape) if self.shard_state else whole(mesh), state)

    def place_state(self, state: Any) -> Any:
        """Copy the state to the devices. The caller's arrays remain valid when a training step donates the copy."""
        shardings = self.state_sharding(state)
        if self.share[1] == 1:
            return jax.device_put(jax.tree.map(lambda x: jnp.array(jax.device_put(x), copy=True), state), shardings)

        def place(x: Any, sharding: Any) -> jax.Array:
            host = np.array(jax.device_get(x), copy=True)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

        return jax.tree.map(place, state, shardings)

    def fetch_state(self, state: Any) -> Any:
        """Return a copy of the state as unsharded host arrays. Every process must call this method."""

        def fetch(x: Any) -> np.ndarray:
            if self.shard_state and self.share[1] > 1:
                x = multihost_utils.process_allgather(x, tiled=True)
            return np.array(jax.device_get(x), copy=True)

        return jax.tree.map(fetch, state)

    def place_batch(self, batch: Any) -> Any:
        """Shard a batch over the devices. A batch is a pytree of arrays `[N, ...]` with N examples.

        In a multi-process job, each process passes its own part of the batch.

        Raises:
          UsageError: if the batch size is not a multiple of the number of devices.
        """
        return self._place(batch, axis=0)

    def place_batches(self, batches: Sequence[Any]) -> Any:
        """Stack the batches of one dispatch to arrays `[steps, N, ...]`, and shard the arrays over the devices.

        Raises:
          UsageError: if the batch size is not a multiple of the number of devices.
        """

        def stack(first: Any, *more: Any) -> Any:
            # Arrays on a device are stacked on this device.
            join = jnp.stack if isinstance(first, jax.Array) else np.stack
            return join([first, *more]) if more else first[None]

        return self._place(jax.tree.map(stack, *batches), axis=1)

    def _place(self, batch: Any, axis: int) -> Any:
        rows, (_, processes) = jax.tree.leaves(batch)[0].shape[axis], self.share
        check_batch_divides(rows * processes, len(self.devices))
        sharding = by_rows(self.mesh, axis)
        if self.name == "pmap":
            # pmap needs an axis of devices before the axis of examples. The sharding below is equal to pmap's sharding,
            # so that pmap does not copy the arrays again.
            count = len(self.devices)
            batch = jax.tree.map(lambda x: x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :]), batch)
        if processes == 1:
            return jax.device_put(batch, sharding)

        def place(x: np.ndarray) -> jax.Array:
            shape = (*x.shape[:axis], rows * processes, *x.shape[axis + 1 :])
            return jax.make_array_from_process_local_data(sharding, x, shape)

        return jax.tree.map(place, batch)

    def compile(self, step: Callable[..., Any], *, donate_state: bool, several: bool = False) -> Callable[..., Any]:
        """Return `step(state, batch)` as a program for all devices. JAX compiles the program at its first call.

        Args:
          step: a training step, `(state, batch) -> (state, metrics)`, or an evaluation step,
            `(state, batch) -> metrics`.
          donate_state: whether to reuse the memory of the state that is passed in. The caller must not use this state
            after the call.
          several: whether a call makes several steps, one for each batch that `place_batches` has stacked. The metrics
            then have a leading axis `[steps]`.
        """
        if several:
            return STRATEGIES[self.name](several_steps(step), self, donate_state, 1)
        return STRATEGIES[self.name](step, self, donate_state, 0)


def _pmap(step: Callable[..., Any], parallel: Parallel, donate: bool, batch_axis: int) -> Callable[..., Any]:
    return jax.pmap(
        step,
        BATCH_AXIS,
        in_axes=(None, batch_axis),
        # JAX returns the value of the first device. The step computes means over devices, so that all values are equal.
        out_axes=None,
        devices=parallel.devices,
        donate_argnums=(0,) if donate else (),
    )


def _shard_map(step: Callable[..., Any], parallel: Parallel, donate: bool, batch_axis: int) -> Callable[..., Any]:
    mapped = jax.shard_map(
        step,
        mesh=parallel.mesh,
        in_specs=(PartitionSpec(), by_rows(parallel.mesh, batch_axis).spec),
        out_specs=PartitionSpec(),
        # If this check were on, JAX would sum the gradients of replicated parameters over the devices. The step itself
        # averages gradients over devices, so that they would be too large by a factor of the number of devices.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=(0,) if donate else ())


def _jit(step: Callable[..., Any], parallel: Parallel, donate: bool, batch_axis: int) -> Callable[..., Any]:
    def placed_step(state: Any, batch: Any) -> Any:
        # `state_sharding` depends only on shapes. It replicates small arrays, and therefore the metrics.
        out = step(state, batch)
        return jax.lax.with_sharding_constraint(out, parallel.state_sharding(out))

    # The state keeps its sharding. JAX rejects a batch that `place_batch` has not sharded.
    return jax.jit(
        placed_step,
        in_shardings=(None, by_rows(parallel.mesh, batch_axis)),
        donate_argnums=(0,) if donate else (),
    )


STRATEGIES: dict[str, Strategy] = {"pmap": _pmap, "shard_map": _shard_map, "jit": _jit}


def make_parallel(name: str = "auto", devices: Sequence[Any] | None = None, *, shard_state: bool = False) -> Parallel:
    """Return an object that distributes training steps over devices.

    Args:
      name: "pmap", "shard_map", "jit" or "auto". "auto" is "pmap" in a single process, and "shard_map" in a
        multi-process job.
      devices: the devices to use. Default: all devices of all processes.
      shard_state: whether to shard large arrays of the state over the devices. Requires "jit".

    Raises:
      UsageError: if the name is unknown, if "pmap" is used in a multi-process job, if the processes have different
        numbers of devices, or if `shard_state` is True without "jit".

    >>> parallel = make_parallel("jit")
    >>> total = parallel.compile(lambda state, batch: state + batch.sum(), donate_state=False)
    >>> batch = parallel.place_batch(np.ones(jax.device_count(), np.float32))
    >>> float(total(parallel.place_state(np.float32(0)), batch)) == jax.device_count()
    True
    """
    chosen = tuple(jax.devices() if devices is None else devices)
    counts = [device.process_index for device in chosen]
    processes = {index: counts.count(index) for index in counts}
    if name == "auto":
        name = "pmap" if len(processes) == 1 else "shard_map"
    if name not in STRATEGIES:
        raise unknown_name("parallel strategy", name, [*STRATEGIES, "auto"])
    if name == "pmap" and len(processes) > 1:
        raise UsageError(
            f"parallel 'pmap' does not support several processes, got {len(processes)}. Use parallel 'shard_map' or "
            "'jit'."
        )
    if len(set(processes.values())) > 1:
        raise UsageError(
            f"processes have different numbers of devices: {[*processes.values()]}. "
            "Give each process the same number of devices."
        )
    if shard_state and name != "jit":
        raise UsageError(f"shard_state needs parallel 'jit', got parallel '{name}'. Use parallel 'jit'.")
    by_process = tuple(sorted(chosen, key=lambda device: device.process_index))
    return Parallel(name, by_process, None if name == "jit" else BATCH_AXIS, shard_state)


def batch_norm_fields(sync: str | int, parallel: Parallel, reduce_dtype: str = "float32") -> dict[str, Any]:
    """Return the fields of `BatchNorm` that choose which devices share their batch statistics.

    Args:
      sync: which devices share their statistics: "all" (all devices), "none" (each device uses its own statistics), or
        the number of devices in each group that shares statistics.
      parallel: how the step is distributed over devices.
      reduce_dtype: dtype in which devices exchange statistics.

    Raises:
      UsageError: if the number of devices is not a multiple of `sync`, or if `parallel` is "jit" without `sync="all"`
        and `reduce_dtype="float32"`.
    """
    devices = len(parallel.devices)
    if parallel.axis_name is None:
        _check_default("sync_batch_norm", sync, "all")
        _check_default("batch_norm_reduce_dtype", reduce_dtype, "float32")
    if sync == "none":
        return {"axis_name": None}
    fields = {} if reduce_dtype == "float32" else {"reduce_dtype": reduce_dtype}
    if sync == "all":
        return fields
    if isinstance(sync, str | bool) or sync < 1 or devices % sync:
        raise UsageError(f"sync_batch_norm must be 'all', 'none' or a divisor of the {devices} devices, got {sync!r}")
    groups = tuple(tuple(range(start, start + sync)) for start in range(0, devices, sync))
    return {**fields, "axis_index_groups": groups}


def _check_default(name: str, value: Any, default: str) -> None:
    if value != default:
        raise UsageError(
            f"{name} must be {default!r} under parallel 'jit', got {value!r}. Use parallel 'pmap' or 'shard_map'."
        )
