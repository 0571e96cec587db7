"""Hashes of a state's arrays, computed by each device from its own memory.

Copies of an array on several devices must be equal. JAX reads one of them and never compares them, so that a wrong one
stays unnoticed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxcnn.layers import BATCH_AXIS
from jaxcnn.train.devices.parallel import Parallel

# Odd constants, so that a product modulo 2^32 can be undone: the multipliers of MurmurHash3 and the golden ratio.
_OF_PLACES, _OF_WEIGHTS, _OF_BITS = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


def fingerprint_of(x: jax.Array) -> jax.Array:
    """Return a hash of the bits of an array, uint32 scalar.

    Each value is mixed by a function that can be undone, multiplied by an odd weight of its place, and added modulo
    2^32. A change of any bits of one value therefore always changes the hash. Changes of several values, such as a
    swap or two flips of one bit, cancel with a probability of about 2^-15 or less.
    """
    bits = _bits(x).reshape(-1)
    weights = jax.lax.iota(jnp.uint32, bits.size) * _OF_PLACES
    weights = (weights ^ (weights >> 16)) * _OF_WEIGHTS | np.uint32(1)
    mixed = bits * _OF_BITS
    return jnp.sum((mixed ^ (mixed >> 15)) * weights, dtype=jnp.uint32)


def _bits(x: jax.Array) -> jax.Array:
    """Return the bits of an array as uint32. Values of 64 bits become two."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    size = x.dtype.itemsize
    if size >= 4:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, jnp.uint16 if size == 2 else jnp.uint8).astype(jnp.uint32)


def compile_fingerprints(parallel: Parallel, template: Any) -> Callable[[Any], Callable[[], np.ndarray]]:
    """Return a function from a state on the devices to the hashes of its arrays, uint32 `[devices, arrays]`.

    The function starts the computation. It returns a function that waits for the hashes and returns them.

    The rows are those of this process's devices, in the order of `parallel.devices`. Of an array that is sharded, each
    device hashes its part.

    Args:
      parallel: how the state is distributed.
      template: tree, shapes and dtypes of the state.
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
    """Return which arrays of a state each device holds as a whole, bool `[arrays]`."""
    shardings = jax.tree.leaves(parallel.state_sharding(template))
    return np.array([sharding.is_fully_replicated for sharding in shardings])
