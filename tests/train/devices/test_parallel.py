"""A step gives the same result with every strategy and number of devices."""

import dataclasses
import functools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.data import compose, normalize
from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm, Conv, Dense, GlobalAvgPool
from jaxcnn.models import create_model
from jaxcnn.train import Classification, Config, create_state, make_parallel, make_train_step
from jaxcnn.train.devices.parallel import batch_norm_fields
from jaxcnn.train.devices.sharding import bytes_per_device, divided
from jaxcnn.train.parts import CustomParts, build_model

BATCH, SHAPE = 64, (8, 8, 3)


def batches(count):
    random = np.random.default_rng(0)
    for _ in range(count):
        images = random.integers(0, 256, (BATCH, *SHAPE), np.uint8)
        yield {"image": images, "label": random.integers(0, 10, BATCH).astype(np.int32)}


@functools.cache
def train(strategy, devices, *, axis_name="batch", augment=(), steps=10):
    """Parameters and statistics after some steps of SGD with momentum at the same global batch."""
    model = create_model("resnet20_cifar", 10, stage_sizes=(1, 1, 1), norm=partial(BatchNorm, axis_name=axis_name))
    optimizer = optax.sgd(0.05, momentum=0.9)
    parallel = make_parallel(strategy, jax.devices()[:devices])
    pixels = partial(normalize, mean=(0.5,) * 3, std=(0.25,) * 3)
    task = Classification(augment=compose(augment) if augment else None, normalize=pixels)
    step = make_train_step(model, optimizer, task)
    compiled = parallel.compile(step, donate_state=True)
    state = parallel.place_state(create_state(model, optimizer, SHAPE, seed=0))
    for batch in batches(steps):
        state, sums = compiled(state, parallel.place_batch(batch))
        assert int(sums["examples"]) == BATCH
    return jax.device_get({"params": state.params, "batch_stats": state.batch_stats})


def largest_difference(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.max(np.abs(x - y), initial=0.0)), a, b)))


@pytest.mark.parametrize("strategy", ["pmap", "jit", pytest.param("shard_map", marks=pytest.mark.slow)])
def test_eight_devices_learn_what_one_learns(strategy):
    # Gradients that were summed in place of averaged would be 8 times too large and fail here. Not closer: of millions
    # of activations one may be so near 0 that the last digit decides whether it passes the ReLU.
    assert largest_difference(train(strategy, 8), train("pmap", 1)) < 1e-4
    assert largest_difference(train(strategy, 8, steps=1), train("pmap", 1, steps=1)) < 1e-6


def test_pmap_and_shard_map_agree_to_the_last_bit():
    assert largest_difference(train("pmap", 8), train("shard_map", 8)) == 0.0


def test_without_synchronised_batch_norm_eight_devices_differ():
    assert largest_difference(train("pmap", 8, axis_name=None), train("pmap", 1)) > 1e-3


class Linear(nn.Module):
    """`[N, H, W, C] -> [N, 10]`: a network whose gradient one can write down."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(10, use_bias=False)(x.reshape(len(x), -1))


@pytest.mark.parametrize("strategy", ["pmap", "shard_map", "jit"])
def test_gradients_are_means_over_the_batch_and_not_as_many_times_too_large_as_there_are_devices(strategy):
    batch = next(batches(1))
    parallel = make_parallel(strategy, jax.devices()[:8])
    optimizer = optax.sgd(1.0)
    state = create_state(Linear(), optimizer, SHAPE, seed=0)
    step = make_train_step(Linear(), optimizer, Classification(normalize=lambda x: x / 255))
    compiled = parallel.compile(step, donate_state=False)
    after, _ = compiled(parallel.place_state(state), parallel.place_batch(batch))
    x, kernel = batch["image"].reshape(BATCH, -1) / 255.0, np.asarray(state.params["Dense_0"]["kernel"], np.float64)
    logits = x @ kernel
    odds = np.exp(logits - logits.max(1, keepdims=True))
    gradient = x.T @ (odds / odds.sum(1, keepdims=True) - np.eye(10)[batch["label"]]) / BATCH
    update = state.params["Dense_0"]["kernel"] - after.params["Dense_0"]["kernel"]
    np.testing.assert_allclose(update, gradient, atol=1e-6)
    assert np.abs(gradient).max() > 1e-2  # eight times as much would be far outside


class Small(nn.Module):
    """`[N, 8, 8, 3] -> [N, 10]` with batch normalisation, and a 3x3x64x64 kernel that is worth dividing.

    Smooth, so that rounding, which differs between processors and strategies, stays as small as it is.
    """

    norm: object = BatchNorm

    @nn.compact
    def __call__(self, x, *, train):
        for width in (64, 64):
            x = nn.tanh(self.norm()(Conv(width, 3, padding=1)(x), train=train))
        return Dense(10)(GlobalAvgPool()(x))


@functools.cache
def train_small(strategy, *, sync="all", steps_a_call=None, shard_state=False, count=4):
    """The state after `count` steps over eight devices, on the devices, and the metrics of each step."""
    optimizer = optax.sgd(0.05, momentum=0.9)
    parallel = make_parallel(strategy, shard_state=shard_state)
    model = Small(norm=partial(BatchNorm, **batch_norm_fields(sync, parallel)))
    step = make_train_step(model, optimizer, Classification(normalize=lambda x: x / 128 - 1))
    compiled = parallel.compile(step, donate_state=True, several=steps_a_call is not None)
    state = parallel.place_state(create_state(model, optimizer, SHAPE, seed=0))
    given, metrics = list(batches(count)), []
    for start in range(0, count, steps_a_call or 1):
        if steps_a_call is None:
            state, sums = compiled(state, parallel.place_batch(given[start]))
            metrics.append(jax.device_get(sums))
        else:
            state, sums = compiled(state, parallel.place_batches(given[start : start + steps_a_call]))
            metrics += [{name: x[i] for name, x in jax.device_get(sums).items()} for i in range(steps_a_call)]
    return state, metrics


def difference(a, b):
    return largest_difference(jax.device_get(a), jax.device_get(b))


@pytest.mark.parametrize("strategy", ["pmap", "shard_map", "jit"])
def test_several_steps_in_a_call_are_the_same_steps(strategy):
    (one, one_metrics), (several, several_metrics) = train_small(strategy), train_small(strategy, steps_a_call=2)
    assert difference(one, several) < 1e-6
    assert int(several.step) == 4
    for a, b in zip(one_metrics, several_metrics, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([*a.values()], [*b.values()], rtol=1e-6)


def test_statistics_of_one_group_of_all_devices_are_those_of_all():
    assert difference(train_small("pmap", sync=8)[0], train_small("pmap")[0]) < 1e-6


def test_groups_lie_between_all_and_none():
    states = [train_small("pmap", sync=sync)[0].params for sync in ("all", 4, "none")]
    assert difference(states[0], states[1]) > 1e-5
    assert difference(states[1], states[2]) > 1e-5
    assert difference(states[1], train_small("shard_map", sync=4)[0].params) == 0.0
    assert difference(states[2], train_small("pmap", sync=1)[0].params) < 1e-6  # groups of one are none


def test_a_divided_state_gives_the_same_numbers_in_less_memory():
    divided_state, whole_state = train_small("jit", shard_state=True)[0], train_small("jit")[0]
    assert difference(divided_state, whole_state) < 1e-6
    kernel = divided_state.params["Conv_1"]["kernel"]
    assert kernel.shape == (3, 3, 64, 64)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 3, 64, 8)}
    momentum = divided_state.opt_state[0].trace["Conv_1"]["kernel"]
    assert {shard.data.shape for shard in momentum.addressable_shards} == {(3, 3, 64, 8)}
    # The large kernel and its momentum are nine tenths of this state.
    assert bytes_per_device(divided_state) < bytes_per_device(whole_state) / 4


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ((3, 3, 512, 512), (3, 3, 512, 64)),  # of equally long axes the last
        ((4096, 1000), (512, 1000)),  # the longest
        ((7, 7, 3, 1024), (7, 7, 3, 128)),
        ((8, 8, 511, 9), (8, 1, 511, 9)),  # 8 divides neither 511 nor 9
        ((1001, 999), (1001, 999)),  # nothing to divide
        ((64, 64), (64, 64)),  # not worth it
        ((), ()),
    ],
)
def test_the_longest_axis_that_the_devices_divide_is_cut(shape, part):
    assert divided(make_parallel("jit").mesh, shape).shard_shape(shape) == part


def test_a_checkpoint_does_not_know_how_the_state_was_divided():
    parallel = make_parallel("jit", shard_state=True)
    state = train_small("jit", shard_state=True)[0]
    host = parallel.fetch_state(state)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(host))
    elsewhere = make_parallel("pmap", jax.devices()[:2]).place_state(host)
    assert jax.tree.map(jnp.shape, elsewhere) == jax.tree.map(jnp.shape, state)
    assert difference(elsewhere, state) == 0.0


def test_a_models_own_normalisation_keeps_its_fields_and_one_without_gets_none():
    def norm_of(model):
        return build_model(Config(model=model), CustomParts(), 10, {"axis_name": None}).norm

    assert norm_of("googlenet_bn")().epsilon == 1e-3
    assert norm_of("googlenet_bn")().axis_name is None
    assert norm_of("vgg11") is None


def test_auto_is_pmap_in_one_process():
    assert make_parallel("auto").name == "pmap"


@dataclasses.dataclass(frozen=True)
class Device:
    """A device as far as choosing a strategy looks at it."""

    process_index: int


def test_auto_is_shard_map_in_many_processes_whose_devices_lie_together():
    parallel = make_parallel("auto", [Device(1), Device(0), Device(1), Device(0)])
    assert parallel.name == "shard_map"
    assert [device.process_index for device in parallel.devices] == [0, 0, 1, 1]
    assert parallel.share == (0, 2)
    with pytest.raises(UsageError, match=r"'pmap' does not support several processes, got 2\. Use"):
        make_parallel("pmap", [Device(0), Device(1)])
    with pytest.raises(UsageError, match=r"different numbers of devices: \[2, 1\]"):
        make_parallel("auto", [Device(0), Device(0), Device(1)])


@pytest.mark.parametrize("sync", [0, 3, 16, -1, True, "some"])
def test_groups_that_cannot_be_are_refused(sync):
    with pytest.raises(UsageError, match="sync_batch_norm must be 'all', 'none' or a divisor of the 8 devices"):
        batch_norm_fields(sync, make_parallel("pmap"))


@pytest.mark.parametrize("sync", ["none", 2])
def test_jit_takes_statistics_over_all(sync):
    with pytest.raises(UsageError, match="must be 'all' under parallel 'jit'"):
        batch_norm_fields(sync, make_parallel("jit"))


def test_the_dtype_of_statistics_between_devices():
    assert batch_norm_fields("all", make_parallel("pmap"), "bfloat16") == {"reduce_dtype": "bfloat16"}
    groups = batch_norm_fields(4, make_parallel("shard_map"), "bfloat16")
    assert groups == {"reduce_dtype": "bfloat16", "axis_index_groups": ((0, 1, 2, 3), (4, 5, 6, 7))}
    assert batch_norm_fields("none", make_parallel("pmap"), "bfloat16") == {"axis_name": None}
    with pytest.raises(UsageError, match="batch_norm_reduce_dtype must be 'float32' under parallel 'jit'"):
        batch_norm_fields("all", make_parallel("jit"), "bfloat16")


@pytest.mark.parametrize("strategy", ["pmap", "shard_map"])
def test_only_jit_divides_the_state(strategy):
    with pytest.raises(UsageError, match="shard_state needs parallel 'jit'"):
        make_parallel(strategy, shard_state=True)


@pytest.mark.slow
def test_augmentation_does_not_depend_on_the_number_of_devices():
    # One step: later ones amplify the last digit, since an activation near 0 passes on one side and not the other.
    augmented = functools.partial(train, augment=("flip", "shift"), steps=1)
    assert largest_difference(augmented("pmap", 8), augmented("pmap", 1)) < 1e-6
    assert largest_difference(augmented("pmap", 1), train("pmap", 1, steps=1)) > 1e-3


def test_state_is_never_stacked():
    parallel = make_parallel("pmap", jax.devices())
    model = create_model("lenet5", 10)
    state = create_state(model, optax.sgd(0.1), (28, 28, 1), seed=0)
    placed = parallel.place_state(state)
    step = parallel.compile(make_train_step(model, optax.sgd(0.1)), donate_state=True)
    batch = {"image": np.zeros((16, 28, 28, 1), np.uint8), "label": np.zeros(16, np.int32)}
    after, _ = step(placed, parallel.place_batch(batch))
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, state)
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(after))


def test_the_state_passed_in_is_donated():
    parallel = make_parallel("pmap", jax.devices()[:2])
    model = create_model("lenet5", 10)
    state = create_state(model, optax.sgd(0.1), (28, 28, 1), seed=0)
    placed = parallel.place_state(state)
    step = parallel.compile(make_train_step(model, optax.sgd(0.1)), donate_state=True)
    batch = {"image": np.zeros((16, 28, 28, 1), np.uint8), "label": np.zeros(16, np.int32)}
    step(placed, parallel.place_batch(batch))
    assert all(x.is_deleted() for x in jax.tree.leaves(placed.params))
    assert not any(x.is_deleted() for x in jax.tree.leaves(state))


@pytest.mark.parametrize("strategy", ["pmap", "shard_map", "jit"])
def test_a_batch_that_devices_do_not_divide_is_refused(strategy):
    parallel = make_parallel(strategy, jax.devices()[:8])
    batch = {"image": np.zeros((100, 28, 28, 1), np.uint8), "label": np.zeros(100, np.int32)}
    with pytest.raises(UsageError, match="batch_size 100 cannot be divided over 8 devices; use 96 or 104"):
        parallel.place_batch(batch)


@pytest.mark.parametrize("strategy", ["pmap", "shard_map", "jit"])
@pytest.mark.parametrize("steps", [None, 2])
def test_a_compiled_step_takes_placed_batches_as_they_lie(strategy, steps):
    parallel = make_parallel(strategy)
    step = make_train_step(Linear(), optax.sgd(0.1), Classification(normalize=lambda x: x / 255))
    compiled = parallel.compile(step, donate_state=False, several=steps is not None)
    state = parallel.place_state(create_state(Linear(), optax.sgd(0.1), SHAPE, seed=0))
    given = list(batches(2))
    placed = parallel.place_batch(given[0]) if steps is None else parallel.place_batches(given)
    assert all(len(x.sharding.device_set) == 8 for x in jax.tree.leaves(placed))
    compiled(state, placed)  # compiling transfers constants
    with jax.transfer_guard("disallow_explicit"):  # neither from the host nor from device to device
        jax.block_until_ready(compiled(state, placed))


@pytest.mark.parametrize("strategy", ["pmap", "shard_map", "jit"])
def test_a_batch_that_is_on_one_device_is_distributed(strategy):
    parallel = make_parallel(strategy)
    batch = next(batches(1))
    placed = parallel.place_batches([jax.tree.map(jnp.asarray, batch)] * 2)
    for name, x in batch.items():
        assert len(placed[name].sharding.device_set) == 8
        np.testing.assert_array_equal(np.asarray(placed[name]).reshape(2, *x.shape), np.stack([x, x]))


def test_an_unknown_strategy_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'pmap'"):
        make_parallel("pmpa")
