"""Programs of many networks: each network gets what it would get alone, and one program serves all."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from tiny_network import Tiny

from jaxcnn.train import Config, OptimizerConfig
from jaxcnn.train.config import ScheduleConfig
from jaxcnn.train.many.batches import Batches
from jaxcnn.train.many.groups import Network, Plans, program_key
from jaxcnn.train.many.programs import Programs
from jaxcnn.train.parts import CustomParts

TOLERANCE = 1e-6

# Seeds, and all fields that may differ between networks of a program.
CONFIGS = [
    Config(batch_size=8, steps=6, seed=seed, label_smoothing=smoothing, init_scale=scale, optimizer=optimizer)
    for seed, smoothing, scale, optimizer in [
        (0, 0.1, 1.0, OptimizerConfig(learning_rate=0.05, weight_decay=1e-3)),
        (1, 0.1, 1.0, OptimizerConfig(learning_rate=0.1, weight_decay=1e-3)),
        (2, 0.0, 0.5, OptimizerConfig(learning_rate=0.01, weight_decay=1e-2)),
        (0, 0.2, 2.0, OptimizerConfig(learning_rate=0.03, weight_decay=1e-4)),
        (2**32 - 1, 0.1, 1.0, OptimizerConfig(learning_rate=0.05, weight_decay=1e-3)),
    ]
]


TINY = CustomParts(model=Tiny())


def networks_of(configs):
    return [
        Network(f"n{index}", dataclasses.replace(c, workdir=f"/nowhere/n{index}")) for index, c in enumerate(configs)
    ]


def together(configs, devices, parts=TINY):
    plans = Plans(parts, None, jax.local_devices()[:1])
    made = [plans.plan(network) for network in networks_of(configs)]
    programs = Programs(made, plans.parts, jax.local_devices()[:devices])
    return made, programs, Batches(made, plans.whole(configs[0]), programs)


def row(tree, index):
    return jax.tree.map(lambda x: np.asarray(x)[index], tree)


def relative_difference(a, b):
    """Return the largest difference of the parameters, relative to the largest parameter."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    largest = max(float(np.abs(x).max()) for x, _ in pairs)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs) / largest


def check_steps(configs, devices, parts=TINY, *, steps=3, tolerance=TOLERANCE):
    """Compare each step of all networks with the step of each network alone, from the same state."""
    plans, programs, batches = together(configs, devices, parts)
    state = programs.place(programs.initial_state())
    program = programs.train_steps(gathers=batches.gathers)
    alone = [
        (
            plan.compile_train_steps(1),
            plan.pipeline.batches(place=plan.parallel.place_batches, counts=itertools.repeat(1)),
        )
        for plan in plans
    ]
    for placed in itertools.islice(batches(0, itertools.repeat(1)), steps):
        before = jax.tree.map(lambda x: np.array(x), state)
        state, sums = program(state, placed, programs.values, batches.data)
        for index, (plan, (step, own_batches)) in enumerate(zip(plans, alone, strict=True)):
            own, own_sums = step(plan.parallel.place_state(row(before, index)), next(own_batches))
            after = row(state, index)
            assert relative_difference(after.params, own.params) < tolerance
            assert relative_difference(after.opt_state, own.opt_state) < 10 * tolerance
            np.testing.assert_array_equal(after.key, own.key)
            np.testing.assert_allclose(sums["loss"][0][index], own_sums["loss"][0], rtol=1e-5)
            assert sums["examples"][0][index] == plan.batch_size
    return program, state


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_each_step_is_that_of_the_network_alone(devices):
    program, _ = check_steps(CONFIGS, devices, CustomParts())
    assert program._cache_size() == 1


def test_ten_networks_on_eight_devices_are_one_program():
    configs = [Config(batch_size=8, steps=6, seed=seed) for seed in range(10)]
    program, state = check_steps(configs, 8, steps=1)
    assert program._cache_size() == 1
    kernel = state.params["Conv_0"]["kernel"]
    assert len(kernel) == 16  # two networks on each device: six are repetitions
    assert len(kernel.sharding.device_set) == 8
    assert not kernel.is_fully_replicated


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"ema_decay": 0.9, "accumulate": 2},
        {"dtype": "float16", "loss": "binary_cross_entropy", "freeze": "Conv_0"},
        {"mixup": 0.2, "cutmix": 1.0, "augment": ("flip", "cutout:4"), "class_weights": "balanced"},
    ],
    ids=["averages", "float16", "mixing"],
)
def test_steps_with_other_parts_are_those_of_the_network_alone(more):
    configs = [dataclasses.replace(config, **more) for config in CONFIGS[:3]]
    # In float16 a sum in another order rounds differently at once.
    check_steps(configs, 2, steps=2, tolerance=1e-3 if more.get("dtype") == "float16" else TOLERANCE)


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [("adam", "onecycle"), ("lamb", "step"), ("muon", "linear"), ("lars", "polynomial"), ("adamw", "constant")],
)
def test_learning_rates_and_weight_decays_may_be_arrays(optimizer, schedule, compile_quickly):
    kept = {"batch_size": 4, "steps": 12, "schedule": ScheduleConfig(name=schedule, warmup_epochs=0.0005)}
    configs = [
        Config(optimizer=OptimizerConfig(optimizer, learning_rate=rate, weight_decay=decay), seed=seed, **kept)
        for seed, (rate, decay) in enumerate([(0.01, 1e-3), (0.002, 1e-2)])
    ]
    check_steps(configs, 1, steps=2)


def test_initial_states_have_the_bits_of_single_networks():
    plans, programs, _ = together(CONFIGS[:3], 1)
    state = programs.initial_state()
    for index, plan in enumerate(plans):
        single = plan.create_state(plan.config.seed)
        jax.tree.map(np.testing.assert_array_equal, row(state, index), jax.device_get(single))


@pytest.mark.parametrize("augment", [("shift:1",), ("alternating_flip",)])
def test_batches_have_the_order_of_single_networks(augment):
    plans, _, batches = together([dataclasses.replace(config, augment=augment) for config in CONFIGS[:3]], 1)
    assert all(plan.pipeline.mirrors == (augment == ("alternating_flip",)) for plan in plans)
    counts = [2, 1, 2]
    singles = [plan.pipeline.batches(first_step=4, counts=iter(counts)) for plan in plans]
    for stacked in batches(4, iter(counts)):
        for index, single in enumerate(singles):
            for place, own in enumerate(next(single)):
                np.testing.assert_array_equal(stacked["image"][place, index], own["image"])
                np.testing.assert_array_equal(stacked["label"][place, index], own["label"])


def test_examples_may_be_gathered_on_the_devices():
    plans, programs, batches = together(CONFIGS[:3], 2)
    state = programs.place(programs.initial_state())
    whole = plans[0].dataset.decoded("train", plans[0].preprocessing.geometry)
    indices = np.stack([plan.pipeline.indices(0) for plan in plans]).astype(np.int32)[None]
    (placed,) = itertools.islice(batches(0, iter([1])), 1)
    in_memory, _ = programs.train_steps(gathers=False)(state, placed, programs.values, {})
    state = programs.place(programs.initial_state())
    gathering = programs.train_steps(gathers=True)
    on_device, _ = gathering(state, programs.place(indices, axis=1), programs.values, programs.replicate(whole))
    assert relative_difference(in_memory.params, on_device.params) < TOLERANCE


def test_networks_share_a_program_unless_shapes_or_trees_differ():
    keys = {program_key(config) for config in CONFIGS}
    assert len(keys) == 1
    others = [
        Config(batch_size=8, steps=6, optimizer=OptimizerConfig(weight_decay=0.0)),
        Config(batch_size=8, steps=6, optimizer=OptimizerConfig("adam")),
        Config(batch_size=16, steps=6),
        Config(batch_size=8, steps=6, model="resnet20_cifar"),
        Config(batch_size=8, steps=7),
    ]
    assert len(keys | {program_key(config) for config in others}) == 1 + len(others)
