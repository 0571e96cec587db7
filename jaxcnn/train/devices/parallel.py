"""How a step is spread over devices: one step body, three ways.

The state is never stacked, one for each device, so neither a checkpoint nor a comparison can tell how many devices
there were. The batch is divided between them.
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

Spread = Callable[[Callable[..., Any], "Parallel", bool, int], Callable[..., Any]]


def check_batch_divides(batch_size: int, devices: int) -> None:
    """Raises `UsageError`, naming the nearest batch sizes that work, if `devices` do not divide `batch_size`."""
    if batch_size % devices:
        below, above = batch_size // devices * devices, -(-batch_size // devices) * devices
        right = f"{below} or {above}" if below else f"{above}"
        raise UsageError(f"batch_size {batch_size} cannot be divided over {devices} devices; use {right}")


@dataclass(frozen=True)
class Parallel:
    """A way to spread steps over devices.

    Attributes:
      name: "pmap", "shard_map" or "jit".
      devices: the devices that share a batch, those of one process after those of another.
      axis_name: what the step must average over; None under `jit`, whose program sees the whole batch.
      shard_state: whether each device holds only a part of the large arrays of the state.
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
        """`(p, P)`: this process feeds the p-th of P equal parts of every batch."""
        count = len({device.process_index for device in self.devices})
        return (jax.process_index(), count) if count > 1 else (0, 1)

    def state_sharding(self, state: Any) -> Any:
        """For each array of a state (or its shape and dtype), how it lies on the devices."""
        mesh = self.mesh
        return jax.tree.map(lambda x: divided(mesh, x.shape) if self.shard_state else whole(mesh), state)

    def place_state(self, state: Any) -> Any:
        """A copy of the state on the devices. A copy, because compiled training steps consume theirs."""
        shardings = self.state_sharding(state)
        if self.share[1] == 1:
            return jax.device_put(jax.tree.map(lambda x: jnp.array(x, copy=True), state), shardings)

        def place(x: Any, sharding: Any) -> jax.Array:
            host = np.array(x, copy=True)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

        return jax.tree.map(place, state, shardings)

    def fetch_state(self, state: Any) -> Any:
        """A copy of the state as whole arrays of the host. Every process has to call it."""

        def fetch(x: Any) -> np.ndarray:
            if self.shard_state and self.share[1] > 1:
                x = multihost_utils.process_allgather(x, tiled=True)
            return np.array(x, copy=True)

        return jax.tree.map(fetch, state)

    def place_batch(self, batch: Any) -> Any:
        """The batch `[N, ...]`, divided between the devices.

        Where there are many processes, each gives its own share of the batch, the `share[0]`-th.

        Raises:
          UsageError: if the devices do not divide the batch.
        """
        return self._place(batch, axis=0)

    def place_batches(self, batches: Sequence[Any]) -> Any:
        """The same for the batches of several steps (or of one), as `[steps, N, ...]`."""
        first, *more = batches

        def stack(name: str, x: Any) -> Any:
            # What is on a device already, stays there.
            join = jnp.stack if isinstance(x, jax.Array) else np.stack
            return join([x, *(batch[name] for batch in more)]) if more else x[None]

        return self._place({name: stack(name, x) for name, x in first.items()}, axis=1)

    def _place(self, batch: Any, axis: int) -> Any:
        rows, processes = batch["labels"].shape[axis], self.share[1]
        check_batch_divides(rows * processes, len(self.devices))
        if self.name == "pmap":
            count = len(self.devices)
            return {name: x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :]) for name, x in batch.items()}
        sharding = by_rows(self.mesh, axis)
        if processes == 1:
            return jax.device_put(batch, sharding)

        def place(x: np.ndarray) -> jax.Array:
            shape = (*x.shape[:axis], rows * processes, *x.shape[axis + 1 :])
            return jax.make_array_from_process_local_data(sharding, x, shape)

        return {name: place(x) for name, x in batch.items()}

    def compile(self, step: Callable[..., Any], *, donate_state: bool, steps: int | None = None) -> Callable[..., Any]:
        """`step(state, batch)` as a compiled program over the devices; it compiles when it is first called.

        With `donate_state` the memory of the state passed in is used for the new one: it is gone afterwards. With
        `steps`, a call makes as many, on what `place_batches` gives; its metrics are `[steps]`.
        """
        if steps is None:
            return STRATEGIES[self.name](step, self, donate_state, 0)
        unroll = self.devices[0].platform == "cpu"
        return STRATEGIES[self.name](several_steps(step, steps, unroll=unroll), self, donate_state, 1)


def _pmap(step: Callable[..., Any], parallel: Parallel, donate: bool, batch_axis: int) -> Callable[..., Any]:
    return jax.pmap(
        step,
        BATCH_AXIS,
        in_axes=(None, batch_axis),
        # Unchecked by JAX: the first device's value is taken, which the step's averaging makes everybody's.
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
        # With the check, JAX itself sums the gradients of parameters that all devices share; the step's own mean
        # would then leave them as many times too large as there are devices.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=(0,) if donate else ())


def _jit(step: Callable[..., Any], parallel: Parallel, donate: bool, batch_axis: int) -> Callable[..., Any]:
    def placed_step(state: Any, batch: Any) -> Any:
        # The rule for a state goes by shapes alone, and leaves metrics, which are small, whole.
        out = step(state, batch)
        return jax.lax.with_sharding_constraint(out, parallel.state_sharding(out))

    # The state is taken as it lies; a batch in another place than `place_batch` puts it is refused.
    return jax.jit(
        placed_step,
        in_shardings=(None, by_rows(parallel.mesh, batch_axis)),
        donate_argnums=(0,) if donate else (),
    )


STRATEGIES: dict[str, Spread] = {"pmap": _pmap, "shard_map": _shard_map, "jit": _jit}


def make_parallel(name: str = "auto", devices: Sequence[Any] | None = None, *, shard_state: bool = False) -> Parallel:
    """The strategy of this name over `devices`, by default all of all processes.

    "auto" is `pmap` on one process and `shard_map` on many.

    Raises:
      UsageError: an unknown name (the nearest one is named), or a way that cannot do what is asked for.
    """
    chosen = tuple(jax.devices() if devices is None else devices)
    counts = [device.process_index for device in chosen]
    processes = {index: counts.count(index) for index in counts}
    if name == "auto":
        name = "pmap" if len(processes) == 1 else "shard_map"
    if name not in STRATEGIES:
        raise unknown_name("way to spread a step (parallel)", name, [*STRATEGIES, "auto"])
    if name == "pmap" and len(processes) > 1:
        raise UsageError(f"parallel 'pmap' spreads over one process, there are {len(processes)}; use shard_map or jit")
    if len(set(processes.values())) > 1:
        raise UsageError(f"every process must have as many devices as the others, got {[*processes.values()]}")
    if shard_state and name != "jit":
        raise UsageError(f"shard_state needs parallel 'jit', got '{name}', which holds the whole state on every device")
    by_process = tuple(sorted(chosen, key=lambda device: device.process_index))
    return Parallel(name, by_process, None if name == "jit" else BATCH_AXIS, shard_state)


def batch_norm_fields(sync: str | int, parallel: Parallel) -> dict[str, Any]:
    """Fields of `BatchNorm` with which it takes its statistics over all devices, none, or groups of so many.

    Raises:
      UsageError: a size that does not divide the devices, or anything but "all" under `jit`.
    """
    devices = len(parallel.devices)
    if sync == "all":
        return {}
    if parallel.axis_name is None:
        raise UsageError(
            f"sync_batch_norm must be 'all' under parallel 'jit', which sees one whole batch, got {sync!r}; use pmap"
        )
    if sync == "none":
        return {"axis_name": None}
    if isinstance(sync, str | bool) or sync < 1 or devices % sync:
        raise UsageError(f"sync_batch_norm must be 'all', 'none' or a divisor of the {devices} devices, got {sync!r}")
    return {"axis_index_groups": tuple(tuple(range(start, start + sync)) for start in range(0, devices, sync))}
