"""Kernels under JAX's transformations: the results of a plain loop, in programs that XLA computes fast."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.transformations import Problem
from jaxcnn import kernels
from jaxcnn.kernels import _primitive, native

needs_native = pytest.mark.skipif(not native.is_available(), reason="jaxcnn[cpu] is not installed")
FORMS = ["xla", pytest.param("native", marks=needs_native)]

pytestmark = pytest.mark.usefixtures("compile_quickly")

CANONICAL = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """Every convolution by XLA's operations or, however small, by the native library where it can."""
    monkeypatch.setattr("jaxcnn.kernels.convolution.LEAST_WORK", 0)
    monkeypatch.setattr("jaxcnn.kernels.reductions.LEAST_VALUES", 0)
    with kernels.use(request.param):
        _primitive._compiled.clear_cache()
        yield request.param
    _primitive._compiled.clear_cache()


@pytest.fixture(scope="module")
def lenet():
    return Problem("lenet5", 3)


def stacked(tree):
    """Stack the results of a plain loop as the transformation does."""
    return jax.tree.map(lambda *x: np.stack(x), *tree) if isinstance(tree, list) else tree


@pytest.mark.parametrize("name", ["scan", "map", "vmap", "examples", "Jacobian", "Hessian"])
def test_a_transformation_gives_what_a_plain_loop_gives(form, lenet, name):
    whole, loop = lenet.forms()[name]
    for got, expected in zip(jax.tree.leaves(whole()), jax.tree.leaves(stacked(loop())), strict=True):
        expected = np.asarray(expected).reshape(got.shape)
        np.testing.assert_allclose(got, expected, atol=2e-5 * max(np.abs(expected).max(), 1e-3))


def network(params, x):
    """A strided and a grouped convolution with normalization between them; the square sum of the output."""
    x = kernels.conv(x, params["first"], (2, 2), ((1, 0), (1, 1)), (1, 1), 1)
    zeros, ones = jnp.zeros(x.shape[-1]), jnp.ones(x.shape[-1])
    x, mean, var = kernels.batch_norm(x, zeros, ones, params["scale"], zeros, momentum=0.9, epsilon=1e-3, unbiased=True)
    x = kernels.conv(x, params["second"], (1, 1), ((1, 1), (2, 1)), (1, 2), 2)
    return (jnp.tanh(x) ** 2).sum() + (mean * var).sum()


@pytest.fixture(scope="module")
def operands():
    rng = np.random.default_rng(0)
    shapes = {"first": (3, 3, 3, 24), "scale": (24,), "second": (3, 2, 12, 8)}
    params = {name: jnp.asarray(rng.normal(size=(2, 3, *shape)), jnp.float32) for name, shape in shapes.items()}
    return params, jnp.asarray(rng.normal(size=(2, 3, 2, 9, 8, 3)), jnp.float32)


def at(tree, index):
    return jax.tree.map(lambda a: a[index], tree)


def close(got, expected, tolerance=1e-4):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * max(np.abs(np.asarray(b)).max(), 1e-3))


@pytest.mark.parametrize("in_axes", [(0, 0), (0, None), (None, 0)], ids=str)
def test_derivatives_of_a_mapped_function_are_those_of_its_sum(form, operands, in_axes):
    """The kernels are mapped first and differentiated then, with respect to operands that are mapped or not."""
    params, x = (at(tree, 0 if axis == 0 else (0, 0)) for tree, axis in zip(operands, in_axes, strict=True))
    dots = jax.tree.map(lambda a: jnp.cos(7 * a), (params, x))

    def mapped(params, x):
        return jax.vmap(network, in_axes)(params, x).sum()

    def loop(params, x):
        pairs = list(zip((params, x), in_axes, strict=True))
        return sum(network(*(tree if axis is None else at(tree, i) for tree, axis in pairs)) for i in range(3))

    both = (0, 1)
    close(jax.jit(jax.grad(mapped, both))(params, x), jax.jit(jax.grad(loop, both))(params, x))
    close(
        jax.jit(lambda *a: jax.jvp(mapped, a, dots))(params, x),
        jax.jit(lambda *a: jax.jvp(loop, a, dots))(params, x),
    )
    products = [jax.jit(lambda *a, f=f: jax.jvp(jax.grad(f, both), a, dots)[1])(params, x) for f in (mapped, loop)]
    close(*products)


def test_axes_may_be_mapped_within_axes(form, operands):
    gradient = jax.grad(network)
    got = jax.jit(jax.vmap(jax.vmap(gradient)))(*operands)
    one = jax.jit(gradient)
    each = [[one(*at(operands, (i, j))) for j in range(3)] for i in range(2)]
    close(got, stacked([stacked(row) for row in each]))


@pytest.mark.parametrize("name", ["scan", "map", "vmap"])
def test_convolutions_in_loops_have_the_layout_that_xla_computes_fast_there(lenet, name):
    """A convolution of another layout within a loop takes 10 to 60 times as long."""
    program = lowered(lenet, name, "cpu")
    layouts = re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", program)
    assert layouts
    assert set(layouts) == {CANONICAL}
    assert "stablehlo.while" in program
    assert set(re.findall(r"(?:feature|batch)_group_count = (\d+)", program)) == {"1"}


def test_other_platforms_map_in_one_call(lenet):
    program = lowered(lenet, "vmap", "cuda")
    assert "stablehlo.convolution" in program
    assert "stablehlo.while" not in program


def lowered(problem, name, platform):
    """Return the program of XLA's kernels."""
    with kernels.use("xla"):

        def gradient(params):
            return problem.gradient(params, problem.images, problem.labels)

        functions = {
            "scan": lambda networks: jax.lax.scan(lambda c, p: (c, gradient(p)), None, networks)[1],
            "map": lambda networks: jax.lax.map(gradient, networks),
            "vmap": jax.vmap(gradient),
        }
        traced = jax.jit(functions[name]).trace(problem.networks)
        return traced.lower(lowering_platforms=(platform,)).as_text()
