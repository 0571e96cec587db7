"""Products of bfloat16 data with float32 kernels, against float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcnn import kernels
from jaxcnn.layers import Dense

# bfloat16 has 8 bits: rounding changes a value by at most 2^-8 of it.
ROUNDING = 2.0**-8

INPUTS, FEATURES = 70, 33


def tensors(leading=(2, 3), features=FEATURES):
    """Return data, a float32 kernel that bfloat16 does not hold, and a cotangent."""
    rng = np.random.default_rng(0)
    x, kernel, g = (rng.normal(size=shape) for shape in ((*leading, INPUTS), (INPUTS, features), (*leading, features)))
    return jnp.asarray(x, "bfloat16"), jnp.asarray(kernel, "float32"), jnp.asarray(g, "bfloat16")


def output_and_gradients(function, values):
    x, kernel, g = values

    @jax.jit
    def run(x, kernel, g):
        y, pull = jax.vjp(function, x, kernel)
        return y, *pull(g)

    return run(x, kernel, g)


def in_float64(values):
    """Return output and gradients for a kernel rounded to bfloat16."""
    x, kernel, g = values
    x, kernel, g = (np.asarray(value.astype("bfloat16"), np.float64) for value in (x, kernel, g))
    return x @ kernel, g @ kernel.T, x.reshape(-1, INPUTS).T @ g.reshape(-1, g.shape[-1])


def assert_agree(actual, expected, tolerance):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(a - b).max(initial=0) <= tolerance * max(np.abs(b).max(initial=0), 1e-3)


@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (0,), (40,)], ids=str)
def test_results_are_rounded_once_and_the_gradient_of_the_kernel_is_not(leading):
    values = tensors(leading)
    results = output_and_gradients(kernels.dense, values)
    assert [result.dtype for result in results] == ["bfloat16", "bfloat16", "float32"]
    for result, exact in zip(results[:2], in_float64(values), strict=False):
        error = np.abs(np.asarray(result, np.float64) - exact)
        # An unrounded kernel would differ by more: 70 products, each up to 2^-9 off.
        assert (error <= ROUNDING * np.abs(exact) + 1e-4).all()
    assert_agree(results[2], in_float64(values)[2], 1e-6)


def test_the_kernel_is_rounded_to_bfloat16():
    """A difference that rounding the kernel removes, and that float32 sums would keep."""
    x, kernel = jnp.ones((1, INPUTS), "bfloat16"), jnp.ones((INPUTS, FEATURES), "float32").at[:, 0].set(1 + 2**-9)
    g = jnp.zeros((1, FEATURES), "bfloat16").at[0, :2].set(jnp.asarray([256, -256], "bfloat16"))
    by_x = jax.jit(lambda x: jax.vjp(partial(kernels.dense, kernel=kernel), x)[1](g)[0])(x)
    assert (by_x == 0).all()
    x = jnp.zeros_like(x).at[0, :2].set(jnp.asarray([256, -256], "bfloat16"))
    kernel = jnp.ones_like(kernel).at[0].set(1 + 2**-9)
    assert (jax.jit(lambda *v: kernels.dense(*v))(x, kernel) == 0).all()


def test_the_same_bits_on_repetition():
    values = tensors()
    first = output_and_gradients(kernels.dense, values)
    for _ in range(3):
        again = output_and_gradients(kernels.dense, values)
        assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(first, again, strict=True))


def test_second_order_and_forward_mode():
    """The product of Hessian and vector in the kernel, by forward over reverse and by reverse over reverse."""
    x, kernel, _ = tensors()
    direction = jnp.cos(kernel)

    def loss(kernel):
        return jnp.square(kernels.dense(x, kernel).astype("float32")).sum()

    forward = jax.jit(lambda k: jax.jvp(jax.grad(loss), (k,), (direction,))[1])(kernel)
    backward = jax.jit(jax.grad(lambda k: (jax.grad(loss)(k) * direction).sum()))(kernel)
    rows = np.asarray(x, np.float64).reshape(-1, INPUTS)
    exact = 2 * rows.T @ (rows @ np.asarray(direction, np.float64))
    assert forward.dtype == backward.dtype == "float32"
    assert_agree([forward, backward], [exact, exact], 2e-2)


@pytest.mark.parametrize("axes", [(0, 0, 0), (1, None, 0), (None, 2, 0), (0, None, None)], ids=str)
def test_a_mapped_axis_over_data_kernels_or_both(axes):
    values = [jnp.stack([a, 2 * a, a - 1]) for a in tensors()]
    given = [a if axis is not None else a[0] for a, axis in zip(values, axes, strict=True)]
    moved = [a if axis is None else jnp.moveaxis(a, 0, axis) for a, axis in zip(given, axes, strict=True)]
    together = jax.vmap(lambda *v: output_and_gradients(kernels.dense, v), in_axes=axes)(*moved)
    for place in range(3):
        alone = [a if axis is None else a[place] for a, axis in zip(given, axes, strict=True)]
        assert_agree([many[place] for many in together], output_and_gradients(kernels.dense, alone), 1e-2)


def layer_and_loss():
    layer = Dense(FEATURES, dtype="bfloat16")
    x = tensors((8,))[0]
    variables = layer.init(jax.random.key(0), x)
    return variables, x, lambda variables, x: jnp.square(layer.apply(variables, x).astype("float32")).sum()


def test_gradients_sharded_over_devices_are_those_of_one_device():
    variables, x, loss = layer_and_loss()
    with kernels.inlined():
        expected = jax.grad(loss)(variables, x)
    agree = partial(assert_agree, expected=expected, tolerance=1e-2)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))

    def summed(variables, x):
        return jax.lax.psum(jax.grad(loss)(variables, x), "batch")

    def total(variables, x):
        return jax.lax.psum(loss(variables, x), "batch")

    by_pmap = jax.pmap(summed, "batch", in_axes=(None, 0))(variables, x[:, None])
    agree(jax.tree.map(lambda a: a[3], by_pmap))
    map_over = partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("batch")), out_specs=P())
    agree(jax.jit(map_over(jax.grad(total)))(variables, x))
    agree(jax.jit(map_over(summed, check_vma=False))(variables, x))

    split = jax.device_put(x, NamedSharding(mesh, P("batch")))
    agree(jax.jit(jax.grad(loss))(jax.device_put(variables, NamedSharding(mesh, P())), split))


def test_a_kernel_divided_over_devices_is_not_gathered_by_a_loop():
    x, kernel, _ = tensors((8,), 40)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    split = jax.device_put(x, NamedSharding(mesh, P("batch")))
    parts = jax.device_put(kernel, NamedSharding(mesh, P(None, "batch")))
    gradient = jax.jit(jax.grad(lambda k, x: jnp.square(kernels.dense(x, k).astype("float32")).sum()))
    assert_agree(gradient(parts, split), gradient(kernel, x), 1e-2)
    assert "stablehlo.while" not in gradient.lower(parts, split).as_text()


def test_recomputed_gradients_are_the_same():
    variables, x, loss = layer_and_loss()
    assert_agree(jax.jit(jax.grad(jax.checkpoint(loss)))(variables, x), jax.jit(jax.grad(loss))(variables, x), 1e-6)


def test_xlas_kernels_and_a_program_without_jit_agree():
    variables, x, loss = layer_and_loss()
    expected = jax.jit(jax.grad(loss))(variables, x)
    with kernels.use("xla"):
        assert_agree(jax.jit(jax.grad(loss))(variables, x), expected, 1e-6)
    with jax.disable_jit():
        assert_agree(jax.grad(loss)(variables, x), expected, 1e-2)


def test_an_exported_program_has_no_loop_and_runs_elsewhere():
    variables, x, loss = layer_and_loss()
    (batch,) = export.symbolic_shape("batch")
    for shape in (x.shape, (batch, INPUTS)):
        argument = jax.ShapeDtypeStruct(shape, x.dtype)
        exported = export.export(jax.jit(partial(loss, variables)), platforms=["cpu", "cuda", "tpu"])(argument)
        assert "stablehlo.dot_general" in exported.mlir_module()
        assert "stablehlo.while" not in exported.mlir_module()
        np.testing.assert_allclose(exported.call(x), loss(variables, x), rtol=1e-2)
