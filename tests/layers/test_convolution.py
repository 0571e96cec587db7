"""Convolution against its definition: C_in x C_out two-dimensional sliding products, written as loops."""

from itertools import count
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.layers import Conv

Pair = tuple[int, int]


def sliding_product(image, kernel, strides: Pair, dilation: Pair):
    """`W * X` of one channel `[H, W]` and one kernel `[kH, kW]`; the image is padded already."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilation, strict=True)]
    rows, columns = (range(0, n - r + 1, s) for n, r, s in zip(image.shape, reach, strides, strict=True))
    out = np.zeros((len(rows), len(columns)))
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            seen = image[y : y + reach[0] : dilation[0], x : x + reach[1] : dilation[1]]
            out[i, j] = (seen * kernel).sum()
    return out


def convolution(images, kernel, bias, strides: Pair, sides, dilation: Pair, groups: int):
    """`Y_j = sum_i W_ij * X_i + b_j`, where `i` runs over the channels of j's group."""
    padded = np.pad(images.astype(np.float64), ((0, 0), *sides, (0, 0)))
    inputs, features = kernel.shape[2], kernel.shape[3]
    maps = []
    for j in range(features):
        first = j // (features // groups) * inputs
        maps.append(
            [
                bias[j]
                + sum(sliding_product(x[..., first + i], kernel[..., i, j], strides, dilation) for i in range(inputs))
                for x in padded
            ]
        )
    return np.moveaxis(np.array(maps), 0, -1)


def same_padding(size: int, reach: int, stride: int) -> Pair:
    """The fewest rows of padding that give ceil(size / stride) outputs; an odd one goes behind."""
    total = next(p for p in count() if (size + p - reach) // stride + 1 >= -(-size // stride))
    return total // 2, total - total // 2


class Case(NamedTuple):
    """A layer's fields, and what they mean to the reference."""

    fields: dict
    shape: tuple[int, int, int, int]
    strides: Pair
    sides: tuple[Pair, Pair]
    dilation: Pair
    groups: int


def one_or_two(draw, low: int, high: int):
    """A field given as one number or as two, and the two numbers that it stands for."""
    value = draw(st.integers(low, high) | st.tuples(st.integers(low, high), st.integers(low, high)))
    return value, (value, value) if isinstance(value, int) else value


@st.composite
def cases(draw, max_groups: int = 3):
    kernel_size, kernel = one_or_two(draw, 1, 4)
    strides, steps = one_or_two(draw, 1, 3)
    kernel_dilation, dilation = one_or_two(draw, 1, 2)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]

    kind = draw(st.sampled_from(["number", "two", "four", "SAME", "VALID"]))
    if kind in ("SAME", "VALID"):
        padding, sides = kind, ((0, 0), (0, 0))
    elif kind == "four":
        padding = sides = draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2))
    else:
        padding = draw(st.integers(0, 2) if kind == "number" else st.tuples(st.integers(0, 2), st.integers(0, 2)))
        both = (padding, padding) if isinstance(padding, int) else padding
        sides = ((both[0], both[0]), (both[1], both[1]))
    fits = [1 if kind == "SAME" else max(r - sum(p), 1) for r, p in zip(reach, sides, strict=True)]
    size = [draw(st.integers(least, least + 5)) for least in fits]
    if kind == "SAME":
        sides = tuple(same_padding(n, r, s) for n, r, s in zip(size, reach, steps, strict=True))

    groups = draw(st.integers(1, max_groups))
    channels, features = (groups * draw(st.integers(1, 2)) for _ in range(2))
    fields = {
        "features": features,
        "kernel_size": kernel_size,
        "strides": strides,
        "padding": padding,
        "kernel_dilation": kernel_dilation,
        "feature_group_count": groups,
        "use_bias": draw(st.booleans()),
    }
    return Case(fields, (draw(st.integers(1, 2)), *size, channels), steps, sides, dilation, groups)


def parameters(layer: Conv, shape, rng: np.random.Generator):
    """Random parameters, the bias included (a layer starts with zeros there)."""
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros(shape))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def kernel_and_bias(variables):
    kernel = variables["params"]["kernel"].astype(np.float64)
    return kernel, variables["params"].get("bias", np.zeros(kernel.shape[-1]))


@given(cases(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_is_the_sum_of_two_dimensional_convolutions(case, seed):
    rng = np.random.default_rng(seed)
    layer, x = Conv(**case.fields), rng.normal(size=case.shape).astype(np.float32)
    variables = parameters(layer, case.shape, rng)
    expected = convolution(x, *kernel_and_bias(variables), case.strides, case.sides, case.dilation, case.groups)
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-5, atol=1e-5)


@given(cases(max_groups=1), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=15, derandomize=True)
def test_gradient_spreads_each_output_back_over_what_it_saw(case, seed):
    rng = np.random.default_rng(seed)
    layer, x = Conv(**case.fields), rng.normal(size=case.shape).astype(np.float32)
    variables = parameters(layer, case.shape, rng)
    y, pull_back = jax.vjp(layer.apply, variables, x)
    g = rng.normal(size=y.shape).astype(np.float32)
    into_parameters, into_images = pull_back(jnp.asarray(g))

    kernel, _ = kernel_and_bias(variables)
    padded = np.pad(x.astype(np.float64), ((0, 0), *case.sides, (0, 0)))
    kernel_gradient, padded_gradient = np.zeros_like(kernel), np.zeros_like(padded)
    for n, i, j in np.ndindex(y.shape[:3]):
        for u, v in np.ndindex(kernel.shape[:2]):
            row = i * case.strides[0] + u * case.dilation[0]
            column = j * case.strides[1] + v * case.dilation[1]
            kernel_gradient[u, v] += np.outer(padded[n, row, column], g[n, i, j])
            padded_gradient[n, row, column] += kernel[u, v] @ g[n, i, j]
    (top, _), (left, _) = case.sides
    image_gradient = padded_gradient[:, top : top + x.shape[1], left : left + x.shape[2]]
    np.testing.assert_allclose(into_images, image_gradient, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(into_parameters["params"]["kernel"], kernel_gradient, rtol=1e-4, atol=1e-4)
    if "bias" in into_parameters["params"]:
        np.testing.assert_allclose(into_parameters["params"]["bias"], g.sum((0, 1, 2)), rtol=1e-4, atol=1e-4)


def output_shape(layer: Conv, shape):
    return jax.eval_shape(lambda x: layer.init_with_output(jax.random.key(0), x)[0], jnp.zeros(shape)).shape


@given(
    size=st.integers(1, 40),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    padding=st.integers(0, 5),
    dilation=st.integers(1, 3),
)
@settings(deadline=None, max_examples=30, derandomize=True)
def test_output_has_the_rows_that_the_formula_says(size, kernel, stride, padding, dilation):
    size = max(size, dilation * (kernel - 1) + 1 - 2 * padding)
    rows = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    layer = Conv(4, kernel, stride, padding, dilation)
    assert output_shape(layer, (2, size, size + stride, 3)) == (2, rows, rows + 1, 4)


@given(size=st.integers(1, 40), kernel=st.integers(1, 7), stride=st.integers(1, 4), dilation=st.integers(1, 3))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_same_padding_leaves_one_output_a_stride(size, kernel, stride, dilation):
    outputs = -(-size // stride)
    assert output_shape(Conv(1, kernel, stride, "SAME", dilation), (1, size, size, 1)) == (1, outputs, outputs, 1)


@pytest.mark.parametrize("n", range(4))
@pytest.mark.parametrize("size", [1, 7, 28])
def test_a_kernel_of_2n_plus_1_keeps_the_size_with_padding_n(n, size):
    assert output_shape(Conv(2, 2 * n + 1, padding=n), (1, size, size + 1, 3)) == (1, size, size + 1, 2)
    if n:  # a ring of zeros less costs a ring of the image
        smaller = output_shape(Conv(2, 2 * n + 1, padding=n - 1), (1, size + 2, size + 2, 3))
        assert smaller == (1, size, size, 2)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("moved", [(0, 1), (2, 0), (1, 2)])
def test_a_moved_image_gives_a_moved_feature_map(stride, moved):
    rng = np.random.default_rng(0)
    thing = rng.normal(size=(4, 4, 2))
    here, there = np.zeros((2, 1, 18, 18, 2), np.float32)
    down, right = (3 + stride * m for m in moved)
    here[0, 3:7, 3:7] = thing
    there[0, down : down + 4, right : right + 4] = thing
    layer = Conv(3, 3, stride, padding=1, use_bias=False)
    variables = parameters(layer, here.shape, rng)
    expected = np.roll(layer.apply(variables, here), moved, axis=(1, 2))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(layer.apply(variables, there), expected, atol=1e-5)


@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(-3, 3))
@settings(deadline=None, max_examples=20, derandomize=True)
def test_is_linear_in_the_image_and_in_the_kernel(seed, a, b):
    rng = np.random.default_rng(seed)
    layer = Conv(4, 3, 2, padding=1, use_bias=False)
    x, y = rng.normal(size=(2, 1, 7, 6, 3)).astype(np.float32)
    v, w = (parameters(layer, x.shape, rng) for _ in range(2))
    np.testing.assert_allclose(
        layer.apply(v, np.float32(a) * x + np.float32(b) * y),
        a * layer.apply(v, x) + b * layer.apply(v, y),
        atol=1e-4,
    )
    mixed = jax.tree.map(lambda p, q: np.float32(a) * p + np.float32(b) * q, v, w)
    np.testing.assert_allclose(layer.apply(mixed, x), a * layer.apply(v, x) + b * layer.apply(w, x), atol=1e-4)


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_groups_do_not_see_each_other(groups):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, 5, 5, 6)).astype(np.float32)
    layer = Conv(12, 3, feature_group_count=groups)
    variables = parameters(layer, x.shape, rng)
    assert variables["params"]["kernel"].shape == (3, 3, 6 // groups, 12)
    before = np.asarray(layer.apply(variables, x))
    changed = x.copy()
    changed[..., 0] += 1  # a channel of the first group
    differs = (before != np.asarray(layer.apply(variables, changed))).any((0, 1, 2))
    np.testing.assert_array_equal(differs, np.arange(12) < 12 // groups)


def test_depthwise_convolves_each_channel_by_itself():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, 6, 6, 4)).astype(np.float32)
    layer = Conv(4, 3, feature_group_count=4, use_bias=False)
    variables = parameters(layer, x.shape, rng)
    kernel = variables["params"]["kernel"]
    maps = [sliding_product(x[0, ..., c], kernel[..., 0, c], (1, 1), (1, 1)) for c in range(4)]
    np.testing.assert_allclose(layer.apply(variables, x)[0], np.stack(maps, -1), atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
def test_parameters_do_not_depend_on_the_size_of_the_image(use_bias):
    layer = Conv(8, (3, 5), use_bias=use_bias)
    small, large = (jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, size, size, 3))) for size in (5, 50))
    assert small == large
    shapes = {name: leaf.shape for name, leaf in small["params"].items()}
    assert shapes == {"kernel": (3, 5, 3, 8)} | ({"bias": (8,)} if use_bias else {})


def test_computes_in_bfloat16_with_parameters_in_float32():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 6, 6, 3)).astype(np.float32)
    wide, narrow = Conv(4, 3), Conv(4, 3, dtype=jnp.bfloat16)
    y, variables = narrow.init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(y.astype(np.float32), wide.apply(variables, x), atol=0.05)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.uint8])
def test_without_a_dtype_images_are_widened_to_the_parameters(dtype):
    x = jnp.asarray(np.random.default_rng(4).integers(0, 255, (1, 5, 5, 2))).astype(dtype)
    layer = Conv(3, 3)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, layer.apply(variables, x.astype(jnp.float32)))


def test_sizes_may_be_numpy_integers_and_lists():
    x = jnp.ones((1, 9, 9, 2))
    plain = Conv(3, (3, 2), (2, 1), ((1, 0), (0, 1)))
    other = Conv(np.int64(3), [np.int32(3), 2], [2, np.int64(1)], [[1, np.int64(0)], (0, 1)])
    variables = plain.init(jax.random.key(0), x)
    np.testing.assert_array_equal(plain.apply(variables, x), other.apply(variables, x))


def test_a_kernel_of_another_shape_is_refused_and_the_initializer_is_not_asked_for_the_right_one():
    asked = []

    def initializer(key, shape, dtype):
        asked.append(shape)
        return jnp.ones(shape, dtype)

    conv, x = Conv(3, 3, kernel_init=initializer), jnp.ones((1, 5, 5, 2))
    variables = conv.init(jax.random.key(0), x)
    assert asked == [(3, 3, 2, 3)]
    np.testing.assert_array_equal(variables["params"]["kernel"], 1)
    conv.apply(variables, x)
    with pytest.raises(flax.errors.ScopeParamShapeError, match="kernel"):
        Conv(3, 5, kernel_init=initializer).apply(variables, x)
    assert asked == [(3, 3, 2, 3)]
    # A parameter that is not there yet gets the initializer's values whenever it comes to be.
    _, made = conv.apply({}, x, rngs={"params": jax.random.key(0)}, mutable=["params"])
    np.testing.assert_array_equal(made["params"]["kernel"], 1)
