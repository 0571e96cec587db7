"""Count the examples of a batch, make a random key for each example, and gather examples from all devices.

Under `pmap` and `shard_map`, which bind the axis name `jaxcnn.layers.BATCH_AXIS`, a compiled step gets only the part of
the batch on its own device. On one device, or under `jit` over a mesh, a step gets the whole batch. The functions of
this module work in both cases.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.array_types import AnyArray, Array, Int, Key, KeyArray, Shaped, UInt32
from jaxcnn.errors import UsageError
from jaxcnn.kernels.axes import is_bound, needs_mean
from jaxcnn.kernels.device_sums import sum_of_trees
from jaxcnn.layers import BATCH_AXIS


def count_examples(batch: Any) -> int:
    """Return the number of examples of a batch, the length of the leading axis of all its arrays.

    Raises:
      UsageError: if the batch has no arrays, or if the leading axes of its arrays differ in length.
    """
    lengths = {jax.tree_util.keystr(path): jnp.shape(x)[:1] for path, x in jax.tree_util.tree_leaves_with_path(batch)}
    if not lengths or () in lengths.values() or len(set(lengths.values())) > 1:
        found = ", ".join(f"{name or 'batch'} {length[0] if length else 'no axis'}" for name, length in lengths.items())
        raise UsageError(
            f"arrays of a batch must have leading axes of equal length (the examples), got: {found or 'no array'}. "
            "Return arrays of equal length from the source and from Task.prepare."
        )
    return next(iter(lengths.values()))[0]


def example_keys(key: KeyArray, count: int) -> Key[Array, " n"] | UInt32[Array, "n 2"]:
    """Return a random key for each of the `count` examples on this device, `[count]`.

    The key of an example depends on its index in the whole batch. Random numbers therefore do not depend on the number
    of devices.

    >>> keys = example_keys(jax.random.key(0), 4)
    >>> jax.vmap(jax.random.normal)(keys).shape
    (4,)
    """
    places = device_index() * count + jnp.arange(count)
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(places)


def device_index() -> Int[Array, ""] | int:
    """Return the index of this device's part of the batch, an int32 scalar. Return 0 if a step gets the whole batch.

    >>> parts = jnp.zeros((jax.device_count(), 2))
    >>> jax.pmap(lambda part: part + device_index(), BATCH_AXIS)(parts)[:, 0].tolist() == [*range(jax.device_count())]
    True
    """
    return jax.lax.axis_index(BATCH_AXIS) if is_bound(BATCH_AXIS) else 0


def reversed_examples(x: Shaped[AnyArray, "n ..."]) -> Shaped[Array, "n ..."]:
    """Reverse the order of the examples of the whole batch, and return this device's part of the result, `[N, ...]`.

    With D devices, device d exchanges its part of the batch with device D - 1 - d.
    """
    if is_bound(BATCH_AXIS):
        devices = jax.lax.axis_size(BATCH_AXIS)
        x = jax.lax.ppermute(x, BATCH_AXIS, [(device, devices - 1 - device) for device in range(devices)])
    return jnp.flip(x, axis=0)


def across_devices(x: Shaped[AnyArray, "n ..."]) -> Shaped[AnyArray, "all ..."]:
    """Gather the arrays `[N, ...]` of all D devices into one array of the whole batch, `[D * N, ...]`.

    Use this function in a loss that compares examples, such as a contrastive loss. The function is differentiable.

    >>> parts = jnp.arange(2.0 * jax.device_count()).reshape(-1, 2)  # two examples on each device
    >>> whole = jax.pmap(across_devices, BATCH_AXIS)(parts)
    >>> whole.shape == (jax.device_count(), 2 * jax.device_count())
    True
    """
    return jax.lax.all_gather(x, BATCH_AXIS, tiled=True) if is_bound(BATCH_AXIS) else x


def mean_over_devices(tree: Any) -> Any:
    """Average arrays, such as gradients, over all devices. On one device, return the arrays unchanged.

    >>> mean_over_devices({"kernel": jnp.array([1.0, 2.0])})["kernel"].tolist()
    [1.0, 2.0]
    """
    return reduce_over_devices(tree, {})[0]


def sum_over_devices(tree: Any) -> Any:
    """Sum arrays over all devices. On one device, return the arrays unchanged."""
    return reduce_over_devices({}, tree)[1]


def reduce_over_devices(means: Any, sums: Any) -> tuple[Any, Any]:
    """Return `(mean_over_devices(means), sum_over_devices(sums))`, with a single exchange between the devices."""
    if not needs_mean(BATCH_AXIS, means, sums):
        return means, sums
    means, sums = sum_of_trees((means, sums), BATCH_AXIS)
    return jax.tree.map(lambda x: x / jax.lax.axis_size(BATCH_AXIS), means), sums
