"""Optimizers and schedules by name follow their formulas, and take every keyword of Optax."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.train import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from jaxcnn.train.optim.freezing import Freezing
from jaxcnn.train.optim.mixed_precision import dynamic_loss_scale
from jaxcnn.train.optim.optimizers import OPTIMIZERS, is_kernel
from jaxcnn.train.optim.schedules import SCHEDULES

# Each optimizer's row: the same of plain optax, where there is one, at this learning rate and without decay.
RATE = 0.1
OPTAX = {
    "sgd": optax.sgd(RATE),
    "momentum": optax.sgd(RATE, momentum=0.9),
    "nesterov": optax.sgd(RATE, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop(RATE),
    "adagrad": optax.adagrad(RATE),
    "adam": optax.adam(RATE),
    "adamw": optax.adamw(RATE, weight_decay=0.0),
    "lars": optax.lars(RATE, trust_ratio_mask=is_kernel),
    "lamb": optax.chain(
        optax.scale_by_adam(eps=1e-6),
        optax.masked(optax.scale_by_trust_ratio(), {"kernel": True, "bias": False}),
        optax.scale_by_learning_rate(RATE),
    ),
    "lion": optax.lion(RATE, weight_decay=0.0),
    "muon": optax.partition(
        {
            "matrix": optax.contrib.muon(RATE, beta=0.9),  # of a matrix; its rule for the rest is Adam
            "rest": optax.sgd(RATE, momentum=0.9, nesterov=True),
        },
        {"kernel": "matrix", "bias": "rest"},
    ),
}
# A learning rate and steps that reach the bottom, where 0.1 and 300 do not; LARS moves kernels by a 1000th of it.
CONVERGES_AT = {"adagrad": (1.0, 300), "lars": (0.5, 3000), "lion": (0.03, 600), "muon": (0.05, 300)}


def path(optimizer, steps=20):
    """Return the parameters at each step of minimizing a bowl that is steeper in one direction."""
    params = {"kernel": jnp.array([[3.0, -2.0], [1.0, 1.5]]), "bias": jnp.array([1.0])}

    def step(carry, _):
        params, state = carry
        gradients = {"kernel": params["kernel"] * jnp.array([[1.0, 0.5]]), "bias": params["bias"]}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.concatenate([params["kernel"].ravel(), params["bias"]])

    return np.asarray(jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[1])


def test_every_optimizer_and_schedule_has_its_row():
    assert set(OPTAX) == set(KEYWORDS) == set(OPTIMIZERS)
    assert set(FORMULAS) == set(SCHEDULES)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_agree_with_plain_optax(name):
    ours = make_optimizer(OptimizerConfig(name=name, weight_decay=0.0), optax.constant_schedule(RATE))
    np.testing.assert_allclose(path(ours), path(OPTAX[name]), rtol=1e-5, atol=1e-6)


# Keywords of each optimizer, and the same of plain Optax.
DTYPE = {"mu_dtype": "bfloat16"}
KEYWORDS = {
    "sgd": ({"momentum": 0.5, "nesterov": True}, optax.sgd(RATE, momentum=0.5, nesterov=True)),
    "momentum": ({"momentum": 0.8, "nesterov": True}, optax.sgd(RATE, momentum=0.8, nesterov=True)),
    "nesterov": ({"momentum": 0.5, "nesterov": False}, optax.sgd(RATE, momentum=0.5)),
    "rmsprop": (
        {"decay": 0.95, "eps": 1e-6, "centered": True, "momentum": 0.5, "initial_scale": 1.0},
        optax.rmsprop(RATE, decay=0.95, eps=1e-6, centered=True, momentum=0.5, initial_scale=1.0),
    ),
    "adagrad": (
        {"initial_accumulator_value": 0.5, "eps": 1e-3},
        optax.adagrad(RATE, initial_accumulator_value=0.5, eps=1e-3),
    ),
    "adam": (
        {"b1": 0.8, "b2": 0.95, "eps_root": 1e-3, "nesterov": True, **DTYPE},
        optax.adam(RATE, b1=0.8, b2=0.95, eps_root=1e-3, nesterov=True, mu_dtype="bfloat16"),
    ),
    "adamw": ({"b2": 0.95, "eps": 1e-3}, optax.adamw(RATE, b2=0.95, eps=1e-3, weight_decay=0.0)),
    "lars": (
        {"trust_coefficient": 0.1, "eps": 1e-3, "momentum": 0.5, "nesterov": True},
        optax.lars(RATE, trust_ratio_mask=is_kernel, trust_coefficient=0.1, eps=1e-3, momentum=0.5, nesterov=True),
    ),
    "lamb": (
        {"b1": 0.5, "eps": 1e-3},
        optax.chain(
            optax.scale_by_adam(b1=0.5, eps=1e-3),
            optax.masked(optax.scale_by_trust_ratio(), {"kernel": True, "bias": False}),
            optax.scale_by_learning_rate(RATE),
        ),
    ),
    "lion": ({"b1": 0.5, "b2": 0.9}, optax.lion(RATE, b1=0.5, b2=0.9, weight_decay=0.0)),
    "muon": (
        {"momentum": 0.5, "ns_steps": 3, "nesterov": False, "preconditioning": "aol"},
        optax.partition(
            {
                "matrix": optax.contrib.muon(RATE, beta=0.5, ns_steps=3, nesterov=False, preconditioning="aol"),
                "rest": optax.sgd(RATE, momentum=0.5),
            },
            {"kernel": "matrix", "bias": "rest"},
        ),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_keywords_reach_optax(name):
    keywords, plain = KEYWORDS[name]
    ours = make_optimizer(OptimizerConfig(name, weight_decay=0.0, **keywords), optax.constant_schedule(RATE))
    default = make_optimizer(OptimizerConfig(name, weight_decay=0.0), optax.constant_schedule(RATE))
    np.testing.assert_allclose(path(ours), path(plain), rtol=1e-5, atol=1e-6)
    assert np.abs(path(ours) - path(default)).max() > 1e-4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OptimizerConfig("adam", b3=0.9), "unknown keyword of optimizer adam 'b3'; did you mean 'b[12]'"),
        (OptimizerConfig("rmsprop", dekay=0.9), "unknown keyword of optimizer rmsprop 'dekay'; did you mean 'decay'"),
        (OptimizerConfig("adam", momentum=0.9), "unknown keyword of optimizer adam 'momentum'; known: b1, b2, eps"),
        (OptimizerConfig("adam", trust_coefficient=1.0), "unknown keyword of optimizer adam 'trust_coefficient'"),
        (OptimizerConfig("adamw", mask=True), "unknown keyword of optimizer adamw 'mask'"),
        (OptimizerConfig("muon", beta=0.9), "unknown keyword of optimizer muon 'beta'"),
        (OptimizerConfig("adam", b2="0.9"), "b2 of optimizer adam must be a number, got '0.9'"),
        (OptimizerConfig("adam", b2=True), "b2 of optimizer adam must be a number, got True"),
        (OptimizerConfig("adam", b2=math.nan), "b2 of optimizer adam must be a number, got nan"),
        (OptimizerConfig("adam", nesterov=1), "nesterov of optimizer adam must be True or False, got 1"),
        (OptimizerConfig("adam", mu_dtype="bfloat17"), "mu_dtype of optimizer adam must be a dtype"),
        (OptimizerConfig("muon", ns_steps=2.5), "ns_steps of optimizer muon must be an integer, got 2.5"),
        (OptimizerConfig("muon", ns_coeffs=3.4), "ns_coeffs of optimizer muon must be a tuple"),
        (OptimizerConfig("muon", ns_coeffs=(1.0, 2.0)), "optimizer muon cannot be used: ns_coeffs must have shape"),
        (OptimizerConfig("muon", preconditioning="al"), "preconditioning of optimizer muon 'al'; did you mean 'aol'"),
        (
            OptimizerConfig("rmsprop", momentum=0.5, nesterov=None),
            "nesterov of optimizer rmsprop must be True or False",
        ),
    ],
    ids=str,
)
def test_keywords_that_the_optimizer_does_not_have_are_refused(config, message):
    with pytest.raises(UsageError, match=message):
        make_optimizer(config, optax.constant_schedule(RATE))


OPT_STATE_0_1 = json.loads((Path(__file__).parent / "opt_state_0_1.json").read_text())


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["plain", "frozen", "scaled"])
def test_states_have_the_tree_of_version_0_1(name, kind):
    """Checkpoints depend on it: the paths, shapes and dtypes were written by version 0.1."""
    options = {
        "plain": {"clip_norm": 1.0},
        "frozen": {"learning_rate_scales": ("head=2",)},
        "scaled": {"weight_decay": 0.0},
    }
    optimizer = make_optimizer(OptimizerConfig(name, **options[kind]), optax.cosine_decay_schedule(0.1, 10))
    if kind == "frozen":
        optimizer = Freezing("stem").optimizer(optimizer)
    if kind != "plain":
        optimizer = dynamic_loss_scale(optimizer)
    params = {
        "stem": {"kernel": jnp.zeros((3, 3, 1, 2)), "bias": jnp.zeros(2)},
        "head": {"kernel": jnp.zeros((2, 5)), "bias": jnp.zeros(5)},
    }
    leaves = jax.tree_util.tree_leaves_with_path(optimizer.init(params))
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): [list(x.shape), str(x.dtype)] for path, x in leaves
    }
    assert found == OPT_STATE_0_1[f"{name} {kind}"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_reach_the_bottom(name):
    rate, steps = CONVERGES_AT.get(name, (0.1, 300))
    schedule = make_schedule(ScheduleConfig("cosine"), rate, steps, 1.0)
    seen = path(make_optimizer(OptimizerConfig(name=name, weight_decay=0.0), schedule), steps)
    assert np.abs(seen[0]).max() > 1.0
    assert np.abs(seen[-1]).max() < 0.05


def test_muon_makes_a_convolution_kernel_an_orthogonal_matrix_of_inputs_and_outputs():
    optimizer = make_optimizer(OptimizerConfig("muon", weight_decay=0.0), optax.constant_schedule(1.0))
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 8))
    gradient = jax.random.normal(jax.random.key(1), kernel.shape)
    params = {"kernel": kernel}
    updates, _ = jax.jit(optimizer.update)({"kernel": gradient}, optimizer.init(params), params)
    singular = np.linalg.svd(np.reshape(updates["kernel"], (36, 8)), compute_uv=False)
    assert singular.min() > 0.6  # Newton and Schulz's five iterations bring them near 1, not to it
    assert singular.max() < 1.3
    plain = np.linalg.svd(np.reshape(gradient, (36, 8)), compute_uv=False)
    assert plain.max() / plain.min() > 2


def test_muon_leaves_excluded_kernels_to_momentum_with_its_own_coefficient():
    config = OptimizerConfig("muon", momentum=0.6, other_momentum=0.85, exclude="head", weight_decay=0.0)
    ours = make_optimizer(config, optax.constant_schedule(0.1))
    params = {"block": jnp.ones((4, 4)), "head": jnp.ones((4, 4)), "bias": jnp.ones(4)}
    gradient = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.ndim), p.shape), params)
    plain, matrix = optax.sgd(0.1, momentum=0.85, nesterov=True), optax.contrib.muon(0.1, beta=0.6)
    states = [optimizer.init(params) for optimizer in (ours, plain)] + [matrix.init(params["block"])]
    for _ in range(3):
        updates, states[0] = ours.update(gradient, states[0], params)
        expected, states[1] = plain.update(gradient, states[1], params)
        of_block, states[2] = matrix.update(gradient["block"], states[2], params["block"])
        np.testing.assert_allclose(updates["head"], expected["head"], rtol=1e-5)
        np.testing.assert_allclose(updates["bias"], expected["bias"], rtol=1e-5)
        np.testing.assert_allclose(updates["block"], of_block, rtol=1e-5, atol=1e-6)


def test_a_step_starts_from_kernels_of_a_fixed_norm():
    config = OptimizerConfig("sgd", weight_decay=0.0, fixed_norm="block")
    optimizer = make_optimizer(config, optax.constant_schedule(0.5))
    params = {"block": {"kernel": jnp.full((3, 4), 7.0), "bias": jnp.ones(4)}, "head": jnp.ones((2, 2))}
    updates, _ = jax.jit(optimizer.update)(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    np.testing.assert_allclose(after["block"]["kernel"], 2 / 12**0.5 - 0.5, rtol=1e-5)  # the norm was sqrt(4)
    np.testing.assert_allclose(after["block"]["bias"], 0.5)
    np.testing.assert_allclose(after["head"], 0.5)


def test_a_long_gradient_is_clipped_to_its_norm_and_a_short_one_left_alone():
    optimizer = make_optimizer(OptimizerConfig("sgd", weight_decay=0.0, clip_norm=1.0), optax.constant_schedule(1.0))
    params = {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(1)}
    for length, expected in ((10.0, 1.0), (0.5, 0.5)):
        gradients = {"kernel": jnp.array([[0.6, 0.0]]) * length, "bias": jnp.array([0.8]) * length}
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        np.testing.assert_allclose(optax.tree.norm(updates), expected, rtol=1e-6)


def test_decay_all_takes_biases_along():
    optimizer = make_optimizer(OptimizerConfig("sgd", weight_decay=0.1, decay_all=True), optax.constant_schedule(1.0))
    updates, _ = optimizer.update({"bias": jnp.zeros(2)}, optimizer.init({"bias": jnp.ones(2)}), {"bias": jnp.ones(2)})
    np.testing.assert_allclose(updates["bias"], -0.1, rtol=1e-6)


@pytest.mark.parametrize("decay_all", [False, True])
def test_factors_on_the_decay_undo_those_on_the_learning_rate(decay_all):
    scaled = OptimizerConfig(
        "nesterov",
        weight_decay=0.1,
        decay_all=decay_all,
        learning_rate_scales=("norm=64", "kernel=2"),
        weight_decay_scales=("norm=0.015625", "kernel=3"),
    )
    params = {"kernel": jnp.full((2, 2), 1.0), "norm": jnp.ones(2), "other": jnp.ones((1, 1))}
    zero, optimizer = jax.tree.map(jnp.zeros_like, params), make_optimizer(scaled, optax.constant_schedule(1.0))
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    for name, factor in (("kernel", 6.0), ("norm", 1.0 if decay_all else 0.0), ("other", 1.0)):
        np.testing.assert_allclose(updates[name], -0.1 * 1.9 * factor, rtol=1e-6)


def test_the_peak_of_a_triangle_may_be_at_its_start():
    schedule = make_schedule(ScheduleConfig("triangle", peak_at=0.0, end_factor=0.5), 2.0, 10, 1.0)
    np.testing.assert_allclose([schedule(0), schedule(5), schedule(10)], [2.0, 1.5, 1.0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_shrinks_kernels_and_leaves_biases_alone(name):
    optimizer = make_optimizer(OptimizerConfig(name=name, weight_decay=0.1), optax.constant_schedule(0.1))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    assert (updates["kernel"] < 0).all()
    assert (updates["bias"] == 0).all()


def test_adamw_decays_past_the_moments():
    # Decoupled: kernels shrink by learning rate x decay; through Adam's moments the size would be the learning rate.
    optimizer = make_optimizer(OptimizerConfig(name="adamw", weight_decay=0.1), optax.constant_schedule(0.1))
    params, zero = {"kernel": jnp.ones((2, 2))}, {"kernel": jnp.zeros((2, 2))}
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.01, rtol=1e-6)


# Each schedule's row: its formula, over the share of the run.
FORMULAS = {
    "constant": lambda t: 1.0,
    "step": lambda t: 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01,
    "cosine": lambda t: 0.2 + 0.8 * (1 + math.cos(math.pi * t)) / 2,
    "linear": lambda t: 1 - 0.8 * t,
    "polynomial": lambda t: 0.2 + 0.8 * (1 - t) ** 2,
    "onecycle": lambda t: (
        (1 + 24 * (1 - math.cos(math.pi * t / 0.3)) / 2) / 25
        if t < 0.3
        else 4e-6 + (1 - 4e-6) * (1 + math.cos(math.pi * (t - 0.3) / 0.7)) / 2
    ),
    "triangle": lambda t: 0.2 + 0.8 * t / 0.23 if t < 0.23 else 1 - 0.8 * (t - 0.23) / 0.77,
}


def values(name, steps, warmup_epochs=0.0, length=100):
    config = ScheduleConfig(name, warmup_epochs=warmup_epochs, end_factor=0.2)
    schedule = make_schedule(config, 0.2, steps=length, steps_per_epoch=10)
    return jax.jit(jax.vmap(schedule))(jnp.arange(steps))


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_follow_their_formulas(name):
    expected = [0.2 * FORMULAS[name](step / 100) for step in range(101)]
    np.testing.assert_allclose(values(name, 101), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_grows_linearly_and_then_hands_over_without_a_jump(name):
    seen = values(name, 21, warmup_epochs=2)
    first = 0.2 * FORMULAS[name](0.0)
    np.testing.assert_allclose(seen, first * np.arange(21) / 20, atol=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_schedules_of_very_short_runs_are_numbers(name, length):
    if name == "step" and length == 1:
        with pytest.raises(UsageError, match="is within the warm-up"):
            values(name, 1, length=1)
    else:
        assert np.isfinite(values(name, length, length=length)).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_gradient_descent_gets_nearer_under_each_schedule(name):
    schedule = make_schedule(ScheduleConfig(name), 0.2, steps=100, steps_per_epoch=10)
    seen = path(make_optimizer(OptimizerConfig("sgd", weight_decay=0.0), schedule), steps=100)
    assert np.abs(seen[-1]).max() < 0.1


def test_milestones_are_shares_of_the_run_with_its_warmup():
    seen = values("step", 100, warmup_epochs=2)
    assert [int(np.argmax(seen[20:] < limit)) + 20 for limit in (0.1, 0.01)] == [50, 75]


def test_names_and_warmups_that_cannot_work_are_refused():
    with pytest.raises(UsageError, match="unknown optimizer 'adm'; did you mean 'adam'"):
        make_optimizer(OptimizerConfig(name="adm"), optax.constant_schedule(0.1))
    with pytest.raises(UsageError, match="unknown schedule 'cosin'; did you mean 'cosine'"):
        make_schedule(ScheduleConfig("cosin"), 0.1, 10, 1.0)
    with pytest.raises(UsageError, match="the warm-up of 10 steps is not shorter than the run of 10 steps"):
        make_schedule(ScheduleConfig("cosine", warmup_epochs=1), 0.1, 10, 10.0)
    with pytest.raises(UsageError, match=r"milestones: milestone 0\.2 is within the warm-up of 30 steps"):
        make_schedule(ScheduleConfig("step", warmup_epochs=3, milestones=(0.2, 0.5)), 0.1, 100, 10.0)
