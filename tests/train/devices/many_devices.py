"""Checks of steps, batches and statistics on many virtual devices; started by test_many_devices.py.

XLA_FLAGS=--xla_force_host_platform_device_count=64 many_devices.py CHECK...
"""

import functools
import sys

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import PartitionSpec

from jaxcnn.data import from_arrays
from jaxcnn.data.pipeline import batch_indices
from jaxcnn.errors import UsageError
from jaxcnn.layers import BATCH_AXIS, BatchNorm, Conv, Dense, Flatten, GlobalAvgPool, Sequential
from jaxcnn.train import Classification, Config, create_state, make_parallel, make_train_step
from jaxcnn.train.devices.parallel import batch_norm_fields
from jaxcnn.train.devices.sharding import bytes_per_device
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime.loop import evaluate
from jaxcnn.train.runtime.plan import make_plan

COUNT, SHAPE = jax.device_count(), (8, 8, 3)
BATCH = 2 * COUNT
GROUP = {64: 8, 256: 16}
WAYS = ("pmap", "shard_map", "jit")
STEPS = 4


class Network(nn.Module):
    """`[N, 8, 8, 3] -> [N, 10]`. Smooth, and without biases whose gradient is zero but for rounding."""

    norm: object = BatchNorm

    @nn.compact
    def __call__(self, x, *, train):
        for width in (16, 64, 64):
            x = nn.tanh(self.norm()(Conv(width, 3, padding=1, use_bias=False)(x), train=train))
        return Dense(10)(GlobalAvgPool()(x))


def batches(count=STEPS):
    random = np.random.default_rng(0)
    for _ in range(count):
        images, labels = random.integers(0, 256, (BATCH, *SHAPE), np.uint8), random.integers(0, 10, BATCH, np.int32)
        yield {"image": images, "label": labels}


@functools.cache
def train(way, devices, *, shard_state=False):
    """The states after each step, as host arrays, and the last one on the devices."""
    parallel = make_parallel(way, jax.devices()[:devices], shard_state=shard_state)
    optimizer, states = optax.sgd(0.05, momentum=0.9), []
    step = make_train_step(Network(), optimizer, Classification(normalize=lambda x: x / 128 - 1))
    compiled = parallel.compile(step, donate_state=True)
    state = parallel.place_state(create_state(Network(), optimizer, SHAPE, seed=0))
    for batch in batches():
        state, sums = compiled(state, parallel.place_batch(batch))
        assert int(sums["examples"]) == BATCH
        states.append(parallel.fetch_state(state))
    return states, state


def relative_differences(ours, theirs):
    """For parameters, running statistics and momenta: the largest difference, relative to the largest value."""
    found = {}
    for part in ("params", "batch_stats", "opt_state"):
        a, b = (jax.tree.leaves(getattr(state, part)) for state in (ours, theirs))
        largest = max(np.abs(y).max() for y in b)
        found[part] = float(
            max(np.abs(np.asarray(x, np.float64) - y).max() for x, y in zip(a, b, strict=True)) / largest
        )
    return found


def steps(way):
    """Parameters, running statistics and momenta are those of one device."""
    (first, *_, last), _ = train(way, COUNT)
    (first_alone, *_, last_alone), _ = train("pmap", 1)
    for count, ours, theirs in ((1, first, first_alone), (STEPS, last, last_alone)):
        found = relative_differences(ours, theirs)
        print(f"{way} on {COUNT} devices after {count} steps: {found}")
        # Momenta after the first step are the gradients.
        assert max(found["params"], found["opt_state"]) < 1e-6, found
        assert found["batch_stats"] < 2e-6 * count, found


def sharded():
    """A sharded state has the same values in less memory."""
    (*_, host), state = train("jit", COUNT, shard_state=True)
    (*_, whole), replicated = train("jit", COUNT)
    assert max(relative_differences(host, whole).values()) < 1e-6
    kernel = state.params["Conv_2"]["kernel"]
    expected = (3, 3, 64, 1) if COUNT == 64 else (3, 3, 64, 64)  # 256 devices divide no axis
    assert {shard.data.shape for shard in kernel.addressable_shards} == {expected}
    if COUNT == 64:
        assert bytes_per_device(state) < bytes_per_device(replicated) / 4


def order():
    """Each device gets its rows of the batch, and no example comes twice."""
    images = np.arange(BATCH)[:, None, None, None] * np.ones(SHAPE, np.int32)
    batch = {"image": images, "label": np.arange(BATCH)}
    for parallel in map(make_parallel, WAYS):
        for placed, steps in ((parallel.place_batch(batch), 1), (parallel.place_batches([batch] * 3), 3)):
            whole = np.asarray(placed["label"]).reshape(steps, BATCH)
            np.testing.assert_array_equal(whole, np.tile(np.arange(BATCH), (steps, 1)))
            rows = {shard.device: np.asarray(shard.data) for shard in placed["label"].addressable_shards}
            for index, device in enumerate(parallel.devices):
                mine = rows[device].reshape(steps, 2)
                np.testing.assert_array_equal(mine, np.tile([2 * index, 2 * index + 1], (steps, 1)))
            for shard in placed["image"].addressable_shards:
                assert {*np.unique(np.asarray(shard.data))} == {*np.unique(rows[shard.device])}


def data(train_examples, test_examples):
    """Examples whose labels are their positions, one class each."""
    random = np.random.default_rng(1)
    images = [random.integers(0, 256, (count, 4, 4, 1), np.uint8) for count in (train_examples, test_examples)]
    labels = [np.arange(count) for count in (train_examples, test_examples)]
    names = [str(index) for index in range(max(train_examples, test_examples))]
    return from_arrays((images[0], labels[0]), test=(images[1], labels[1]), class_names=names)


def plan_of(dataset, **fields):
    classes = len(dataset.class_names)
    config = Config(steps=5, batch_size=BATCH, augment=(), progress=False, metrics=("per_class",), **fields)
    return make_plan(config, CustomParts(model=Sequential([Flatten(), Dense(classes)])), data=dataset)


def epochs():
    """The steps of a run use the examples of `batch_indices`, whose epochs do not end with a batch."""
    examples = 3 * BATCH + 7
    for way in WAYS:
        plan = plan_of(data(examples, 10), parallel=way)
        feed = plan.pipeline.batches(0, place=plan.parallel.place_batch)
        seen = np.concatenate([np.asarray(next(feed)["label"]).reshape(-1) for _ in range(7)])
        wanted = [batch_indices(step, examples=examples, batch_size=BATCH, seed=0) for step in range(7)]
        np.testing.assert_array_equal(seen, np.concatenate(wanted))
        for start in (0, examples):
            np.testing.assert_array_equal(np.sort(seen[start : start + examples]), np.arange(examples))


def evaluation():
    """An evaluation counts each example once, also where devices do not divide them, or are more than them."""
    for way, examples in (("pmap", 3), ("jit", COUNT + 1), ("shard_map", 523)):
        plan = plan_of(data(max(BATCH, examples), examples), parallel=way)
        state = plan.initial_state()
        found = evaluate(plan, plan.compile_eval_step(), plan.parallel.place_state(state), "test")
        assert found["examples"] == examples
        assert [*found["per_class"]["support"]][:examples] == [1] * examples
        images, labels = (plan.dataset.decoded("test", plan.preprocessing.geometry)[key] for key in ("image", "label"))
        logits = plan.model.apply({"params": state.params}, plan.preprocessing.normalize(images), train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        np.testing.assert_allclose(found["loss"], np.asarray(losses, np.float64).mean(), rtol=1e-6)


def refusals():
    """What the devices cannot divide is refused in one line that names what would work."""
    refused(data(4 * BATCH, 10), BATCH + 1, f"use {BATCH} or {BATCH + COUNT}")
    refused(data(BATCH, 10), BATCH - 1, f"use {COUNT} or {BATCH}")
    refused(data(BATCH - 1, 10), COUNT + 1, f"use {COUNT}")
    refused(data(COUNT - 1, 10), COUNT - 2, f"use fewer devices: there are {COUNT - 1} training images")
    refused(data(COUNT - 1, 10), "full", "use fewer devices")
    refused(data(BATCH + 1, 10), "full", f"use {BATCH}")


def refused(dataset, batch_size, remedy):
    try:
        make_plan(Config(batch_size=batch_size), CustomParts(model=Network()), data=dataset)
    except UsageError as error:
        said = str(error)
        assert said.endswith(f" over {COUNT} devices; {remedy}"), said
        assert "\n" not in said
    else:
        raise AssertionError(f"batch size {batch_size} was accepted")


def groups():
    """Normalized values, running statistics and gradients are those of exactly each group of devices."""
    size, rows = GROUP[COUNT], 3
    random = np.random.default_rng(2)
    # Each device's rows have a mean and a scale of their own: another group would be far away.
    own = random.normal(0, 3, (COUNT, 1, 1)), np.exp(random.normal(0, 1, (COUNT, 1, 1)))
    x = (own[0] + own[1] * random.normal(size=(COUNT, rows, 5))).astype(np.float32)
    weight = random.normal(size=x.shape).astype(np.float32)
    by_group = [array.reshape(COUNT // size, size * rows, 5) for array in (x, weight)]
    expected = [jax.device_get(normalized(*part)) for part in zip(*by_group, strict=True)]
    for way in ("pmap", "shard_map"):
        parallel = make_parallel(way)
        fields = batch_norm_fields(size, parallel)
        assert len(fields["axis_index_groups"]) == COUNT // size
        found = mapped(functools.partial(normalized, **fields), parallel)(x, weight)
        y, gradient, mean, var = jax.device_get(found)
        for index, (group_y, group_gradient, group_mean, group_var) in enumerate(expected):
            members = slice(index * size, (index + 1) * size)
            np.testing.assert_allclose(y[members].reshape(-1, 5), group_y, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(gradient[members].reshape(-1, 5), group_gradient, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(mean[members], np.tile(group_mean, (size, 1)), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(var[members], np.tile(group_var, (size, 1)), rtol=1e-5, atol=1e-6)


def mapped(function, parallel):
    """Let each device apply a function to its arrays. Results have an axis of devices in front."""
    if parallel.name == "pmap":
        return jax.pmap(function, BATCH_AXIS)
    spec = PartitionSpec(BATCH_AXIS)

    def of_device(*arrays):
        return jax.tree.map(lambda array: array[None], function(*(array[0] for array in arrays)))

    return jax.jit(jax.shard_map(of_device, mesh=parallel.mesh, in_specs=spec, out_specs=spec, check_vma=False))


def normalized(x, weight, **fields):
    """Batch normalization of x, the gradient of its weighted sum of tanh, and the new running statistics."""
    norm = BatchNorm(**(fields or {"axis_name": None}))
    statistics = {"batch_stats": {"mean": np.zeros(5, np.float32), "var": np.ones(5, np.float32)}}
    params = {"params": {"scale": np.ones(5, np.float32), "bias": np.zeros(5, np.float32)}}

    def loss(x):
        y, new = norm.apply({**statistics, **params}, x, train=True, mutable=["batch_stats"])
        return (weight * jax.numpy.tanh(y)).sum(), (y, new["batch_stats"])

    gradient, (y, new) = jax.grad(loss, has_aux=True)(x)
    return y, gradient, new["mean"], new["var"]


CHECKS = {
    **{f"steps-{way}": functools.partial(steps, way) for way in WAYS},
    **{check.__name__: check for check in (sharded, order, epochs, evaluation, refusals, groups)},
}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        CHECKS[name]()
        print(f"checked: {name}", flush=True)
