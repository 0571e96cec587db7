"""Convolution of bfloat16 images with float32 kernels, against float64."""

import ctypes
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import kernels
from jaxcnn.kernels import native
from jaxcnn.kernels.convolution import Convolution, Geometry, Role
from jaxcnn.layers import Conv
from tests.kernels.test_convolution import FORMS, needs_native, ours, output_and_gradients, selected

GEOMETRIES = {
    "3x3": Geometry((2, 9, 8, 24), (3, 3, 24, 40), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "1x1": Geometry((2, 9, 8, 24), (1, 1, 24, 40), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "1x1, strided": Geometry((2, 9, 8, 24), (1, 1, 24, 40), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "first layer": Geometry((2, 19, 18, 3), (7, 7, 3, 16), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    "grouped": Geometry((2, 9, 8, 32), (3, 3, 8, 64), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
    "depthwise": Geometry((2, 9, 8, 32), (3, 3, 1, 32), (2, 2), ((1, 1), (1, 1)), (1, 1), 32),
    "dilated": Geometry((2, 11, 12, 16), (3, 3, 16, 16), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
}

# bfloat16 has 8 bits: rounding changes a value by at most 2^-8 of it.
ROUNDING = 2.0**-8


@pytest.fixture(params=[*FORMS, pytest.param("widened", marks=needs_native)])
def form(request):
    """Run by XLA, natively, or natively as on a processor without instructions for bfloat16."""
    if request.param != "widened":
        with selected(request.param):
            yield request.param
        return
    known = native.is_fast
    with mock.patch.object(native, "is_fast", lambda key: key[23] == 0 and known(key)), selected("native"):
        yield request.param


def tensors(geometry: Geometry) -> tuple[jax.Array, ...]:
    """Return images, a float32 kernel, and a cotangent. bfloat16 holds them: XLA need not round a kernel on its way."""
    rng = np.random.default_rng(0)
    x, kernel, g = (rng.normal(size=shape) for shape in (geometry.image, geometry.kernel, geometry.output))
    return jnp.asarray(x, "bfloat16"), jnp.asarray(kernel, "bfloat16").astype("float32"), jnp.asarray(g, "bfloat16")


def in_float64(geometry: Geometry, values: tuple[jax.Array, ...]) -> list[np.ndarray]:
    """Return output and gradients, and the sums of magnitudes in the same places."""
    x, kernel, g = (np.asarray(value, np.float64) for value in values)
    with jax.enable_x64(True), kernels.use("xla"):
        signed = output_and_gradients(ours, geometry, [jnp.asarray(value) for value in (x, kernel, g)])
        sizes = output_and_gradients(ours, geometry, [jnp.asarray(np.abs(value)) for value in (x, kernel, g)])
    return [np.asarray(value) for value in (*signed, *sizes)]


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_images_are_rounded_once_and_the_gradient_of_the_kernel_is_not(form, geometry):
    values = tensors(geometry)
    y, by_x, by_kernel = output_and_gradients(ours, geometry, values)
    assert (y.dtype, by_x.dtype, by_kernel.dtype) == ("bfloat16", "bfloat16", "float32")
    expected = in_float64(geometry, values)
    for actual, exact, size in zip((y, by_x), expected[:2], expected[3:5], strict=True):
        error = np.abs(np.asarray(actual, np.float64) - exact)
        assert (error <= ROUNDING * np.abs(exact) + 1e-5 * size).all()
    # The sums are in float32, in every form.
    assert (np.abs(np.asarray(by_kernel, np.float64) - expected[2]) <= 1e-5 * expected[5]).all()


def test_the_same_bits_on_repetition(form):
    geometry = GEOMETRIES["3x3"]
    values = tensors(geometry)
    first = output_and_gradients(ours, geometry, values)
    for _ in range(3):
        again = output_and_gradients(ours, geometry, values)
        assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(first, again, strict=True))


def test_second_order_and_forward_mode(form):
    """The product of Hessian and vector in the kernel, by forward over reverse and by reverse over reverse."""
    geometry = GEOMETRIES["3x3"]
    x, kernel, direction = (*tensors(geometry)[:2], jnp.ones(geometry.kernel, "float32"))

    def loss(kernel):
        return jnp.square(ours(geometry, x, kernel).astype("float32")).sum()

    forward = jax.jit(lambda k: jax.jvp(jax.grad(loss), (k,), (direction,))[1])(kernel)
    backward = jax.jit(jax.grad(lambda k: (jax.grad(loss)(k) * direction).sum()))(kernel)
    scale = float(jnp.abs(forward).max())
    assert forward.dtype == backward.dtype == "float32"
    assert float(jnp.abs(forward - backward).max()) <= 3e-2 * scale


def test_a_mapped_axis_over_images_kernels_or_both(form):
    geometry = GEOMETRIES["grouped"]
    values = [jnp.stack([a, 2 * a]) for a in tensors(geometry)]
    run = partial(output_and_gradients, ours, geometry)
    for axes in ((0, 0, 0), (0, None, 0), (None, 0, 0)):
        given = [value if axis == 0 else value[0] for value, axis in zip(values, axes, strict=True)]
        together = jax.vmap(lambda *v: run(v), in_axes=axes)(*given)
        for place in range(2):
            alone = run([v[place] if axis == 0 else v for v, axis in zip(given, axes, strict=True)])
            for many, one in zip(together, alone, strict=True):
                gap = np.abs(np.asarray(many[place], np.float64) - np.asarray(one, np.float64))
                assert gap.max() <= 1e-2 * np.abs(np.asarray(one, np.float64)).max()


@pytest.mark.parametrize(("param_dtype", "expected"), [("float32", "float32"), ("bfloat16", "bfloat16")])
def test_the_layer_gives_its_kernel_a_gradient_in_the_dtype_of_its_parameters(form, param_dtype, expected):
    layer = Conv(16, 3, padding=1, dtype="bfloat16", param_dtype=param_dtype)
    x = jnp.ones((2, 8, 8, 8), "bfloat16")
    variables = layer.init(jax.random.key(0), x)
    gradient = jax.grad(lambda v: layer.apply(v, x).astype("float32").sum())(variables)
    assert gradient["params"]["kernel"].dtype == expected
    assert layer.apply(variables, x).dtype == "bfloat16"


@needs_native
def test_an_implementation_counts_by_its_name():
    """Code for float32 that emulates bfloat16 does not count; instructions of the processor do."""
    library = native._library()
    assert isinstance(library, ctypes.CDLL)
    library.jaxcnn_has_bfloat16.restype = ctypes.c_bool
    cases = {
        b"brgconv:avx512_core_bf16": True,
        b"brgconv_1x1:avx512_core_amx": True,
        b"brg_fwd:avx512_core_bf16+brgconv:avx512_core_bf16": True,
        b"jit_bf16:avx512_core": False,
        b"jit:avx512_core": False,
        b"ref:any": False,
    }
    assert {name: library.jaxcnn_has_bfloat16(name) for name in cases} == cases


def with_winograd(channels: int, size: int, images: int) -> Geometry:
    shape = (images, size, size, channels), (3, 3, channels, channels)
    return Geometry(*shape, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)


def names(geometry: Geometry) -> list[str]:
    keys = (Convolution(role, geometry, "float32")._key("bfloat16") for role in Role)
    return [native.implementation(key)[0] for key in keys]


def has_bfloat16_without_amx() -> bool:
    name, is_fast = native.implementation(Convolution(Role.OUTPUT, GEOMETRIES["3x3"], "float32")._key("bfloat16"))
    return is_fast and "amx" not in name


needs_bfloat16_without_amx = pytest.mark.skipif(
    not has_bfloat16_without_amx(), reason="only a processor with instructions for bfloat16 and no AMX does this"
)


@needs_bfloat16_without_amx
def test_winograds_algorithm_computes_what_it_computes_faster_than_bfloat16():
    """Gradients of kernels, and all roles where there are many channels and tiles."""
    assert [name == "winograd" for name in names(with_winograd(64, 28, 1))] == [False, False, True]
    assert [name == "winograd" for name in names(with_winograd(256, 16, 10))] == [True, True, True]
    with jax.default_matmul_precision("highest"):
        assert "winograd" not in names(with_winograd(256, 16, 10))


@pytest.mark.parametrize("geometry", [with_winograd(36, 28, 2), with_winograd(256, 16, 10)], ids=["gradient", "all"])
def test_winograds_algorithm_rounds_like_exact_sums(geometry):
    """Kernels are rounded to bfloat16 before they are transformed, and results once."""
    x, kernel, g = tensors(geometry)
    values = (x, kernel * (1 + ROUNDING / 3), g)
    with selected("auto"):
        found = output_and_gradients(ours, geometry, values)
        with jax.default_matmul_precision("highest"):
            exact = output_and_gradients(ours, geometry, values)
    for actual, expected in zip(found, exact, strict=True):
        assert actual.dtype == expected.dtype
        a, b = (np.asarray(value, np.float64) for value in (actual, expected))
        unit = ROUNDING if actual.dtype == "bfloat16" else 0.0
        assert (np.abs(a - b) <= 2 * unit * np.abs(b) + 1e-5 * np.abs(b).max()).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_an_unusual_value_reaches_only_what_an_exact_sum_lets_it_reach(value):
    geometry = with_winograd(36, 28, 2)
    x, kernel, g = tensors(geometry)
    x = x.at[1, 5, 7, 3].set(value)
    with selected("auto"):
        by_kernel = np.asarray(output_and_gradients(ours, geometry, (x, kernel, g))[2], np.float64)
    is_usual = np.abs(by_kernel) < 1e6
    assert not is_usual[:, :, 3].any()
    assert np.delete(is_usual, 3, axis=2).all()


BIASED = {
    "exact sums": GEOMETRIES["3x3"],
    "first layer": GEOMETRIES["first layer"],
    "grouped": GEOMETRIES["grouped"],
    "winograd": with_winograd(256, 16, 10),
}


def biased(geometry: Geometry, x, kernel, bias):
    return kernels.conv(x, kernel, *geometry[2:], bias=bias)


@pytest.mark.parametrize("geometry", BIASED.values(), ids=BIASED)
def test_a_bias_is_added_before_the_sum_is_rounded(geometry):
    """A bias that the convolution nearly cancels shows whether the convolution was rounded before."""
    x, kernel, _ = tensors(geometry)
    with selected("auto"), jax.default_matmul_precision("highest"):
        exact = kernels.conv(x.astype("float32"), kernel, *geometry[2:])
    bias = -exact[0, 2, 2]
    with selected("auto"):
        y = biased(geometry, x, kernel, bias)
    assert y.dtype == "bfloat16"
    expected = np.asarray(exact + bias, np.float64)
    assert (
        np.abs(np.asarray(y, np.float64) - expected) <= ROUNDING * np.abs(expected) + 2e-5 * np.abs(exact).max()
    ).all()


def test_derivatives_with_a_bias(form):
    """In both modes; the gradient of the bias is a float32 sum that is not rounded."""
    geometry = GEOMETRIES["3x3"]
    x, kernel, g = tensors(geometry)
    bias = jnp.linspace(-1, 1, geometry.kernel[3])
    y, pull = jax.vjp(lambda *values: biased(geometry, *values), x, kernel, bias)
    by_x, by_kernel, by_bias = pull(g)
    alone = output_and_gradients(ours, geometry, (x, kernel, g))
    assert (by_bias.dtype, y.dtype) == ("float32", "bfloat16")
    for found, expected in ((by_x, alone[1]), (by_kernel, alone[2])):
        np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(expected, np.float32))
    np.testing.assert_allclose(by_bias, np.asarray(g, np.float64).sum((0, 1, 2)), rtol=1e-5, atol=1e-5)

    dots = x, kernel, bias
    y_dot = jax.jvp(lambda *values: biased(geometry, *values), (x, kernel, bias), dots)[1]
    expected = 2 * np.asarray(alone[0], np.float64) + np.asarray(bias, np.float64)
    assert np.abs(np.asarray(y_dot, np.float64) - expected).max() <= 4 * ROUNDING * np.abs(expected).max()


def test_a_mapped_axis_with_a_bias(form):
    geometry = GEOMETRIES["3x3"]
    x, kernel, _ = tensors(geometry)
    bias = jnp.linspace(-1, 1, geometry.kernel[3])
    one = partial(biased, geometry)
    for axes in ((0, None, None), (None, None, 0), (0, 0, 0)):
        given = [jnp.stack([v, 2 * v]) if axis == 0 else v for v, axis in zip((x, kernel, bias), axes, strict=True)]
        together = jax.vmap(one, in_axes=axes)(*given)
        for place in range(2):
            alone = one(*(v[place] if axis == 0 else v for v, axis in zip(given, axes, strict=True)))
            gap = np.abs(np.asarray(together[place], np.float64) - np.asarray(alone, np.float64))
            assert gap.max() <= 1e-2 * np.abs(np.asarray(alone, np.float64)).max()
