"""A frozen model under transformations, its weights over time, and what is refused."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frozen_checks import apply, error, images, operations, random_variables

from jaxcnn import export, kernels
from jaxcnn.errors import UsageError
from jaxcnn.freezing import freeze
from jaxcnn.layers import BatchNorm, Conv, Dense, GlobalAvgPool, MaxPool, ReLU, Residual, Sequential
from jaxcnn.models import create_model

BLOCK = Residual(Sequential([Conv(32, 3, padding=1), BatchNorm(), ReLU(), Conv(32, 3, padding=1), BatchNorm()]))
MODEL = Sequential([Conv(32, 3, padding=1), BatchNorm(), ReLU(), BLOCK, ReLU(), MaxPool(2), GlobalAvgPool(), Dense(10)])
X = images(4, 16, 16, 3)  # large enough for the native kernels
VARIABLES = random_variables(MODEL, X, train=False)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def frozen():
    return freeze(MODEL, VARIABLES)


@pytest.fixture(scope="module")
def logits():
    return np.asarray(apply(MODEL, VARIABLES, X))


def test_it_is_exported_under_both_names(frozen):
    assert export.freeze is freeze
    assert isinstance(frozen, export.Frozen)
    assert repr(frozen) == "Frozen(Sequential, dtype=None)"


def test_any_number_of_images(frozen, logits):
    assert error(frozen(X), logits) < TOLERANCE
    assert error(frozen(X[:1]), logits[:1]) < TOLERANCE
    assert frozen(X[:0]).shape == (0, 10)


def test_jit_and_disabled_jit(frozen, logits):
    assert error(jax.jit(lambda x: 2 * frozen(x))(X), 2 * logits) < TOLERANCE
    with jax.disable_jit():
        assert error(frozen(X[:1]), logits[:1]) < TOLERANCE


@pytest.mark.parametrize("choice", ["xla", "auto"])
def test_vmap(frozen, logits, choice):
    with kernels.use(choice):
        assert error(jax.vmap(frozen)(X[:, None])[:, 0], logits) < TOLERANCE
        assert error(jax.vmap(frozen, in_axes=1, out_axes=1)(X[:, None])[:, 0], logits) < TOLERANCE


@pytest.mark.parametrize("choice", ["xla", "auto"])
def test_gradient_with_respect_to_images(frozen, choice):
    def loss(function, x):
        return jnp.square(function(x)).sum()

    with kernels.use(choice):
        ours = jax.jit(jax.grad(lambda x: loss(frozen, x)))(X)
        theirs = jax.jit(jax.grad(lambda x: loss(lambda x: MODEL.apply(VARIABLES, x, train=False), x)))(X)
        assert error(ours, theirs) < 1e-4
        tangent = images(*X.shape, seed=1)
        forward = jax.jvp(lambda x: loss(frozen, x), (X,), (tangent,))[1]
    np.testing.assert_allclose(forward, np.vdot(theirs, tangent), rtol=1e-3)


def test_a_second_derivative(frozen):
    def curvature(function):
        gradient = jax.grad(lambda x: jnp.square(function(x)).sum())
        return jax.jvp(gradient, (X[:1],), (X[1:2],))[1]

    assert error(curvature(frozen), curvature(lambda x: MODEL.apply(VARIABLES, x, train=False))) < 1e-4


def test_loops(frozen, logits):
    scanned = jax.jit(lambda xs: jax.lax.scan(lambda total, x: (total + 1, frozen(x[None])), 0, xs)[1])(X)
    assert error(scanned[:, 0], logits) < TOLERANCE
    looped = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x + 0 * frozen(x).sum(), x))(X)
    assert error(looped, X) < TOLERANCE


def test_bfloat16(logits):
    narrow = freeze(MODEL, VARIABLES, dtype=jnp.bfloat16)
    for choice in ("xla", "auto"):
        with kernels.use(choice):
            assert 0 < error(narrow(X), logits) < 2e-2
    assert narrow(X).dtype == jnp.float32


def test_over_devices(frozen, logits):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("batch")
    mapped = jax.jit(jax.shard_map(frozen, mesh=mesh, in_specs=spec, out_specs=spec))
    assert error(mapped(X), logits) < TOLERANCE
    divided = jax.device_put(X, jax.sharding.NamedSharding(mesh, spec))
    assert error(jax.jit(frozen)(divided), logits) < TOLERANCE
    assert error(jax.pmap(frozen)(X[:, None])[:, 0], logits) < TOLERANCE


def test_it_is_exported_for_other_platforms(frozen, logits):
    (batch,) = jax.export.symbolic_shape("batch")
    described = jax.ShapeDtypeStruct((batch, *X.shape[1:]), X.dtype)
    program = jax.export.export(jax.jit(frozen), platforms=("cpu", "cuda", "tpu"))(described)
    assert "custom_call @jaxcnn" not in program.mlir_module()
    assert "rsqrt" not in program.mlir_module()
    for count in (1, 4):
        assert error(program.call(X[:count]), logits[:count]) < TOLERANCE


def test_the_same_bits_in_every_call(frozen):
    first = np.asarray(frozen(X))
    for _ in range(3):
        np.testing.assert_array_equal(frozen(X), first)


def test_networks_of_the_same_shapes_do_not_share_weights(frozen, logits):
    others = random_variables(MODEL, X, seed=7, train=False)
    other, expected = freeze(MODEL, others), apply(MODEL, others, X)
    assert error(expected, logits) > 0.1
    for _ in range(2):
        assert error(frozen(X), logits) < TOLERANCE
        assert error(other(X), expected) < TOLERANCE
    both = jax.jit(lambda x: (frozen(x), other(x)))(X)
    assert error(both[0], logits) < TOLERANCE
    assert error(both[1], expected) < TOLERANCE


def test_weights_are_released_and_replaced():
    for seed in range(5):
        variables = random_variables(MODEL, X, seed=seed, train=False)
        assert error(freeze(MODEL, variables)(X), apply(MODEL, variables, X)) < TOLERANCE
        del variables
        jax.clear_caches()


def test_variables_are_copied(logits):
    variables = jax.tree.map(np.array, VARIABLES)
    frozen = freeze(MODEL, variables)
    jax.tree.map(lambda leaf: leaf.fill(0), variables)
    assert error(frozen(X), logits) < TOLERANCE


def test_it_is_frozen_within_a_trace(logits):
    frozen = freeze(MODEL, VARIABLES)
    counts = operations(lambda x: jax.vmap(lambda x: frozen(x[None]))(x), X)
    assert counts["FusedConvolution"] == 3
    assert counts["rsqrt"] == 0


def test_pickle(frozen, logits):
    assert error(pickle.loads(pickle.dumps(frozen))(X), logits) < TOLERANCE


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_traced_variables_are_refused():
    with pytest.raises(UsageError, match="cannot freeze traced variables") as error:
        jax.jit(lambda variables: freeze(MODEL, variables)(X))(VARIABLES)
    one_line(error)


def test_deleted_variables_are_refused():
    variables = jax.tree.map(jnp.array, VARIABLES)
    jax.tree.leaves(variables)[0].delete()
    with pytest.raises(UsageError, match="cannot be read") as error:
        freeze(MODEL, variables)
    one_line(error)


@pytest.mark.parametrize(("given", "named"), [("resnet18", "resnet34"), ("resnet34", "resnet18")])
def test_variables_of_another_model_are_refused(given, named):
    model = create_model(named, 10, stem="cifar", width=4)
    x = images(1, 8, 8, 3)
    variables = random_variables(create_model(given, 10, stem="cifar", width=4), x, train=False)
    with pytest.raises(UsageError, match="Give the variables of this model") as error:
        freeze(model, variables)(x)
    one_line(error)


def test_images_of_another_shape_are_refused(frozen):
    with pytest.raises(UsageError, match=r"to images of shape \(4, 16, 16, 2\)") as error:
        frozen(X[..., :2])
    one_line(error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda x: x, {}), "has no method `apply`"),
        ((MODEL, {"params": "weights.npz"}), "with a str among them"),
    ],
)
def test_what_is_no_network_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message) as error:
        freeze(*arguments)
    one_line(error)


@pytest.mark.parametrize("dtype", ["int8", "bfloat61", float, 3])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(UsageError, match="Give one of float32, bfloat16, float16") as error:
        freeze(MODEL, VARIABLES, dtype=dtype)
    one_line(error)
