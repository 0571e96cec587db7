"""Every operation of the tables gives the same values in ONNX Runtime and in JAX, for any batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import jaxprs_in_params
from onnx import checker

from jaxcnn.export._onnx.graph import UnsupportedError
from jaxcnn.export._onnx.translate import CALLS, OPERATIONS, translate
from jaxcnn.kernels import inlined
from jaxcnn.layers import AdaptiveAvgPool, AvgPool, LocalResponseNorm, MaxPool

SHAPE = (4, 6, 3)
KERNEL = np.random.default_rng(1).normal(size=(3, 2, 3, 4)).astype(np.float32)


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


def functions(x):
    positive = jnp.abs(x) + 0.1
    return [jnp.sin(x), jnp.cos(x), jnp.exp(x), lax.exp2(x), jnp.expm1(x), jnp.tanh(x), lax.logistic(x), -x,
            jnp.sign(x), lax.erf(x), lax.erfc(x), jnp.floor(x), jnp.ceil(x),
            lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN), jnp.sqrt(positive),
            lax.rsqrt(positive), jnp.log(positive), jnp.log1p(positive), lax.square(x),
            x**3, x**2, positive ** jnp.float32(0.75)]  # fmt: skip


def of_two(x):
    y, low = x[:, ::-1], jnp.float32(-0.5)
    return [x + y, x - y, x * y, x / (y * y + 1), lax.rem(x, y * y + 1), jnp.maximum(x, y), jnp.minimum(x, 0.2),
            jnp.maximum(x, 0), lax.clamp(low, x, jnp.float32(0.5)), x - 3, 3 - x]  # fmt: skip


def conditions(x):
    y = x[:, ::-1]
    tests = [x > y, x >= y, x < y, x <= y, x == x, x != x, (x > 0) & (y > 0), (x > 0) | (y > 0), ~(x > 0)]
    return [jnp.where(test, x, y) for test in tests] + [(x * 10).astype(jnp.int32).astype(jnp.float32)]


def calls(x):
    unchanged = lax.optimization_barrier(jnp.array(checkpoint_name(lax.stop_gradient(x), "x"), copy=True))
    return [unchanged, doubled(x), jax.checkpoint(jnp.sin)(x), jax.nn.relu(x), jax.jit(lambda x: x + 1)(x)]


def moves(x):
    return [x.reshape(x.shape[0], -1), x.reshape(-1, 3), x[..., None], x[:, None], jnp.transpose(x, (0, 3, 1, 2)),
            jnp.flip(x, 2), x[:, 1:3], x[:, 2], x[:, ::2, ::3], x[:, ::2, ::3, 1:], x[:, np.array([3, 0, 0, 1])],
            lax.slice(x, (0, 1, 0, 0), (x.shape[0], 4, 6, 3), (1, 2, 1, 1)), lax.slice(x, (0,) * 4, x.shape),
            jnp.squeeze(lax.slice(x, (0, 1, 0, 0), (x.shape[0], 2, 6, 3)), 1), jnp.roll(x, 1, 2),
            lax.dynamic_slice(x, (0, 9, 1, 0), (x.shape[0], 2, 2, 3)), jnp.tile(x, (1, 2, 1, 2))]  # fmt: skip


def joins(x):
    ones = jnp.ones((x.shape[0], 4, 6, 2), x.dtype)
    return [jnp.concatenate([x, x[:, ::-1], ones], 3), jnp.stack([x, -x], 2), *jnp.split(x, 3, 2),
            *jnp.split(x, [1], 1),
            lax.pad(x, jnp.float32(2), ((0, 0, 0), (1, 0, 0), (0, 2, 0), (-1, 3, 0)))]  # fmt: skip


def products(x):
    flat, weights = x.reshape(x.shape[0], -1), KERNEL.ravel().reshape(72, 1)
    return [flat @ weights, jnp.einsum("nc,dc->nd", flat, weights.T), x @ KERNEL[0, 0],
            jnp.einsum("nhwc,nhwd->ncd", x, x),
            jnp.einsum("nhwc,hw->nc", x, KERNEL.ravel()[:24].reshape(4, 6))]  # fmt: skip


def reductions(x):
    maximum, position = x.max((1, 2)), jnp.argmax(x, 2).astype(jnp.float32)
    return [x.sum((1, 2)), x.mean(3), maximum, x.min(1), x.prod(2), position, jnp.argmin(x, 1).astype(jnp.float32),
            jax.nn.softmax(x), x.std(1)]  # fmt: skip


def layers(x):
    """Layers on feature maps that a convolution left in the order [N, C, H, W]."""
    y = lax.conv_general_dilated(x, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    grouped = lax.conv_general_dilated(
        y, KERNEL[:, :, :2], (2, 1), ((2, 1), (0, 1)), rhs_dilation=(1, 2), feature_group_count=2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    pools = [MaxPool(2), MaxPool(3, 2, padding=1), MaxPool(2, 2, ceil_mode=True), MaxPool((1, 3), 1), AvgPool(2),
             AvgPool(3, 2, padding=1, ceil_mode=True), AvgPool(3, 1, 1, count_include_pad=False),
             AvgPool(1, 5, ceil_mode=True), AdaptiveAvgPool(3)]  # fmt: skip
    pooled = [pool.apply({}, value) for pool in pools for value in (x, y)]
    dilated = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID", window_dilation=(1, 2, 2, 1))
    along_the_width = lax.reduce_window(y, 0.0, lax.add, (1, 1, 3, 1), (1, 1, 1, 1), "SAME")
    far = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), ((0, 0), (2, 2), (2, 2), (0, 0)))
    normalized = LocalResponseNorm().apply({}, y)
    return [y, grouped, *pooled, dilated, along_the_width, jnp.where(far > -1e9, far, 0), normalized,
            y.reshape(x.shape[0], -1), y.mean((1, 2)), y.max(3), y + np.arange(6, dtype=np.float32)[:, None],
            y[:, ::2, ::2], y[:, 1], jnp.flip(y, 2), jnp.concatenate([x, y], 3), *jnp.split(y, 2, 3),
            jnp.transpose(y, (0, 2, 1, 3)) * 2, jnp.tile(y, (1, 1, 1, 2)), jnp.argmax(y, 3).astype(jnp.float32),
            y @ KERNEL[0, 0].T, lax.pad(y, jnp.float32(0), ((0, 0, 0), (1, 2, 0), (0, 1, 0), (0, 3, 0)))]  # fmt: skip


GROUPS = [functions, of_two, conditions, calls, moves, joins, products, reductions, layers]


def together(group):
    """Return a function of a batch whose only output has all outputs of the group, one row for each image or row."""

    def function(_, x):
        return jnp.concatenate([output.reshape(x.shape[0], -1) for output in group(x)], 1)

    return function


def exported(function, dtype=jnp.float32):
    (batch,) = jax.export.symbolic_shape("batch")
    with inlined():
        images = jax.ShapeDtypeStruct((batch, *SHAPE), dtype)
        model = translate(function, {}, images, input_name="images", output_name="logits")
    checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.usefixtures("compile_quickly")
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_onnxruntime_computes_the_same(group):
    session = exported(together(group))
    x = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    expected = np.asarray(jax.jit(together(group))({}, x))
    for count in (1, 3):
        (found,) = session.run(["logits"], {"images": x[:count]})
        np.testing.assert_allclose(found, expected[:count], rtol=2e-5, atol=2e-6)


def primitives(program):
    for equation in program.eqns:
        yield equation.primitive.name
        for inner in jaxprs_in_params(equation.params):
            yield from primitives(inner)


def test_every_operation_is_tested():
    (batch,) = jax.export.symbolic_shape("batch")
    found = set()
    for group in GROUPS:
        with inlined():
            program = jax.make_jaxpr(group)(jax.ShapeDtypeStruct((batch, *SHAPE), jnp.float32))
        found |= set(primitives(program.jaxpr))
    assert {*OPERATIONS, *CALLS} - found == set()


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda _, x: jnp.sort(x, 1), "the operation sort"),
        (lambda _, x: lax.conv_transpose(x, KERNEL, (2, 2), "SAME"), "a transposed convolution"),
        (lambda _, x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO), "rounding away from zero"),
        (lambda _, x: x[0], "depends? on the images"),
        (lambda _, x: lax.pad(x, jnp.float32(0), ((0, 0, 0), (0, 0, 1), *((0, 0, 0),) * 2)), "padding between values"),
        (lambda _, x: x[:, jnp.argmax(x[0, :, 0, 0])], "depends? on the images"),
        (lambda _, x: jnp.concatenate([x, x]) + jnp.zeros((2 * x.shape[0], *SHAPE)) @ KERNEL[0, 0, :, :3], "the shape"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(function, says):
    with pytest.raises(UnsupportedError, match=says):
        exported(function)
