"""`scan_blocks`: equal blocks as one loop in the program, with the variables and results of the unrolled network."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.analysis import summarize
from jaxcnn.errors import UsageError
from jaxcnn.freezing import freeze
from jaxcnn.layers import BatchNorm, LayerNorm, Partial
from jaxcnn.layers.loops import unrolled
from jaxcnn.models import create_model, features, list_models

# Two stages: of equal blocks, and of one that halves the size and equal ones behind it.
SMALL: dict[str, dict[str, Any]] = {
    "resnet20_cifar": {"stage_sizes": (2, 4), "width": 8},
    "plain20_cifar": {"stage_sizes": (2, 3), "width": 8},
    "resnet50": {"stage_sizes": (3, 3), "width": 8, "stem": "cifar"},
    "resnext50_32x4d": {"stage_sizes": (3, 3), "width": 32, "stem": "cifar"},
    "preact_resnet110_cifar": {"stage_sizes": (2, 4), "width": 8},
    "wide_resnet28_10": {"stage_sizes": (3, 3), "width": 16, "stem_width": 8},
}
LOOPS = {"resnet20_cifar": 2, "plain20_cifar": 2}  # the first block of a stage of bottlenecks projects
FAST = "resnet20_cifar"
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
X = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
mostly_slow = pytest.mark.parametrize(
    "name", [name if name in (FAST, "resnet50") else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]
)

pytestmark = pytest.mark.usefixtures("compile_quickly")


def small(name: str, **fields: Any) -> nn.Module:
    return create_model(name, 10, **{**SMALL[name], **fields})


@functools.cache
def variables_of(name: str) -> Any:
    """Variables with running statistics and normalization parameters unlike those that all layers start with."""
    variables = jax.eval_shape(functools.partial(small(name).init, train=True), KEYS, X)
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(1)
    drawn = [rng.uniform(0.1, 0.4, leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, [leaf - 0.25 if leaf.ndim > 1 else leaf for leaf in drawn])


def apply(model: nn.Module, variables: Any, train: bool, x: Any = X) -> Any:
    return model.apply(variables, x, train=train, rngs=KEYS, mutable=["batch_stats"])


def value_and_gradients(model: nn.Module, variables: Any, x: Any = X) -> Any:
    def loss(params: Any) -> Any:
        logits, updates = apply(model, {**variables, "params": params}, True, x)
        return jnp.sin(logits).sum(), updates

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * max(1e-3, float(jnp.abs(y).max())))


def loops(function: Any, *args: Any) -> int:
    """Return the number of loops in the program of a function."""
    return str(jax.make_jaxpr(function)(*args)).count("scan[")


@mostly_slow
@pytest.mark.parametrize("remat", [False, (2,)])
def test_results_statistics_and_gradients_are_those_of_the_unrolled_network(name, remat):
    model, variables = small(name), variables_of(name)
    scanned = small(name, scan_blocks=True, remat=remat)
    assert_same(value_and_gradients(scanned, variables), value_and_gradients(model, variables))
    in_evaluation = (jax.jit(functools.partial(apply, m, train=False))(variables)[0] for m in (scanned, model))
    np.testing.assert_allclose(*in_evaluation, rtol=1e-5, atol=1e-5)


@mostly_slow
def test_the_variables_are_those_of_the_unrolled_network(name):
    def initial(model: nn.Module) -> Any:
        return jax.eval_shape(functools.partial(model.init, train=True), KEYS, X)

    assert initial(small(name, scan_blocks=True)) == initial(small(name))
    assert loops(functools.partial(small(name, scan_blocks=True).init, train=True), KEYS, X) == 0


def test_initial_values_are_those_of_the_unrolled_network():
    scanned, plain = (jax.jit(functools.partial(small(FAST, scan_blocks=s).init, train=True))(KEYS, X) for s in (1, 0))
    assert jax.tree.all(jax.tree.map(np.array_equal, scanned, plain))


@mostly_slow
def test_the_program_does_not_grow_with_the_number_of_blocks(name):
    def program(*stage_sizes: int) -> str:
        model = small(name, scan_blocks=True, stage_sizes=stage_sizes)
        variables = jax.eval_shape(functools.partial(model.init, train=True), KEYS, X)
        return str(jax.make_jaxpr(functools.partial(apply, model, train=True))(variables))

    # What grows are the stacking in front of the loops and the slices behind them.
    layers = [
        program(*sizes).count("conv_general_dilated") + program(*sizes).count("Convolution(")
        for sizes in ((3, 3), (9, 5))
    ]
    assert layers[0] == layers[1] > 0
    assert program(3, 3).count("scan[") == 2


def test_random_numbers_differ_between_blocks_and_rates_are_those_of_the_blocks():
    model = small(FAST, scan_blocks=True, stage_sizes=(7,), drop_path_rate=0.7)
    params = jax.eval_shape(functools.partial(model.init, train=True), KEYS, X)
    rates = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    # With kernels of 0 and a bias of 1 behind the last of each block, a block adds 1 / (1 - rate), or 0.
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params)
    for index in range(7):
        variables["params"][f"stage1_block{index + 1}"]["norm2"]["bias"] += 1.0
    head = variables["params"]["head"]
    head["kernel"] = jnp.eye(*head["kernel"].shape)
    images = np.zeros((512, 4, 4, 3), np.float32)
    logits = np.asarray(jax.jit(functools.partial(apply, model, train=True, x=images))(variables)[0])[:, 0]
    # The mean over examples is the number of blocks, as without dropping; the variance is that of independent draws.
    variance = sum(rate / (1 - rate) for rate in rates)
    assert abs(logits.mean() - 7) < 4 * (variance / 512) ** 0.5
    assert logits.var() == pytest.approx(variance, rel=0.3)


@pytest.mark.parametrize("norm", [LayerNorm, Partial(BatchNorm, axis_name=None)])
def test_other_dtypes_and_normalizations(norm):
    fields = {"norm": norm, "dtype": jnp.bfloat16, "drop_path_rate": 0.0}
    model, scanned = small(FAST, **fields), small(FAST, scan_blocks=True, **fields)
    variables = jax.jit(functools.partial(model.init, train=True))(KEYS, X)
    a, b = (jax.jit(functools.partial(apply, m, train=True))(variables)[0] for m in (scanned, model))
    np.testing.assert_allclose(a, b, rtol=0.05, atol=0.05)
    dropped = small(FAST, scan_blocks=True, **{**fields, "drop_path_rate": 0.2})
    assert jax.eval_shape(functools.partial(apply, dropped, train=True), variables)[0].shape == (4, 10)


def test_dropout_within_blocks():
    model = small("preact_resnet110_cifar", dropout_rate=0.5, scan_blocks=True)
    variables = variables_of("preact_resnet110_cifar")

    def logits(seed: int, train: bool) -> Any:
        return model.apply(variables, X, train=train, rngs={"dropout": jax.random.key(seed)}, mutable=["batch_stats"])[
            0
        ]

    draws = [jax.jit(logits, static_argnums=1)(seed, True) for seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.allclose(draws[0], draws[2])
    assert np.array_equal(logits(0, False), logits(1, False))


# Readers of modules and programs.


def test_readers_of_modules_see_every_block():
    scanned, plain, variables = small(FAST, scan_blocks=True), small(FAST), variables_of(FAST)
    assert summarize(scanned, X.shape[1:]) == summarize(plain, X.shape[1:])
    at = ["stage2_block3", "stage1_block2/conv1"]
    a, b = (jax.jit(lambda v, m=m: features(m, v, jnp.asarray(X), at))(variables) for m in (scanned, plain))
    assert_same(a, b)
    captured = scanned.apply(variables, X, train=False, capture_intermediates=True, mutable=["intermediates"])[1]
    assert {f"stage2_block{index}" for index in (1, 2, 3, 4)} <= set(captured["intermediates"])


def test_a_frozen_network_is_folded_as_without_loops():
    variables = variables_of(FAST)
    frozen = freeze(small(FAST, scan_blocks=True), variables)
    assert loops(frozen, X) == 0
    np.testing.assert_allclose(frozen(X), apply(small(FAST), variables, False)[0], rtol=1e-3, atol=1e-3)


def test_a_program_traced_before_is_traced_again_without_loops():
    call = jax.jit(functools.partial(apply, small(FAST, scan_blocks=True), train=False))
    assert loops(call, variables_of(FAST)) == 2
    with unrolled():
        assert loops(call, variables_of(FAST)) == 0
    assert loops(call, variables_of(FAST)) == 2


# Transformations.


def test_vmap_over_networks():
    model, variables = small(FAST, scan_blocks=True), variables_of(FAST)
    networks = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf]), variables)
    mapped = jax.jit(jax.vmap(functools.partial(apply, model, train=True)))(networks)
    each = [jax.jit(functools.partial(apply, small(FAST), train=True))(v) for v in unstacked(networks)]
    assert_same(mapped, jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))


def unstacked(tree: Any) -> list[Any]:
    return [jax.tree.map(lambda leaf, index=index: leaf[index], tree) for index in range(2)]


# Error texts.


class Growing(nn.Module):
    """A block that changes the dtype of its input."""

    features: int
    strides: int
    conv: Any
    norm: Any
    shortcut: Any
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        return self.conv(self.features, 1, self.strides)(x).astype(
            jnp.bfloat16 if x.dtype == jnp.float32 else jnp.float32
        )


def test_blocks_that_do_not_keep_their_input_are_refused_in_one_line():
    model = small(FAST, scan_blocks=True, block=Growing)
    variables = jax.eval_shape(functools.partial(model.init, train=False), KEYS, X)
    with pytest.raises(
        UsageError, match=r"^a loop cannot apply Growing, which changes .* to .*Keep the shape and dtype"
    ):
        jax.eval_shape(functools.partial(apply, model, train=False), variables)


@pytest.mark.parametrize("family", ["densenet121", "vgg16", "googlenet"])
def test_families_without_equal_blocks_refuse_the_field(family):
    with pytest.raises(UsageError, match=f"^unknown field of {family} 'scan_blocks'"):
        create_model(family, scan_blocks=True)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models("*res*") if "1202" not in name and "1001" not in name])
def test_every_residual_network_has_loops(name):
    model = create_model(name, scan_blocks=True)
    x = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    variables = jax.eval_shape(functools.partial(model.init, train=True), KEYS, x)
    assert loops(functools.partial(model.apply, train=False), variables, x) == sum(
        n > 2 for n in model.stage_sizes
    ) or (max(model.stage_sizes) <= 3)
