"""How a step is distributed over devices: one step body, three strategies.

The batch is divided between the devices. The state is never stacked per device, so that checkpoints do not depend on
the number of devices.
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
    """Raise `UsageError`, which names the nearest valid batch sizes, if `devices` does not divide `batch_size`.

    Args:
      batch_size: examples in a batch of all devices together.
      devices: number of devices.
      most: largest valid batch size, the number of training examples.
    """
    if batch_size % devices == 0:
        return
    below = batch_size // devices * devices
    valid = [size for size in (below, below + devices) if size and (most is None or size <= most)]
    remedy = f"use {' or '.join(map(str, valid))}" if valid else f"use fewer devices: there are {most} training images"
    raise UsageError(f"batch_size {batch_size} cannot be divided over {devices} devices; {remedy}")


@dataclass(frozen=True)
class Parallel:
    """A strategy that distributes steps over devices.

    Attributes:
      name: "pmap", "shard_map" or "jit".
      devices: the devices that a batch is divided between, ordered by process.
      axis_name: the axis over which the step takes means; None under `jit`, whose program sees the whole batch.
      shard_state: whether each device holds only a part of each large array of the state.
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
        """Process index and count `(p, P)`: this process feeds part p of P equal parts of every batch."""
        count = len({device.process_index for device in self.devices})
        return (jax.process_index(), count) if count > 1 else (0, 1)

    def state_sharding(self, state: Any) -> Any:
        """Return the sharding of each array of a state, or of a tree of shapes and dtypes."""
        mesh = self.mesh
        return jax.tree.map(lambda x: divided(mesh, x.shape) if self.shard_state else whole(mesh), state)

    def place_state(self, state: Any) -> Any:
        """Return a copy of the state on the devices. It is a copy because compiled training steps consume theirs."""
        shardings = self.state_sharding(state)
        if self.share[1] == 1:
            return jax.device_put(jax.tree.map(lambda x: jnp.array(jax.device_put(x), copy=True), state), shardings)

        def place(x: Any, sharding: Any) -> jax.Array:
            host = np.array(jax.device_get(x), copy=True)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

        return jax.tree.map(place, state, shardings)

    def fetch_state(self, state: Any) -> Any:
        """Return a copy of the state as whole host arrays. Every process must call it."""

        def fetch(x: Any) -> np.ndarray:
            if self.shard_state and self.share[1] > 1:
                x = multihost_utils.process_allgather(x, tiled=True)
            return np.array(jax.device_get(x), copy=True)

        return jax.tree.map(fetch, state)

    def place_batch(self, batch: Any) -> Any:
        """Return the batch `[N, ...]`, a tree of arrays, distributed over the devices.

        With several processes, each gives its own part of the batch.

        Raises:
          UsageError: if the number of devices does not divide the batch.
        """
        return self._place(batch, axis=0)

    def place_batches(self, batches: Sequence[Any]) -> Any:
        """Return the batches of the steps of one call, stacked to `[steps, N, ...]` and distributed over the devices.

        Raises:
          UsageError: as `place_batch`.
        """

        def stack(first: Any, *more: Any) -> Any:
            # Arrays on a device are stacked there.
            join = jnp.stack if isinstance(first, jax.Array) else np.stack
            return join([first, *more]) if more else first[None]

        return self._place(jax.tree.map(stack, *batches), axis=1)

    def _place(self, batch: Any, axis: int) -> Any:
        rows, (_, processes) = jax.tree.leaves(batch)[0].shape[axis], self.share
        check_batch_divides(rows * processes, len(self.devices))
        sharding = by_rows(self.mesh, axis)
        if self.name == "pmap":
            # An axis of devices in front of the examples. pmap runs on this very mesh, so that it takes the arrays
            # as they lie, without another copy.
            count = len(self.devices)
            batch = jax.tree.map(lambda x: x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :]), batch)
        if processes == 1:
            return jax.device_put(batch, sharding)

        def place(x: np.ndarray) -> jax.Array:
            shape = (*x.shape[:axis], rows * processes, *x.shape[axis + 1 :])
            return jax.make_array_from_process_local_data(sharding, x, shape)

        return jax.tree.map(place, batch)

    def compile(self, step: Callable[..., Any], *, donate_state: bool, several: bool = False) -> Callable[..., Any]:
        """Return `step(state, batch)` as a program over the devices, which compiles at its first call.

        Args:
          step: one step, `(state, batch) -> (state, metrics)`, or for evaluation `(state, batch) -> metrics`.
          donate_state: reuse the memory of the state passed in: the caller must not use that state after the call.
          several: a call makes a step for each batch in what `place_batches` returned, and its metrics have an axis
            `[steps]` in front.
        """
        if several:
            return STRATEGIES[self.name](several_steps(step), self, donate_state, 1)
        return STRATEGIES[self.name](step, self, donate_state, 0)


def _pmap(step: Callable[..., Any], parallel: Parallel, donate: bool, batch_axis: int) -> Callable[..., Any]:
    return jax.pmap(
        step,
        BATCH_AXIS,
        in_axes=(None, batch_axis),
        # JAX takes the first device's value without a check. The means in the step make it equal on all devices.
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
        # With the check, JAX sums the gradients of replicated parameters itself. The step takes the mean, so gradients
        # would be too large by a factor of the number of devices.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=(0,) if donate else ())


def _jit(step: Callable[..., Any], parallel: Parallel, donate: bool, batch_axis: int) -> Callable[..., Any]:
    def placed_step(state: Any, batch: Any) -> Any:
        # The state's sharding depends on shapes only, and keeps metrics, which are small, whole.
        out = step(state, batch)
        return jax.lax.with_sharding_constraint(out, parallel.state_sharding(out))

    # The state keeps its sharding. A batch that `place_batch` did not place is refused.
    return jax.jit(
        placed_step,
        in_shardings=(None, by_rows(parallel.mesh, batch_axis)),
        donate_argnums=(0,) if donate else (),
    )


STRATEGIES: dict[str, Strategy] = {"pmap": _pmap, "shard_map": _shard_map, "jit": _jit}


def make_parallel(name: str = "auto", devices: Sequence[Any] | None = None, *, shard_state: bool = False) -> Parallel:
    """Return the strategy of this name over `devices`, by default all devices of all processes.

    "auto" is `pmap` in one process and `shard_map` in several.

    Raises:
      UsageError: if the name is unknown, if `pmap` gets several processes, if the processes have different numbers of
        devices, or if `shard_state` is asked for without `jit`.

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
        raise UsageError(f"parallel 'pmap' needs one process, there are {len(processes)}. Use shard_map or jit.")
    if len(set(processes.values())) > 1:
        raise UsageError(f"processes must have equal numbers of devices, got {[*processes.values()]}")
    if shard_state and name != "jit":
        raise UsageError(f"shard_state needs parallel 'jit', got '{name}'. Other strategies replicate the state.")
    by_process = tuple(sorted(chosen, key=lambda device: device.process_index))
    return Parallel(name, by_process, None if name == "jit" else BATCH_AXIS, shard_state)


def batch_norm_fields(sync: str | int, parallel: Parallel, reduce_dtype: str = "float32") -> dict[str, Any]:
    """Return the fields of `BatchNorm` that synchronize its statistics over all devices, none, or groups of `sync`.

    Args:
      sync: "all", "none", or the number of devices in a group.
      parallel: how the step is distributed.
      reduce_dtype: dtype in which devices exchange statistics.

    Raises:
      UsageError: if `sync` does not divide the number of devices, or if an argument needs another way to distribute
        than `jit`.
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
