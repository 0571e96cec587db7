"""Compute hashes of the arrays of a training state. Each device hashes the copies in its own memory.

The copies of an array on several devices must be equal. JAX reads only one copy and never compares copies. Without
hashes, a wrong copy would not be noticed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxcnn.layers import BATCH_AXIS
from jaxcnn.train.devices.parallel import Parallel

# Multiplication by an odd constant modulo 2^32 is invertible. The constants are from MurmurHash3 and the golden ratio.
_OF_PLACES, _OF_WEIGHTS, _OF_BITS = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


def fingerprint_of(x: jax.Array) -> jax.Array:
    """Return a hash of the bits of an array, as a uint32 scalar.

    Each value is mixed by an invertible function, and multiplied by an odd weight that depends on its index. The hash
    is the sum of the products modulo 2^32. A change of a single value therefore always changes the hash. Changes of
    several values, such as a swap of two values, leave the hash unchanged with a probability of about 2^-15 or less.
    """
    bits = _bits(x).reshape(-1)
    weights = jax.lax.iota(jnp.uint32, bits.size) * _OF_PLACES
    weights = (weights ^ (weights >> 16)) * _OF_WEIGHTS | np.uint32(1)
    mixed = bits * _OF_BITS
    return jnp.sum((mixed ^ (mixed >> 15)) * weights, dtype=jnp.uint32)


def _bits(x: jax.Array) -> jax.Array:
    """Return the bits of an array as uint32. A 64-bit value becomes two uint32 values."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    size = x.dtype.itemsize
    if size >= 4:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, jnp.uint16 if size == 2 else jnp.uint8).astype(jnp.uint32)


def compile_fingerprints(parallel: Parallel, template: Any) -> Callable[[Any], Callable[[], np.ndarray]]:
    """Return a function that starts to compute the hashes of all arrays of a training state on the devices.

    The returned function has the argument `state`, and returns a second function without arguments. The second function
    waits for the hashes, and returns them as a uint32 array `[devices, arrays]`.

    The result has a row for each device of this process, in the order of `parallel.devices`. If an array is sharded,
    each device hashes its own shard.

    Args:
      parallel: how the state is distributed over devices.
      template: pytree with the structure of the state, and with the shapes and dtypes of its arrays.
    """
    specs = jax.tree.map(lambda sharding: sharding.spec, parallel.state_sharding(template))

    def of_one_device(state: Any) -> jax.Array:
        return jnp.stack([fingerprint_of(x) for x in jax.tree.leaves(state)])[None]

    program = jax.jit(
        jax.shard_map(
            of_one_device,
            mesh=parallel.mesh,
            in_specs=(specs,),
            out_specs=PartitionSpec(BATCH_AXIS),
            check_vma=False,
        )
    )

    def dispatch(state: Any) -> Callable[[], np.ndarray]:
        hashes = program(state)

        def fetch() -> np.ndarray:
            rows = {shard.device: np.asarray(shard.data)[0] for shard in hashes.addressable_shards}
            return np.stack([rows[device] for device in parallel.devices if device in rows])

        return fetch

    return dispatch


def replicated_leaves(parallel: Parallel, template: Any) -> np.ndarray:
    """Return a boolean mask `[arrays]` of the arrays of a state that are replicated on all devices."""
    shardings = jax.tree.leaves(parallel.state_sharding(template))
    return np.array([sharding.is_fully_replicated for sharding in shardings])
