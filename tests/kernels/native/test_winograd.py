"""Winograd's algorithm against exact sums of products."""

import functools
import os
import subprocess
import sys
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import jaxcnn
from jaxcnn import kernels
from jaxcnn.kernels import native
from jaxcnn.kernels.convolution import Convolution, Geometry, Role
from jaxcnn.measure.case import natural_image_shape
from jaxcnn.models import list_models

pytestmark = pytest.mark.skipif(not native.is_available(), reason="jaxcnn[cpu] is not installed")


def of_size(images, height, width, channels, features, padding=((1, 1), (1, 1))) -> Geometry:
    return Geometry((images, height, width, channels), (3, 3, channels, features), (1, 1), padding, (1, 1), 1)


APART = of_size(3, 30, 23, 36, 50, ((0, 2), (1, 0)))  # whose transformed kernel fits the cache of a core
TOGETHER = of_size(8, 13, 14, 140, 97)


def operands_of(geometry: Geometry, seed=0) -> list[np.ndarray]:
    """Return a random image, kernel and cotangent of the output."""
    rng = np.random.default_rng(seed)
    shapes = (geometry.image, geometry.kernel, geometry.output)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@functools.cache
def _compiled(geometry: Geometry):
    @jax.jit
    def run(x, kernel, g):
        y, pull = jax.vjp(lambda x, kernel: kernels.conv(x, kernel, *geometry[2:]), x, kernel)
        return y, *pull(g)

    return run


def roles_of(geometry: Geometry, operands, precision=None) -> list[np.ndarray]:
    """Return the output, and the gradients of image and kernel."""
    with jax.default_matmul_precision(precision):
        return [np.asarray(a, np.float64) for a in _compiled(geometry)(*operands)]


def all_roles(geometry: Geometry, seed=0, precision=None) -> list[np.ndarray]:
    """Return the roles for random operands."""
    return roles_of(geometry, operands_of(geometry, seed), precision)


def errors(geometry: Geometry, seed=0) -> list[float]:
    """Return the largest difference from exact sums for each role, relative to their largest value; it is never 0."""
    pairs = zip(all_roles(geometry, seed), all_roles(geometry, seed, "highest"), strict=True)
    return [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs]


@pytest.mark.parametrize("geometry", [APART, TOGETHER])
def test_differs_from_exact_sums_in_the_last_digits_only(geometry):
    assert all(0 < error < 1e-5 for error in errors(geometry))


@st.composite
def geometries(draw):
    channels, features = draw(st.integers(32, 130)), draw(st.integers(32, 130))
    padding = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(2))
    height, width = draw(st.integers(3, 40)), draw(st.integers(3, 40))
    return of_size(draw(st.integers(1, 12)), height, width, channels, features, padding)


@given(geometry=geometries(), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20, derandomize=True)
def test_agrees_with_exact_sums_whatever_the_sizes_and_the_padding(geometry, seed):
    found = errors(geometry, seed)
    assert all(error < 1e-5 for error in found)
    assume(all(error > 0 for error in found))  # enough cases must use the algorithm


def convolutions_of_models() -> set[Geometry]:
    """Return the different 3x3 convolutions at stride 1 of the registered models, for 8 images of each model's size."""
    found: set[Geometry] = set()

    def note(x, kernel, strides, padding, dilation, groups, bias=None):
        geometry = Geometry((8, *x.shape[1:]), kernel.shape, strides, padding, dilation, groups)
        if kernel.shape[:2] == (3, 3) and strides == (1, 1) and groups == 1:
            found.add(geometry)
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    with mock.patch.object(kernels, "conv", note):
        for name in list_models():
            if name in ("resnet1202_cifar", "preact_resnet1001_cifar") or name.startswith("efficientnet_v2"):
                continue  # layers as in other networks, hundreds of times or on images of 384 pixels and more
            model = jaxcnn.create_model(name)
            image = jax.ShapeDtypeStruct((1, *natural_image_shape(name)), jnp.float32)
            rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
            jax.eval_shape(partial(model.init, train=False), rngs, image)
    return found


@pytest.mark.slow
def test_agrees_with_exact_sums_for_every_convolution_of_the_registered_models():
    used = 0
    for geometry in sorted(convolutions_of_models()):
        found = errors(geometry)
        assert all(error < 1e-5 for error in found), geometry
        used += all(error > 0 for error in found)
    assert used > 20


SQUARE = of_size(3, 16, 16, 64, 64)
UNRELATED = (1, 2, 0)  # the role that does not depend on each of image, kernel and cotangent


def largest_of_tiles(a: np.ndarray) -> np.ndarray:
    """Return images with each value replaced by the largest of its channel in the same 4x4 tile."""
    n, height, width, channels = a.shape
    tiles = a.reshape(n, height // 4, 4, width // 4, 4, channels).max((2, 4), keepdims=True)
    return np.broadcast_to(tiles, (n, height // 4, 4, width // 4, 4, channels)).reshape(a.shape)


@pytest.mark.parametrize("octaves", [0, 7])
def test_an_error_is_at_most_a_millionth_of_the_products_of_its_tile(octaves):
    x, kernel, g = operands_of(SQUARE)
    rng = np.random.default_rng(1)
    x, g = (a * np.exp2(rng.uniform(-octaves, 0, (*a.shape[:3], 1))).astype(np.float32) for a in (x, g))
    ours, exact = roles_of(SQUARE, (x, kernel, g)), roles_of(SQUARE, (x, kernel, g), "highest")
    y, by_image, by_kernel = roles_of(SQUARE, [abs(a) for a in (x, kernel, g)], "highest")
    bounds = largest_of_tiles(y), largest_of_tiles(by_image), by_kernel.max((0, 1))
    for a, b, bound in zip(ours, exact, bounds, strict=True):
        assert 0 < (np.abs(a - b) / bound).max() < 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_keeps_its_accuracy_at_every_scale(scale):
    expected = all_roles(SQUARE, precision="highest")
    for place in range(3):
        operands = operands_of(SQUARE)
        operands[place] *= np.float32(scale)
        for role, (a, b) in enumerate(zip(roles_of(SQUARE, operands), expected, strict=True)):
            b = b if role == UNRELATED[place] else b * float(np.float32(scale))
            assert np.abs(a - b).max() < 1e-5 * np.abs(b).max()


@pytest.mark.parametrize("value", [1e6, 3e37, np.nan, np.inf])
def test_an_unusual_value_reaches_only_what_an_exact_sum_lets_it_reach(value):
    for place, where in enumerate([(1, 5, 7, 3), (1, 2, 3, 4), (1, 5, 7, 3)]):
        operands = operands_of(SQUARE)
        operands[place][where] = value
        ours, exact = roles_of(SQUARE, operands), roles_of(SQUARE, operands, "highest")
        for role in {0, 1, 2} - {UNRELATED[place]}:
            np.testing.assert_array_equal(ours[role], exact[role])
        if place != 1:  # an image changes the 3x3 outputs whose window has the pixel, and a cotangent likewise
            role, near = place // 2, np.zeros(SQUARE.output, bool)
            near[1, 4:7, 6:9] = True
            clean = all_roles(SQUARE, precision="highest")[role]
            np.testing.assert_array_equal(ours[role][~near], clean[~near])
            assert (ours[role][near] != clean[near]).all()


def test_regions_and_taps_of_zeros_do_not_require_exact_sums():
    x, kernel, g = operands_of(SQUARE)
    x[0], g[0], x[1, :, 9:], kernel[0] = 0, 0, 0, 0
    for a, b in zip(roles_of(SQUARE, (x, kernel, g)), roles_of(SQUARE, (x, kernel, g), "highest"), strict=True):
        assert 0 < np.abs(a - b).max() < 1e-5 * np.abs(b).max()


@pytest.mark.parametrize("setting", ["highest", "float32"])
def test_a_precision_asks_for_exact_sums(setting):
    for a, b in zip(all_roles(APART, precision=setting), all_roles(APART, precision="highest"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_small_strided_dilated_and_grouped_ones_use_exact_sums():
    kept = APART._replace(padding=((1, 1), (1, 1)))
    for geometry in (
        of_size(1, 6, 6, 64, 64),
        of_size(64, 28, 28, 16, 16),
        kept._replace(strides=(2, 1)),
        kept._replace(dilation=(1, 2)),
        kept._replace(kernel=(3, 3, 18, 50), groups=2),
        kept._replace(kernel=(3, 1, 36, 50), padding=((1, 1), (0, 0))),
    ):
        assert errors(geometry) == [0.0, 0.0, 0.0], geometry


def test_second_derivatives_and_batching_agree_with_exact_sums():
    geometry = of_size(3, 12, 16, 32, 33)
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(4, *geometry.image)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=geometry.kernel) / 17, jnp.float32)

    def curvature(precision):
        def loss(kernel, x):
            return (kernels.conv(x, kernel, *geometry[2:]) ** 3).sum()

        def product(x):
            return jax.jvp(lambda kernel: jax.grad(loss)(kernel, x), (kernel,), (kernel,))[1]

        with jax.default_matmul_precision(precision):
            return np.asarray(jax.jit(jax.vmap(product))(xs))

    usual, exact = curvature(None), curvature("highest")
    assert 0 < np.abs(usual - exact).max() < 2e-5 * np.abs(exact).max()


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "5"])
def test_does_not_depend_on_the_number_of_threads_but_for_rounding(tmp_path, threads):
    program = f"""
import sys; sys.path[:0] = {[*filter(None, sys.path)]!r}
import runpy, numpy as np
names = runpy.run_path({__file__!r})
for name in ("APART", "TOGETHER"):
    np.savez({str(tmp_path)!r} + "/" + name, *names["all_roles"](names[name]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for name, geometry in (("APART", APART), ("TOGETHER", TOGETHER)):
        with np.load(tmp_path / f"{name}.npz") as found:
            for a, b in zip(found.values(), all_roles(geometry), strict=True):
                assert np.abs(a - b).max() < 1e-5 * np.abs(b).max()


def test_the_library_reports_what_computes_each_role():
    for role in Role:
        convolution = Convolution(role, APART, "float32")
        assert native.implementation(convolution._key("float32")) == ("winograd", True)
        with jax.default_matmul_precision("highest"):
            name, is_fast = native.implementation(convolution._key("float32"))
        assert name != "winograd"
        assert is_fast
