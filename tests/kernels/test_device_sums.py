"""Sums of a tree over devices: the same numbers however they are sent, and few messages on GPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcnn.kernels import device_sums
from jaxcnn.kernels.device_sums import buckets, sum_of_trees


def tree():
    """Return arrays of several dtypes with an axis of eight devices in front."""
    random = np.random.default_rng(0)
    floats = {name: random.normal(size=(8, *shape)).astype(np.float32) for name, shape in SHAPES.items()}
    return floats | {"count": np.arange(8, dtype=np.int32), "half": jnp.asarray(floats["a"], jnp.bfloat16)}


SHAPES = {"a": (3, 5), "b": (), "c": (7,), "d": (2, 2, 2)}


def mapped(function):
    mesh = Mesh(np.array(jax.devices()[:8]), ("d",))
    one = lambda values: function(jax.tree.map(lambda x: x[0], values))  # noqa: E731
    return jax.jit(jax.shard_map(one, mesh=mesh, in_specs=P("d"), out_specs=P(), check_vma=False))


def assert_same(found, right):
    jax.tree.map(np.testing.assert_array_equal, found, right)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(lambda x: (x.shape, x.dtype), right)


@pytest.mark.parametrize("size", [8, 40, 2**20])
def test_sums_in_buckets_are_the_sums_of_single_arrays(size, monkeypatch):
    monkeypatch.setattr(device_sums, "BUCKET_BYTES", size)
    monkeypatch.setattr(device_sums, "SMALL_BYTES", size // 4)
    right = mapped(lambda values: jax.tree.map(lambda x: jax.lax.psum(x, "d"), values))(tree())
    assert_same(mapped(lambda values: sum_of_trees(values, "d"))(tree()), right)

    def in_buckets(values):
        leaves, structure = jax.tree.flatten(values)
        return jax.tree.unflatten(structure, device_sums._in_buckets(tuple(leaves), "d"))

    assert_same(mapped(in_buckets)(tree()), right)


def test_gpus_get_a_message_for_each_dtype_and_others_one_for_each_array():
    def messages(platform):
        traced = mapped(lambda values: sum_of_trees(values, "d")).trace(tree())
        return traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.all_reduce")

    assert [messages(platform) for platform in ("cuda", "rocm", "tpu", "cpu")] == [3, 3, 6, 6]


def arrays(*sizes, dtype="float32"):
    return [jax.ShapeDtypeStruct((size,), dtype) for size in sizes]


def test_buckets_are_filled_from_the_last_array_and_large_arrays_are_alone(monkeypatch):
    monkeypatch.setattr(device_sums, "BUCKET_BYTES", 24)
    monkeypatch.setattr(device_sums, "SMALL_BYTES", 0)
    assert buckets(arrays(4, 3, 7, 5, 2, 1, 4)) == [[2], [6, 5, 4], [3, 1, 0]]
    assert buckets([*arrays(2), *arrays(2, 3, dtype="int32"), *arrays(4)]) == [[3, 0], [2, 1]]


def test_what_is_left_and_too_small_for_a_bucket_joins_the_last_one(monkeypatch):
    monkeypatch.setattr(device_sums, "BUCKET_BYTES", 24)
    monkeypatch.setattr(device_sums, "SMALL_BYTES", 0)
    assert buckets(arrays(6, 5, 5)) == [[2, 1, 0]]
    assert buckets(arrays(5, 2, 5, 5)) == [[3, 2], [1, 0]]


def test_small_arrays_are_in_the_last_bucket(monkeypatch):
    monkeypatch.setattr(device_sums, "BUCKET_BYTES", 24)
    monkeypatch.setattr(device_sums, "SMALL_BYTES", 9)
    assert buckets(arrays(1, 4, 2, 3, 2, 4, 1)) == [[5, 3], [1, 6, 4, 2, 0]]


def test_xla_joins_no_two_buckets_of_a_deep_network():
    # XLA for GPUs joins messages that have 30 MiB or less together.
    sizes = [64, 64, 64 * 64, 9 * 64 * 64, 256, 512 * 512, 9 * 256 * 256] * 20
    found = [sum(4 * sizes[i] for i in bucket) for bucket in buckets(arrays(*sizes))]
    assert len(found) == 4
    assert sum(sorted(found)[:2]) > 30 * 2**20
