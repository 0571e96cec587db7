"""Winograd's algorithm against exact sums of products."""

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


def all_roles(geometry: Geometry, seed=0, precision=None):
    """The output, and the gradients of image and kernel."""
    rng = np.random.default_rng(seed)
    shapes = (geometry.image, geometry.kernel, geometry.output)
    x, kernel, g = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)

    @jax.jit
    def run(x, kernel, g):
        y, pull = jax.vjp(lambda x, kernel: kernels.conv(x, kernel, *geometry[2:]), x, kernel)
        return y, *pull(g)

    with jax.default_matmul_precision(precision):
        return [np.asarray(a, np.float64) for a in run(x, kernel, g)]


def errors(geometry: Geometry, seed=0) -> list[float]:
    """Of each role, the largest difference from exact sums, relative to their largest value; it is never 0."""
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
    """The different convolutions of 3x3 at stride 1 of the registered models, of 8 images of the models' own size."""
    found: set[Geometry] = set()

    def note(x, kernel, strides, padding, dilation, groups):
        geometry = Geometry((8, *x.shape[1:]), kernel.shape, strides, padding, dilation, groups)
        if kernel.shape[:2] == (3, 3) and strides == (1, 1) and groups == 1:
            found.add(geometry)
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    with mock.patch.object(kernels, "conv", note):
        for name in list_models():
            if name in ("resnet1202_cifar", "preact_resnet1001_cifar"):
                continue  # the same layers as in shorter networks, hundreds of times
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


def test_the_library_reports_which_roles_are_fast():
    for role in Role:
        key = Convolution(role, APART)._key()
        assert native.is_fast((*key, 0))
        assert native.is_fast((*key, 1))
