"""Convolution against XLA's own convolution and its derivatives, in every form."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from unittest import mock

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxcnn
from jaxcnn import kernels
from jaxcnn.kernels import _primitive, native
from jaxcnn.kernels.convolution import Convolution, Geometry
from jaxcnn.layers import Conv
from jaxcnn.measure.case import natural_image_shape
from jaxcnn.models import list_models

needs_native = pytest.mark.skipif(not native.is_available(), reason="jaxcnn[cpu] is not installed")
FORMS = ["xla", pytest.param("native", marks=needs_native)]


@contextmanager
def selected(form: str) -> Iterator[None]:
    """Compute every convolution by XLA's operations or, however small, by the native library where it can."""
    with mock.patch("jaxcnn.kernels.convolution.LEAST_WORK", 0), kernels.use(form):
        _primitive._compiled.clear_cache()
        yield
    _primitive._compiled.clear_cache()


@pytest.fixture(params=FORMS)
def form(request):
    with selected(request.param):
        yield request.param


def plain(geometry: Geometry, x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=geometry.groups,
    )


def ours(geometry: Geometry, x, kernel):
    return kernels.conv(x, kernel, *geometry[2:])


def tensors(geometry: Geometry, dtype="float32", seed=0):
    """Image, kernel and a cotangent of the output; small whole numbers, so that bfloat16 holds the sums."""
    rng = np.random.default_rng(seed)
    shapes = (geometry.image, geometry.kernel, geometry.output)
    draw = rng.normal if dtype == "float32" else partial(rng.integers, -1, 2)
    return [jnp.asarray(draw(size=shape), dtype) for shape in shapes]


def output_and_gradients(function, geometry: Geometry, values):
    x, kernel, g = values

    @jax.jit
    def run(x, kernel, g):
        y, pull = jax.vjp(partial(function, geometry), x, kernel)
        return y, *pull(g)

    return run(x, kernel, g)


def assert_agree(actual, expected, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        # Relative to the largest: sums that cancel keep the rounding of their terms.
        assert np.abs(a - b).max(initial=0) <= tolerance * max(np.abs(b).max(initial=0), 1e-3)


@st.composite
def geometries(draw):
    two = st.tuples(st.integers(1, 3), st.integers(1, 3))
    window, strides, dilation = draw(st.tuples(st.integers(1, 5), st.integers(1, 4))), draw(two), draw(two)
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    padding = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(2))
    size = [draw(st.integers(max(r - sum(p), 1), r + 7)) for r, p in zip(reach, padding, strict=True)]
    groups = draw(st.sampled_from([1, 1, 2, 16]))
    inputs, features = (
        draw(st.integers(1, 17 if groups < 16 else 2)),
        groups * draw(st.integers(1, 17 if groups < 16 else 2)),
    )
    return Geometry(
        (draw(st.integers(1, 3)), *size, groups * inputs),
        (*window, inputs, features),
        strides,
        padding,
        dilation,
        groups,
    )


@given(geometry=geometries(), dtype=st.sampled_from(["float32", "bfloat16"]), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=12, derandomize=True)
@pytest.mark.parametrize("name", FORMS)
def test_agrees_with_xla_for_every_kernel_stride_padding_dilation_groups_and_dtype(name, geometry, dtype, seed):
    values = tensors(geometry, dtype, seed)
    with selected(name):
        assert_agree(
            output_and_gradients(ours, geometry, values),
            output_and_gradients(plain, geometry, values),
            1e-5 if dtype == "float32" else 2e-2,
        )


DEEPER = {
    "vgg*": ("vgg16", "vgg16_c"),
    "resnet*": ("resnet18", "resnet50", "resnet50_v1", "resnet20_cifar"),
    "plain*": ("plain20_cifar",),
    "preact*": ("preact_resnet18", "preact_resnet50", "preact_resnet110_cifar", "preact_resnet164_cifar"),
    "densenet*": ("densenet40_k12", "densenet_bc100_k12", "densenet121"),
    "resnext*": ("resnext50_32x4d",),
    "wide_resnet*_2": ("wide_resnet50_2",),
    "convnext*": ("convnext_tiny",),
    "regnet*": ("regnet_x_400mf", "regnet_y_400mf", "regnet_y_1_6gf"),
    "shufflenet*": ("shufflenet_v2_x1_0",),
    "mnasnet*": ("mnasnet1_0",),
    "efficientnet*": ("efficientnet_b0", "efficientnet_v2_s"),
}
"""Families whose deeper members repeat the shapes of these: same kernels and strides, other numbers of channels."""


@cache
def shapes_of_models() -> list[Geometry]:
    """Every different convolution of the registered models, of one small image: channels beyond 32 modulo 16."""
    repeated = {name for pattern, kept in DEEPER.items() for name in set(list_models(pattern)) - set(kept)}
    found = set()

    def note(x, kernel, strides, padding, dilation, groups, bias=None):
        def fewer(channels: int) -> int:
            return channels if channels <= 32 else 32 + channels % 16

        rows, columns = ((k - 1) * d + 1 + 2 * s for k, d, s in zip(kernel.shape, dilation, strides, strict=False))
        shrunk = min(groups, 8)
        inputs, features = fewer(kernel.shape[2]), shrunk * fewer(kernel.shape[3] // groups)
        found.add(
            Geometry(
                (2, rows, columns, shrunk * inputs),
                (*kernel.shape[:2], inputs, features),
                strides,
                padding,
                dilation,
                shrunk,
            )
        )
        return plain(Geometry(x.shape, kernel.shape, strides, padding, dilation, groups), x, kernel)

    with mock.patch.object(kernels, "conv", note):
        for name in sorted(set(list_models()) - repeated):
            model = jaxcnn.create_model(name)
            image = jax.ShapeDtypeStruct((1, *natural_image_shape(name)), jnp.float32)
            rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
            jax.eval_shape(partial(model.init, train=False), rngs, image)
    return sorted(found)


@pytest.mark.slow
def test_gradients_agree_for_every_convolution_of_the_registered_models(form):
    shapes = shapes_of_models()
    assert len(shapes) > 40
    assert {g.kernel[:2] for g in shapes} >= {(1, 1), (3, 3), (5, 5), (7, 7), (11, 11)}
    for geometry in shapes:
        values = tensors(geometry)
        assert_agree(output_and_gradients(ours, geometry, values), output_and_gradients(plain, geometry, values))


STRIDED = Geometry((2, 7, 6, 4), (3, 3, 2, 6), (2, 1), ((1, 0), (1, 1)), (1, 1), 2)


def test_derivatives_of_any_order_and_mode_agree_with_differences(form):
    x, kernel, _ = tensors(STRIDED)
    function = jax.jit(partial(ours, STRIDED))
    jax.test_util.check_grads(function, (x, kernel), order=2, modes=("fwd", "rev"), atol=2e-2, rtol=2e-2)


def test_a_hessian_is_xlas(form):
    x, kernel, _ = tensors(STRIDED)

    def hessian(function):
        return jax.jit(jax.hessian(lambda kernel: (function(STRIDED, x, kernel) ** 3).sum()))(kernel)

    assert_agree(hessian(ours), hessian(plain))


@pytest.mark.parametrize("axes", [(1, None), (None, 0), (0, 2)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_batched_over_images_kernels_or_both(form, axes, groups):
    geometry = STRIDED._replace(kernel=(3, 3, 4 // groups, 6), groups=groups)
    x, kernel, g = (jnp.stack([a, 2 * a, a - 1]) for a in tensors(geometry))
    arguments = [a if axis is not None else a[0] for a, axis in zip((x, kernel), axes, strict=True)]
    moved = [a if axis is None else jnp.moveaxis(a, 0, axis) for a, axis in zip(arguments, axes, strict=True)]
    function = jax.jit(
        jax.vmap(
            lambda x, kernel, g: [*output_and_gradients(ours, geometry, (x, kernel, g))],
            in_axes=(*axes, 0),
        )
    )
    one_by_one = [
        output_and_gradients(
            plain, geometry, [a if axis is None else a[i] for a, axis in zip(arguments, axes, strict=True)] + [g[i]]
        )
        for i in range(3)
    ]
    assert_agree(function(*moved, g), [jnp.stack(values) for values in zip(*one_by_one, strict=True)])


def layer_and_loss():
    layer = Conv(6, 3, 2, padding=1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    return variables, x, lambda variables, x: (layer.apply(variables, x) ** 2).sum()


def test_gradients_sharded_over_devices_are_those_of_one_device(form):
    variables, x, loss = layer_and_loss()
    with kernels.inlined():
        expected = jax.grad(loss)(variables, x)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))

    def summed(variables, x):
        return jax.lax.psum(jax.grad(loss)(variables, x), "batch")

    by_pmap = jax.pmap(summed, "batch", in_axes=(None, 0), devices=jax.devices()[:4])(variables, x[:, None])
    assert_agree(jax.tree.map(lambda a: a[3], by_pmap), expected)

    def total(variables, x):
        return jax.lax.psum(loss(variables, x), "batch")

    map_over = partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("batch")), out_specs=P())
    assert_agree(jax.jit(map_over(jax.grad(total)))(variables, x), expected)
    assert_agree(jax.jit(map_over(summed, check_vma=False))(variables, x), expected)

    def of_each(variables, x):
        return jax.vmap(jax.grad(loss), in_axes=(None, 0))(jax.lax.pcast(variables, "batch", to="varying"), x)

    each = jax.jit(partial(map_over, out_specs=P("batch"))(of_each))(variables, x[:, None])
    assert_agree(jax.tree.map(lambda a: a.sum(0), each), expected)

    split = jax.device_put(x, NamedSharding(mesh, P("batch")))
    everywhere = jax.device_put(variables, NamedSharding(mesh, P()))
    assert_agree(jax.jit(jax.grad(loss))(everywhere, split), expected)


def test_forms_are_traced_only_when_a_program_is_lowered():
    variables, x, loss = layer_and_loss()
    with mock.patch.object(Convolution, "_by_transposing", side_effect=AssertionError("traced")):
        program = jax.make_jaxpr(jax.grad(loss))(variables, x)
    # Forward, and the gradient of the kernel; the gradient of the image is not needed.
    assert [eqn.primitive for eqn in program.eqns].count(_primitive.kernel_p) == 2


@pytest.mark.parametrize("strategy", ["pmap", "shard_map"])
def test_one_process_may_use_one_mesh_after_another(form, strategy):
    """On other devices and other numbers of devices, each of which sees images of one shape."""
    variables, _, loss = layer_and_loss()
    for devices in (jax.devices()[:4], jax.devices()[4:6], jax.devices()[7:]):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(len(devices), 1, 8, 8, 3)), jnp.float32)
        expected = jax.jit(jax.grad(loss))(variables, x[:, 0])

        def summed(variables, x):
            return jax.lax.psum(jax.grad(loss)(variables, x), "batch")

        if strategy == "pmap":
            got = jax.tree.map(
                lambda a: a[0], jax.pmap(summed, "batch", in_axes=(None, 0), devices=devices)(variables, x)
            )
        else:
            mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
            specs = {"in_specs": (P(), P("batch")), "out_specs": P(), "check_vma": False}
            got = jax.jit(jax.shard_map(summed, mesh=mesh, **specs))(variables, x[:, 0])
        assert_agree(jax.device_get(got), jax.device_get(expected))


def test_recomputed_gradients_are_the_same(form):
    variables, x, loss = layer_and_loss()
    assert_agree(jax.jit(jax.grad(jax.checkpoint(loss)))(variables, x), jax.jit(jax.grad(loss))(variables, x))


def test_threads_may_call_at_once(form):
    variables, x, loss = layer_and_loss()
    gradient = jax.jit(jax.grad(loss))
    expected = [gradient(variables, x * i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert_agree(list(pool.map(lambda i: gradient(variables, x * i), range(8))), expected, tolerance=1e-6)


def test_an_exported_program_has_xlas_convolutions_and_runs_elsewhere(form):
    variables, x, loss = layer_and_loss()
    (batch,) = export.symbolic_shape("batch")
    for shape in (x.shape, (batch, *x.shape[1:])):
        argument = jax.ShapeDtypeStruct(shape, x.dtype)
        exported = export.export(jax.jit(partial(loss, variables)), platforms=["cpu", "cuda", "tpu"])(argument)
        assert "stablehlo.convolution" in exported.mlir_module()
        np.testing.assert_allclose(exported.call(x), loss(variables, x), rtol=1e-5)


@needs_native
def test_large_convolutions_run_natively_and_others_by_xla():
    def calls(layer, shape, dtype="float32"):
        x = jax.ShapeDtypeStruct(shape, dtype)
        variables = jax.eval_shape(layer.init, jax.random.key(0), x)

        def gradients(variables, x):
            return jax.grad(lambda v, x: layer.apply(v, x).sum(), argnums=(0, 1))(variables, x)

        return jax.jit(gradients).lower(variables, x).as_text().count("@jaxcnn_convolution")

    assert calls(Conv(64, 3, padding=1), (8, 32, 32, 64)) >= 2
    assert calls(Conv(64, 1, 2), (8, 32, 32, 64)) >= 2
    assert calls(Conv(64, 3, padding=1, dtype=jnp.bfloat16), (8, 32, 32, 64)) >= 2
    assert calls(Conv(64, 3, padding=1, dtype=jnp.float16), (8, 32, 32, 64)) == 0
    assert calls(Conv(4, 3, padding=1), (1, 8, 8, 4)) == 0
    assert calls(Conv(64, 3, padding=3), (8, 32, 32, 64)) == 0  # windows that lie wholly in the padding


def test_works_without_jit(form):
    variables, x, loss = layer_and_loss()
    expected = jax.jit(jax.grad(loss))(variables, x)
    with jax.disable_jit():
        assert_agree(jax.grad(loss)(variables, x), expected)


def test_works_where_rank_promotion_is_an_error(form):
    variables, x, loss = layer_and_loss()
    with jax.numpy_rank_promotion("raise"):
        jax.jit(jax.grad(loss))(variables, x)


def test_gpus_compute_the_two_gradients_together():
    """Or XLA for GPUs would compute the gradient of the kernel at the end, and keep both its operands until then."""
    variables, x, loss = layer_and_loss()

    def barriers(of, platform):
        lowered = jax.jit(jax.grad(loss, of)).trace(variables, x).lower(lowering_platforms=(platform,))
        return lowered.as_text().count("optimization_barrier")

    assert [barriers((0, 1), platform) for platform in ("cuda", "tpu")] == [2, 0]
    assert barriers(0, "cuda") == 0  # the image has no gradient
