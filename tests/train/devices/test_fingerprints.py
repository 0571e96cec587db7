"""Hashes of a state: every changed value changes them, and each device hashes its own memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.train import make_parallel
from jaxcnn.train.devices.fingerprints import compile_fingerprints, fingerprint_of, replicated_leaves

fingerprint = jax.jit(fingerprint_of)


def flipped(array, place, bit):
    bits = np.array(array).view(f"uint{8 * array.dtype.itemsize}")
    bits.reshape(-1)[place] ^= bits.dtype.type(1 << bit)
    return bits.view(array.dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_every_flip_of_one_bit_changes_the_hash(dtype):
    array = np.asarray(jnp.arange(24).reshape(4, 6).astype(dtype))
    before = fingerprint(array)
    places, bits = np.meshgrid(np.arange(24), np.arange(8 * array.dtype.itemsize))
    changed = [flipped(array, *where) for where in zip(places.flat, bits.flat, strict=True)]
    assert not (jax.vmap(fingerprint_of)(np.stack(changed)) == before).any()


def test_a_swap_and_two_flips_of_one_bit_change_the_hash():
    array = np.linspace(-1, 1, 64, dtype=np.float32)
    before = fingerprint(array)
    changed = []
    for a in range(63):
        swapped = array.copy()
        swapped[[a, a + 1]] = swapped[[a + 1, a]]
        changed += [swapped, *(flipped(flipped(array, a, bit), a + 1, bit) for bit in range(32))]
    assert not (jax.vmap(fingerprint_of)(np.stack(changed)) == before).any()


def test_zeros_of_both_signs_differ():
    assert fingerprint(np.zeros(3, np.float32)) != fingerprint(-np.zeros(3, np.float32))


@pytest.mark.parametrize("name", ["pmap", "shard_map", "jit"])
def test_each_device_hashes_its_own_copy(name):
    parallel = make_parallel(name, jax.devices()[:3])
    state = parallel.place_state({"a": np.arange(5, dtype=np.float32), "b": np.ones((2, 2), np.int32)})
    step = parallel.compile(lambda state, batch: (jax.tree.map(lambda x: x * 2, state), {}), donate_state=True)
    state, _ = step(state, parallel.place_batch(np.zeros((6, 1), np.float32)))
    fingerprints = compile_fingerprints(parallel, state)
    before = fingerprints(state)()
    assert before.shape == (3, 2)
    assert (before == before[0]).all()
    devices = parallel.devices
    parts = [
        jax.device_put(np.array(x), device) for x, device in zip(shards(state["a"], devices), devices, strict=True)
    ]
    parts[1] = jax.device_put(flipped(np.array(parts[1]), 3, 0), devices[1])
    wrong = jax.make_array_from_single_device_arrays(state["a"].shape, state["a"].sharding, parts)
    assert ((fingerprints({**state, "a": wrong})() != before) == [[False, False], [True, False], [False, False]]).all()


def shards(array, devices):
    held = {shard.device: shard.data for shard in array.addressable_shards}
    return [held[device] for device in devices]


def test_parts_of_a_sharded_array_are_not_copies():
    parallel = make_parallel("jit", jax.devices()[:2], shard_state=True)
    state = parallel.place_state({"small": np.ones(4, np.float32), "large": np.arange(2.0**15, dtype=np.float32)})
    assert replicated_leaves(parallel, state).tolist() == [False, True]
    hashes = compile_fingerprints(parallel, state)(state)()
    assert hashes[0, 0] != hashes[1, 0]
    assert hashes[0, 1] == hashes[1, 1]
