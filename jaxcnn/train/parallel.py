"""How a step is spread over devices: one step body, three ways.

The state is whole on every device and never stacked, so neither a checkpoint nor a comparison can tell how many
devices there were. The batch is divided between them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.layers import BATCH_AXIS

Spread = Callable[[Callable[..., Any], "Parallel", bool], Callable[..., Any]]


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
      devices: the devices that share a batch.
      axis_name: what the step must average over; None under `jit`, whose program sees the whole batch.
    """

    name: str
    devices: tuple[Any, ...]
    axis_name: str | None

    @property
    def mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (BATCH_AXIS,))

    def place_state(self, state: Any) -> Any:
        """A copy of the state, whole on every device. A copy, because compiled training steps consume theirs."""
        copy = jax.tree.map(lambda x: jnp.array(x, copy=True), state)
        return jax.device_put(copy, NamedSharding(self.mesh, PartitionSpec()))

    def place_batch(self, batch: Any) -> Any:
        """The batch `[N, ...]`, divided between the devices.

        Raises:
          UsageError: if the devices do not divide the batch.
        """
        size, count = len(batch["labels"]), len(self.devices)
        check_batch_divides(size, count)
        if self.name == "pmap":
            return {name: array.reshape(count, size // count, *array.shape[1:]) for name, array in batch.items()}
        return jax.device_put(batch, NamedSharding(self.mesh, PartitionSpec(BATCH_AXIS)))

    def compile(self, step: Callable[..., Any], *, donate_state: bool) -> Callable[..., Any]:
        """`step(state, batch)` as a compiled program over the devices; it compiles when it is first called.

        With `donate_state` the memory of the state passed in is used for the new one: it is gone afterwards.
        """
        return STRATEGIES[self.name](step, self, donate_state)


def _pmap(step: Callable[..., Any], parallel: Parallel, donate: bool) -> Callable[..., Any]:
    return jax.pmap(
        step,
        BATCH_AXIS,
        in_axes=(None, 0),
        # Unchecked by JAX: the first device's value is taken, which the step's averaging makes everybody's.
        out_axes=None,
        devices=parallel.devices,
        donate_argnums=(0,) if donate else (),
    )


def _shard_map(step: Callable[..., Any], parallel: Parallel, donate: bool) -> Callable[..., Any]:
    whole, divided = PartitionSpec(), PartitionSpec(BATCH_AXIS)
    mapped = jax.shard_map(
        step,
        mesh=parallel.mesh,
        in_specs=(whole, divided),
        out_specs=whole,
        # With the check, JAX itself sums the gradients of parameters that all devices share; the step's own mean
        # would then leave them as many times too large as there are devices.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=(0,) if donate else ())


def _jit(step: Callable[..., Any], parallel: Parallel, donate: bool) -> Callable[..., Any]:
    whole = NamedSharding(parallel.mesh, PartitionSpec())
    divided = NamedSharding(parallel.mesh, PartitionSpec(BATCH_AXIS))
    return jax.jit(
        step,
        in_shardings=(whole, divided),
        out_shardings=whole,
        donate_argnums=(0,) if donate else (),
    )


STRATEGIES: dict[str, Spread] = {"pmap": _pmap, "shard_map": _shard_map, "jit": _jit}


def make_parallel(name: str = "auto", devices: Sequence[Any] | None = None) -> Parallel:
    """The strategy of this name over `devices`, by default all of this process; "auto" is `pmap`.

    Raises:
      UsageError: an unknown name; the nearest one is named.
    """
    name = "pmap" if name == "auto" else name
    if name not in STRATEGIES:
        raise unknown_name("way to spread a step (parallel)", name, [*STRATEGIES, "auto"])
    chosen = tuple(jax.local_devices() if devices is None else devices)
    return Parallel(name, chosen, axis_name=None if name == "jit" else BATCH_AXIS)
