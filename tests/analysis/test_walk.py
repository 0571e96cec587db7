"""Receptive fields along a walk over a program, against the gradients of the program."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn
from jaxcnn.analysis import summarize
from jaxcnn.layers import (
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    GlobalAvgPool,
    Residual,
    Sequential,
    ZeroPadShortcut,
)


def conv(x: jax.Array, size: int, stride: int = 1, padding="SAME", **options) -> jax.Array:
    """A convolution as plain JAX, with positive weights."""
    kernel = jnp.ones((size, size, x.shape[-1] // options.get("feature_group_count", 1), x.shape[-1]))
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=numbers, **options)


def seen(fn: Callable, shape=(64, 64, 2)) -> tuple:
    """Receptive field and stride of a function's output, which a last 1x1 convolution makes a row."""
    row = summarize(lambda x: conv(fn(x), 1), shape).rows[-1]
    return row.receptive_field, row.stride


def measured(fn: Callable, shape: tuple[int, ...], seed: int = 0) -> tuple[int, int]:
    """Height and width of the pixels that have a gradient on the unit in the middle of `fn`'s output."""
    x = jax.random.uniform(jax.random.key(seed), (1, *shape), minval=0.5, maxval=1.5)
    with jax.default_matmul_precision("highest"):  # by plain sums, in which what adds nothing is 0 to the last digit
        y, pull = jax.vjp(fn, x)
        middle = (0, *(n // 2 for n in y.shape[1:-1]))
        (gradient,) = pull(jnp.zeros_like(y).at[middle].set(1.0))
    rows, columns = (np.flatnonzero(np.abs(gradient).sum((0, axis, 3))) for axis in (2, 1))
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def positive(model: nn.Module, shape: tuple[int, ...], **mode) -> Callable:
    """The model as a function, with positive parameters, so that no two paths cancel and no unit is cut off."""
    variables = model.init(jax.random.key(0), jnp.ones((1, *shape)), **mode)
    variables = {**variables, "params": jax.tree.map(lambda p: jnp.abs(p) + 1e-3, variables["params"])}
    return lambda x: model.apply(variables, x, **mode)


NETS = {
    "residual": (
        [Conv(4, 3, padding=1), Residual(Sequential([Conv(4, 3, padding=1), nn.relu, Conv(4, 3, padding=1)]))],
        (41, 37, 2),
    ),
    "residual_stride": (
        [Residual(Conv(8, 3, 2, padding=1), ZeroPadShortcut(8, 2)), BatchNorm(), Conv(4, 3, padding=1)],
        (41, 37, 2),
    ),
    "branches": (
        [
            Concat([Conv(2, 1), Conv(2, 5, padding=2), Sequential([AvgPool(3, 1, 1), Conv(2, 3, padding=1)])]),
            Conv(2, 3),
        ],
        (31, 31, 2),
    ),
    "dilated": ([Conv(2, 3, kernel_dilation=d, padding=d) for d in (1, 2, 4)], (41, 41, 1)),
    "pooling": ([Conv(2, (5, 3)), AvgPool((2, 3)), Conv(2, 3), AvgPool(3, strides=2)], (61, 61, 1)),
    "asymmetric_padding": ([Conv(2, 3, 2, padding="SAME"), Conv(2, 4, padding="SAME")], (32, 32, 1)),
}


SLOW = ("residual_stride", "branches")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NETS])
def test_fields_are_those_that_gradients_measure(name):
    layers, shape = NETS[name]
    net = Sequential(layers)
    field = measured(positive(net, shape, train=False), shape)
    # What joins or moves outside of a leaf shows in the row behind it.
    assert summarize(Sequential([*layers, Conv(1, 1)]), shape).rows[-1].receptive_field == field


@pytest.mark.parametrize(
    ("name", "shape"),
    [pytest.param("resnet20_cifar", (32, 32, 3), marks=pytest.mark.slow), ("lenet5", (28, 28, 1))],
)
def test_models_logits_see_the_whole_image(name, shape):
    model = jaxcnn.create_model(name)
    run = positive(model, shape, train=False)
    summary = summarize(model, shape)
    assert measured(lambda x: run(x)[:, None, None, :], shape) == shape[:2] == summary.rows[-1].receptive_field
    assert summary.params == {"resnet20_cifar": 269_722, "lenet5": 61_706}[name]


@pytest.mark.slow
def test_resnet20_feature_maps_see_what_gradients_measure():
    model, size = jaxcnn.create_model("resnet20_cifar"), 159  # larger than any field, so that no border cuts it off
    shape = (size, size, 3)
    maps: list[jax.Array] = []

    def keep(call, args, kwargs, context):
        if isinstance(context.module, GlobalAvgPool) and context.method_name == "__call__":
            maps.append(args[0])
        return call(*args, **kwargs)

    run = positive(model, shape, train=False)

    def last_map(x):
        with nn.intercept_methods(keep):
            run(x)
        return maps.pop()

    row = next(row for row in reversed(summarize(model, shape).rows) if row.kind == "BatchNorm")
    assert row.receptive_field == measured(last_map, shape)


def upsampled(x, times):
    n, h, w, c = x.shape
    shape = (n, h, times, w, times, c)
    return jnp.broadcast_to(x[:, :, None, :, None], shape).reshape(n, h * times, w * times, c)


FUNCTIONS: dict[str, Callable] = {
    "conv": lambda x: conv(conv(x, 3, 2), 5),
    "grouped": lambda x: conv(x, 3, feature_group_count=2),
    "max_of_slices": lambda x: sum(x[:, i : 60 + i : 2, j : 60 + j : 2] for i in range(3) for j in range(2)),
    "transposed": lambda x: conv(x.transpose(0, 2, 1, 3), 3, rhs_dilation=(1, 2)).transpose(0, 2, 1, 3),
    "space_to_depth": lambda x: conv(x.reshape(1, 16, 4, 32, 2, 2).sum((2, 4)), 3),
    "jit_and_remat": lambda x: jax.jit(jax.remat(lambda y: conv(jax.nn.relu(y), 3)))(conv(x, 3)),
    "scan": lambda x: jax.lax.scan(lambda y, _: (conv(y, 3) + y, None), x, length=4)[0],
    "scan_over_branches": lambda x: jax.lax.scan(lambda s, y: (s + conv(y, 3), s), 0 * x, jnp.stack([x, 2 * x]))[0],
    "scan_stacks": lambda x: jax.lax.scan(lambda y, _: (conv(y, 3), y), x, length=3)[1].sum(0),
    "vmap": lambda x: jax.vmap(lambda image: conv(image[None], 5)[0])(x),
    "cond": lambda x: jax.lax.cond(True, lambda y: conv(y, 3), lambda y: conv(y, 5) * 0 + y, x),
    "upsampled": lambda x: conv(upsampled(x, 2), 3),
    "upsampled_and_back": lambda x: conv(conv(upsampled(conv(x, 3, 2), 2), 3), 3, 2),
    "deconvolved": lambda x: conv(conv(x, 4, padding=[(2, 2), (2, 2)], lhs_dilation=(2, 2)), 3),
    "concatenated": lambda x: jnp.concatenate([conv(x, 3), x, conv(x, 7)], axis=-1),
    "split": lambda x: conv(jnp.split(x, 2, axis=1)[1], 3),
    "channel_dot": lambda x: jnp.einsum("nhwc,cd->nhwd", conv(x, 3), jnp.ones((2, 3))),
    "reversed_channels": lambda x: conv(x[..., ::-1], 3),
    "permuted_channels": lambda x: conv(x[..., jnp.array([1, 0])], 3),
    "padded": lambda x: conv(jnp.pad(x, ((0, 0), (3, 1), (2, 5), (0, 0)))[:, 2:-1], 3, padding="VALID"),
    "gelu": lambda x: jax.nn.gelu(conv(x, 3)) * jax.nn.sigmoid(x) + jnp.where(x > 0, x, 0.1 * x),
}


# Where the outline is larger than need be: either branch may be taken; an interval of the doubled map loses its phase.
LOOSE = {"cond": (5, 5), "upsampled_and_back": (8, 8)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_plain_functions_have_fields_that_contain_what_gradients_measure(name):
    shape = (64, 64, 2)
    field, stride = seen(FUNCTIONS[name], shape)
    lower = np.max([measured(lambda x, by=by: FUNCTIONS[name](x)[:, by:, by:], shape) for by in (0, 1, 3)], axis=0)
    assert stride is not None
    if name in LOOSE:
        assert field == LOOSE[name]
        assert field >= tuple(lower)
    else:
        assert field == tuple(lower)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x * x.mean((1, 2), keepdims=True),  # a squeeze and excitation
        lambda x: jnp.fft.fft2(x, axes=(1, 2)).real,
        lambda x: jnp.einsum("nhwc,hk->nkwc", x, jnp.ones((64, 64))).swapaxes(1, 2) + x,
        lambda x: x.reshape(1, -1)[:, ::-1].reshape(x.shape),
        lambda x: x + jnp.cumsum(jnp.cumsum(x, 1), 2),
        lambda x: jnp.sort(jnp.sort(x, 1), 2),
        lambda x: jax.lax.while_loop(lambda y: y.sum() < 0, lambda y: conv(y, 3), x),
        lambda x: jax.lax.cond(x.sum() > 0, lambda y: conv(y, 3), lambda y: y, x),
        lambda x: jnp.roll(x, 3, axis=(1, 2)) + x,
        lambda x: x[:, ::2, ::2] + x[:, :32, :32],
        lambda x: jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
        lambda x: jax.image.resize(x, (1, 32, 32, 2), "linear"),
    ],
)
def test_what_mixes_everything_or_is_unknown_sees_the_whole_image(mix):
    field, stride = seen(mix)
    assert stride is None or field >= (64, 64)
    assert field >= (64, 64)


def test_a_mutable_array_hides_nothing():
    def through_a_reference(x):
        box = jax.new_ref(jnp.zeros_like(x))
        box[...] = x
        return box[...]

    assert seen(through_a_reference) == ((64, 64), None)


def test_what_does_not_depend_on_the_image_has_no_field():
    def function(x):
        return x + jnp.ones((4, 4)) @ jnp.ones((4, 4))

    summary = summarize(function, (4, 4, 1))
    assert summary.macs == 64
    assert summary.rows == ()
