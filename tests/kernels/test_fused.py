"""The convolution of inference: its native form against its definition, and its derivatives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import kernels
from jaxcnn.kernels import native
from jaxcnn.kernels._primitive import call
from jaxcnn.kernels.convolution import Geometry
from jaxcnn.kernels.elementwise import ACTIVATIONS
from jaxcnn.kernels.fused import FusedConvolution, content_of, fused_conv

# Image, kernel, stride, padding, dilation and groups, each large enough for the native form.
CASES = {
    "3x3": ((2, 14, 14, 32), (3, 3, 32, 64), 1, 1, 1, 1),
    "strided": ((2, 15, 13, 32), (3, 3, 32, 64), 2, 1, 1, 1),
    "1x1": ((2, 14, 14, 64), (1, 1, 64, 128), 1, 0, 1, 1),
    "1x1 strided": ((2, 28, 28, 64), (1, 1, 64, 64), 2, 0, 1, 1),
    "stem": ((1, 32, 32, 3), (7, 7, 3, 64), 2, 3, 1, 1),
    "dilated": ((2, 14, 14, 32), (3, 3, 32, 48), 1, 2, 2, 1),
    "grouped": ((2, 28, 28, 64), (3, 3, 4, 64), 1, 1, 1, 16),
    "odd channels": ((2, 28, 28, 10), (3, 3, 10, 17), 1, 1, 1, 1),
    "winograd": ((2, 31, 34, 48), (3, 3, 48, 80), 1, 1, 1, 1),
    "winograd, groups of tiles": ((1, 56, 53, 160), (3, 3, 160, 96), 1, 1, 1, 1),
    "small": ((1, 4, 4, 3), (3, 3, 3, 4), 1, 1, 1, 1),
}
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}


def made(name, dtype="float32", residual=True, seed=0):
    image, kernel, stride, padding, dilation, groups = CASES[name]
    geometry = Geometry(image, kernel, (stride,) * 2, ((padding,) * 2,) * 2, (dilation,) * 2, groups)
    random = np.random.default_rng(seed)
    x, r = (jnp.asarray(random.normal(size=shape), dtype) for shape in (image, geometry.output))
    w = np.asarray(jnp.asarray(random.normal(size=kernel) / np.sqrt(np.prod(kernel[:3])), dtype))
    return geometry, x, w, random.normal(size=kernel[3]).astype(np.float32), r if residual else None


def defined(geometry, activation, x, w, b, r):
    """Return the definition, in float64."""
    with jax.enable_x64(True):
        wide = [None if a is None else jnp.asarray(np.asarray(a).astype(np.float64)) for a in (x, w, b, r)]
        x, w, b, r = wide
        y = jax.lax.conv_general_dilated(
            x,
            w,
            geometry.strides,
            geometry.padding,
            rhs_dilation=geometry.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=geometry.groups,
        )
        y = y + b + (0 if r is None else r)
        return np.asarray(y if activation is None else ACTIVATIONS[activation](y))


def error(ours, theirs):
    return np.abs(np.asarray(ours).astype(np.float64) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_every_form_computes_the_definition(name, dtype):
    others = list(ACTIVATIONS) if name in ("3x3", "1x1", "grouped", "winograd") else ["relu"]
    for activation, residual in itertools.product((None, *others), (False, True)):
        geometry, x, w, b, r = made(name, dtype, residual)
        expected = defined(geometry, activation, x, w, b, r)
        for choice in ("xla", "auto"):
            with kernels.use(choice):
                compute = jax.jit(lambda x, r, f=activation, g=geometry, w=w, b=b: fused_conv(g, f, x, w, b, r))
                first = compute(x, r)
                assert first.dtype == dtype
                assert error(first, expected) < TOLERANCE[dtype]
                np.testing.assert_array_equal(compute(x, r), first)
        with kernels.inlined():
            assert error(fused_conv(geometry, activation, x, w, b, r), expected) < TOLERANCE[dtype]


@pytest.mark.skipif(not native.is_available(), reason="needs the native library")
@pytest.mark.parametrize("name", [name for name in CASES if name != "small"])
def test_the_native_form_is_called(name):
    geometry, x, w, b, r = made(name)
    text = jax.jit(lambda x: fused_conv(geometry, "relu", x, w, b, r)).lower(x).as_text()
    is_fused = native.FUSED_CONVOLUTION in text
    assert is_fused or native.CONVOLUTION in text
    if name in ("3x3", "1x1"):
        assert is_fused


@pytest.mark.skipif(not native.is_available(), reason="needs the native library")
def test_bfloat16_on_a_processor_without_it_is_computed_in_float32(monkeypatch):
    def lacks_bfloat16(key):
        return not key[-2]

    monkeypatch.setattr(native, "is_fused_fast", lacks_bfloat16)
    geometry, x, w, b, r = made("3x3", "bfloat16")
    program = jax.jit(lambda x: fused_conv(geometry, "relu", x, w, b, r)).lower(x)
    assert native.FUSED_CONVOLUTION in program.as_text()
    assert error(program.compile()(x), defined(geometry, "relu", x, w, b, r)) < TOLERANCE["bfloat16"]


def test_calls_in_one_program_keep_their_own_kernels():
    geometry, x, _, b, _ = made("3x3")
    weights = [made("3x3", seed=seed)[2] for seed in range(4)]
    outputs = jax.jit(lambda x: [fused_conv(geometry, None, x, w, b) for w in [*weights, weights[0]]])(x)
    for w, y in zip([*weights, weights[0]], outputs, strict=True):
        assert error(y, defined(geometry, None, x, w, b, None)) < TOLERANCE["float32"]


def test_programs_that_come_and_go_do_not_read_kernels_of_earlier_ones():
    geometry, x, _, b, _ = made("3x3")
    for seed in range(8):
        w = made("3x3", seed=seed)[2]
        program = jax.jit(lambda x, w=w: fused_conv(geometry, None, x, w, b)).lower(x).compile()
        assert error(program(x), defined(geometry, None, x, w, b, None)) < TOLERANCE["float32"]
        del program


def test_a_mapped_kernel_is_not_packed():
    geometry, x, _, b, _ = made("3x3")
    weights = np.stack([made("3x3", seed=seed)[2] for seed in range(3)])
    kernel = FusedConvolution(geometry, None, content_of(weights[0]))
    compute = jax.jit(jax.vmap(lambda w: call(kernel, x, w, b)[0]))
    assert native.FUSED_CONVOLUTION not in compute.lower(weights).as_text()
    for w, y in zip(weights, compute(weights), strict=True):
        assert error(y, defined(geometry, None, x, w, b, None)) < TOLERANCE["float32"]


@pytest.mark.parametrize("in_axes", [(0, 0), (1, None), (None, 2)])
def test_mapped_images_are_one_batch(in_axes):
    geometry, x, w, b, r = made("strided")
    xs = jnp.stack([x, 2 * x, -x], in_axes[0]) if in_axes[0] is not None else x
    rs = jnp.stack([r, -r, 3 * r], in_axes[1]) if in_axes[1] is not None else r
    ys = jax.jit(jax.vmap(lambda x, r: fused_conv(geometry, "relu", x, w, b, r), in_axes))(xs, rs)
    for i in range(3):
        x_i = x if in_axes[0] is None else jnp.take(xs, i, in_axes[0])
        r_i = r if in_axes[1] is None else jnp.take(rs, i, in_axes[1])
        assert error(ys[i], defined(geometry, "relu", x_i, w, b, r_i)) < TOLERANCE["float32"]


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_derivatives_are_those_of_the_definition(activation):
    geometry, x, w, b, r = made("small")
    kernel = FusedConvolution(geometry, activation, content_of(w))
    operands = (x, jnp.asarray(w), jnp.asarray(b), r)
    weights = jax.random.normal(jax.random.key(0), geometry.output)

    def loss(function, *operands):
        return jnp.vdot(weights, jnp.square(function(*operands)))

    ours = jax.grad(lambda *a: loss(lambda *a: call(kernel, *a)[0], *a), (0, 1, 2, 3))(*operands)
    theirs = jax.grad(lambda *a: loss(lambda *a: kernel.form(*a)[0], *a), (0, 1, 2, 3))(*operands)
    for mine, other in zip(ours, theirs, strict=True):
        assert error(mine, np.asarray(other, np.float64)) < 1e-5


def spoiled(name, value):
    """Return a case whose image has one pixel of this value, and the outputs that depend on the pixel."""
    geometry, x, w, b, r = made(name)
    x = x.at[0, 9, 9].set(value)
    touched = np.zeros(geometry.output, bool)
    touched[0, 8:11, 8:11] = True
    return (geometry, x, w, b, r), touched


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e12])
def test_extreme_pixels_change_only_the_outputs_that_depend_on_them(value):
    (geometry, x, w, b, r), touched = spoiled("winograd", value)
    y = np.asarray(jax.jit(lambda x, r: fused_conv(geometry, None, x, w, b, r))(x, r))
    expected = defined(geometry, None, x.at[0, 9, 9].set(0), w, b, r)
    assert error(np.where(touched, 0, y), np.where(touched, 0, expected)) < TOLERANCE["float32"]
    assert np.abs(np.nan_to_num(y, nan=np.inf)[touched]).min() > np.abs(expected).max()


@pytest.mark.parametrize("tap", [np.nan, 1e-3])
def test_kernels_that_are_not_even_are_computed_by_exact_sums(tap):
    geometry, x, w, b, r = made("winograd")
    w = w.copy()
    w[0, 0] = np.nan if np.isnan(tap) else 1e-3 * w[0, 0]
    w[0, 0, :, 1:] = np.where(np.isnan(tap), 0, w[0, 0, :, 1:])
    y = np.asarray(jax.jit(lambda x, r: fused_conv(geometry, None, x, w, b, r))(x, r))
    rest = y[..., 1:] if np.isnan(tap) else y
    expected = defined(geometry, None, x, w, b, r)
    assert error(rest, expected[..., 1:] if np.isnan(tap) else expected) < TOLERANCE["float32"]


def test_exact_sums_can_be_required():
    geometry, x, *_ = made("winograd")
    kernel = FusedConvolution(geometry, "relu", (0, 0))
    for precision, is_exact in ((None, 0), ("highest", 1)):
        with jax.default_matmul_precision(precision):
            assert kernel._key(x.dtype, ())[-1] == is_exact
