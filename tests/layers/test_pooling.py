"""Pooling against its definition: one window after the other, cell by cell."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.layers import AdaptiveAvgPool, AvgPool, GlobalAvgPool, MaxPool

Pair = tuple[int, int]


def outputs(size: int, window: int, stride: int, sides: Pair, ceil_mode: bool) -> int:
    """How many windows there are along an axis, by torch's rule for `ceil_mode`."""
    room = size + sum(sides) - window
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    # A window that starts behind the image and the padding before it would see nothing.
    return count - 1 if (count - 1) * stride >= size + sides[0] else count


def windows(size: int, window: int, stride: int, sides: Pair, ceil_mode: bool):
    """For each output: the image's rows that its window sees, and how many rows of image and padding it covers."""
    before, after = sides
    for i in range(outputs(size, window, stride, sides, ceil_mode)):
        covered = [row for row in range(i * stride - before, i * stride - before + window) if row < size + after]
        yield [row for row in covered if 0 <= row < size], len(covered)


def pool(images, reduce, window: Pair, strides: Pair, sides, ceil_mode: bool):
    """`reduce(values, covered)` of each window: the image's values in it, `[m, C]`, and how many cells it covers."""
    along = [
        list(windows(n, k, s, p, ceil_mode))
        for n, k, s, p in zip(images.shape[1:3], window, strides, sides, strict=True)
    ]
    return np.array(
        [
            [
                [
                    reduce(np.array([image[y, x] for y in rows for x in columns]), high * wide)
                    for columns, wide in along[1]
                ]
                for rows, high in along[0]
            ]
            for image in images
        ]
    )


def largest(values, _):
    return values.max(0)


def mean_with_padding(values, covered):
    return values.sum(0) / covered


def mean_without_padding(values, _):
    return values.mean(0)


class Case(NamedTuple):
    """A layer's fields, and what they mean to the reference."""

    fields: dict
    shape: tuple[int, int, int, int]
    window: Pair
    strides: Pair
    sides: tuple[Pair, Pair]
    ceil_mode: bool


@st.composite
def cases(draw):
    window = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    if square := draw(st.booleans()):
        window = (window[0], window[0])
    strides = draw(st.none() | st.integers(1, 3) | st.tuples(st.integers(1, 5), st.integers(1, 5)))
    steps = window if strides is None else (strides, strides) if isinstance(strides, int) else strides
    # Padding must stay below the window.
    if draw(st.booleans()):
        padding = draw(st.integers(0, min(window) - 1))
        sides = ((padding, padding), (padding, padding))
    else:
        below = [st.integers(0, k - 1) for k in window]
        padding = sides = draw(st.tuples(st.tuples(below[0], below[0]), st.tuples(below[1], below[1])))
    least = [max(k - sum(p), 1) for k, p in zip(window, sides, strict=True)]
    size = [draw(st.integers(n, n + 6)) for n in least]
    ceil_mode = draw(st.booleans())
    fields = {
        "window_shape": window[0] if square else window,
        "strides": strides,
        "padding": padding,
        "ceil_mode": ceil_mode,
    }
    return Case(fields, (draw(st.integers(1, 2)), *size, 2), window, steps, sides, ceil_mode)


def reference(case: Case, x, reduce):
    return pool(x, reduce, case.window, case.strides, case.sides, case.ceil_mode)


@given(cases(), st.sampled_from(["float32", "int8", "uint8", "int32"]), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_max_pooling_takes_the_largest_value_of_each_window(case, dtype, seed):
    # Below zero where the type allows it, so that padding would win if it counted as zero.
    low, high = (0, 200) if dtype == "uint8" else (-100, -1)
    x = np.random.default_rng(seed).uniform(low, high, case.shape).astype(dtype)
    y = MaxPool(**case.fields)(jnp.asarray(x))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, reference(case, x, largest))


@given(cases(), st.booleans(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_average_pooling_takes_the_mean_of_each_window(case, count_include_pad, seed):
    x = np.random.default_rng(seed).normal(size=case.shape).astype(np.float32)
    y = AvgPool(**case.fields, count_include_pad=count_include_pad)(jnp.asarray(x))
    mean = mean_with_padding if count_include_pad else mean_without_padding
    np.testing.assert_allclose(y, reference(case, x.astype(np.float64), mean), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("layer", [MaxPool, AvgPool])
def test_number_of_outputs_for_every_small_geometry(layer, ceil_mode):
    seen = 0
    for size in range(1, 10):
        for window in range(1, 5):
            for stride in range(1, 6):
                for padding in range(window):
                    if size + 2 * padding < window - (stride - 1 if ceil_mode else 0):
                        continue
                    pooling = layer(window, stride, padding, ceil_mode)
                    rows = outputs(size, window, stride, (padding, padding), ceil_mode)
                    shape = jax.eval_shape(pooling, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)).shape
                    assert shape == (2, rows, rows, 3), (size, window, stride, padding)
                    seen += 1
    assert seen > 300


@pytest.mark.parametrize(
    ("size", "floor", "ceil"),
    [(112, 55, 56), (56, 27, 28), (28, 13, 14), (14, 6, 7)],  # GoogLeNet's pools are the ones rounded up
)
def test_ceil_mode_rounds_the_papers_sizes_up(size, floor, ceil):
    x = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    assert jax.eval_shape(MaxPool(3, 2), x).shape[1] == floor
    assert jax.eval_shape(MaxPool(3, 2, ceil_mode=True), x).shape[1] == ceil


def test_a_last_window_that_would_see_only_padding_is_left_out():
    # Three rows and one of padding on each side: windows of 2 start at rows -1, 1 and, if it counted, 3.
    x = jnp.arange(3.0).reshape(1, 3, 1, 1)
    y = MaxPool((2, 1), (2, 1), ((1, 1), (0, 0)), ceil_mode=True)(x)
    assert y.ravel().tolist() == [0.0, 2.0]
    y = MaxPool((2, 1), (4, 1), ((1, 1), (0, 0)), ceil_mode=True)(x)
    assert y.ravel().tolist() == [0.0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_padding_never_wins_over_negative_values(dtype):
    x = jnp.full((1, 2, 2, 1), -7, dtype)
    assert MaxPool(2, 1, 1)(x).ravel().tolist() == [-7.0] * 9


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_same_and_valid_padding(padding):
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype(np.float32)
    sides = ((1, 1), (0, 1)) if padding == "SAME" else ((0, 0), (0, 0))
    y = MaxPool(3, 2, padding)(jnp.asarray(x))
    np.testing.assert_array_equal(y, pool(x, largest, (3, 3), (2, 2), sides, False))


POOLS = [
    MaxPool(2),
    MaxPool(3, 2, 1),
    AvgPool(2),
    AvgPool(3, 2, 1, count_include_pad=False),
    GlobalAvgPool(),
    AdaptiveAvgPool(3),
]


@pytest.mark.parametrize("layer", POOLS, ids=repr)
def test_has_no_parameters(layer):
    assert not layer.init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))


@pytest.mark.parametrize("layer", POOLS, ids=repr)
def test_channels_are_kept_and_not_mixed(layer):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 6, 5)), jnp.float32)
    y = np.asarray(layer(x))
    assert y.shape[-1] == 5
    for channel in range(5):
        alone = np.asarray(layer(x[..., channel : channel + 1]))
        np.testing.assert_allclose(y[..., channel : channel + 1], alone, rtol=1e-6)


def test_gradient_of_a_maximum_reaches_only_the_largest_value():
    x = np.random.default_rng(2).permutation(64).reshape(1, 8, 8, 1).astype(np.float32)
    gradient = jax.grad(lambda x: MaxPool(2)(x).sum())(jnp.asarray(x))
    largest_of_block = x.reshape(4, 2, 4, 2).max((1, 3)).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(gradient[0, ..., 0], x[0, ..., 0] == largest_of_block)


def windows_of_xla(x, case: Case):
    """XLA's own windows, whose gradient is a select-and-scatter."""
    sides = [
        # What ceil_mode adds below is what the last window needs.
        (before, max((outputs(n, k, s, (before, after), case.ceil_mode) - 1) * s + k - before - n, after))
        for n, k, s, (before, after) in zip(x.shape[1:3], case.window, case.strides, case.sides, strict=True)
    ]
    return jax.lax.reduce_window(
        x,
        np.array(-np.inf, x.dtype),
        jax.lax.max,
        (1, *case.window, 1),
        (1, *case.strides, 1),
        ((0, 0), *sides, (0, 0)),
    )


@pytest.mark.slow
@given(cases(), st.sampled_from(["float32", "bfloat16"]), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20, derandomize=True)
def test_of_equal_values_the_first_gets_the_whole_gradient_as_xla_gives_it(case, dtype, values, seed):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.integers(-values, values, case.shape), dtype)  # few values: most windows have ties
    y, pull = jax.vjp(lambda x: MaxPool(**case.fields)(x), x)
    expected, pull_xla = jax.vjp(lambda x: windows_of_xla(x, case), x)
    np.testing.assert_array_equal(y, expected)
    g = jnp.asarray(rng.integers(1, 9, y.shape), dtype)  # sums of these are exact
    np.testing.assert_array_equal(pull(g)[0], pull_xla(g)[0])


@pytest.mark.parametrize("window", [1, 3, 8, 9, 12])
def test_windows_of_any_width_give_the_first_of_equals_the_gradient(window):
    x = jnp.zeros((1, 13, 13, 1))
    gradient = jax.grad(lambda x: MaxPool(window, 1)(x).sum())(x)[0, ..., 0]
    rows = 13 - window + 1
    assert gradient[:rows, :rows].tolist() == np.ones((rows, rows)).tolist()
    assert gradient.sum() == rows**2


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (2, 1)])
def test_what_is_not_a_number_wins(place):
    x = np.ones((1, 3, 3, 1), np.float32)
    x[0, place[0], place[1], 0] = np.nan
    y = np.asarray(MaxPool(2, 1)(jnp.asarray(x)))[0, ..., 0]
    sees = [[i <= place[0] <= i + 1 and j <= place[1] <= j + 1 for j in range(2)] for i in range(2)]
    np.testing.assert_array_equal(np.isnan(y), sees)
    assert (y[~np.array(sees)] == 1).all()


def test_derivatives_of_a_maximum_of_any_kind_agree():
    x = jax.random.normal(jax.random.key(0), (3, 7, 7, 2))
    pool = MaxPool(3, 2, 1)
    jax.test_util.check_grads(jax.jit(pool), (x[:1],), order=2, modes=("fwd", "rev"), atol=1e-2, rtol=1e-2)
    one_by_one = jnp.stack([jax.grad(lambda x: (pool(x[None]) ** 2).sum())(image) for image in x])
    np.testing.assert_array_equal(jax.vmap(jax.grad(lambda x: (pool(x[None]) ** 2).sum()))(x), one_by_one)


def test_gradient_of_a_mean_is_shared_by_its_window():
    gradient = jax.grad(lambda x: AvgPool(2)(x).sum())(jnp.ones((1, 6, 6, 2)))
    np.testing.assert_array_equal(gradient, np.full((1, 6, 6, 2), 0.25))


@pytest.mark.parametrize("window", [17, 32])
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_a_mean_of_many_narrow_values_does_not_round_them_away(window, count_include_pad):
    # Added in bfloat16, 256 + 1 is 256.
    x = jnp.ones((1, window + 1, window, 1), jnp.bfloat16)
    y = AvgPool(window, 1, ((0, 1), (0, 0)), count_include_pad=count_include_pad)(x)
    assert y.dtype == jnp.bfloat16
    assert y[:, :2].astype(jnp.float32).ravel().tolist() == [1.0, 1.0]


def test_a_mean_of_bytes_does_not_overflow():
    y = AvgPool(16)(jnp.full((1, 16, 16, 1), 200, jnp.uint8))
    assert y.dtype == jnp.float32
    assert y.item() == 200.0


@given(st.tuples(st.integers(1, 5), st.integers(1, 5)), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=15, derandomize=True)
def test_global_average_is_the_mean_of_each_whole_map(size, seed):
    x = np.random.default_rng(seed).normal(size=(2, *size, 3)).astype(np.float32)
    y = GlobalAvgPool()(jnp.asarray(x))
    expected = [[sum(image[..., c].ravel()) / (size[0] * size[1]) for c in range(3)] for image in x.astype(float)]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y, AvgPool(size)(jnp.asarray(x))[:, 0, 0], rtol=1e-5, atol=1e-6)


@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.integers(1, 8) | st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=15, derandomize=True)
def test_adaptive_average_is_the_mean_of_regions_that_cover_the_map(size, output_size, seed):
    x = np.random.default_rng(seed).normal(size=(2, *size, 3)).astype(np.float32)
    y = AdaptiveAvgPool(output_size)(jnp.asarray(x))
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    assert y.shape == (2, rows, columns, 3)
    for i, j in np.ndindex(rows, columns):
        top, left = math.floor(i * size[0] / rows), math.floor(j * size[1] / columns)
        bottom, right = math.ceil((i + 1) * size[0] / rows), math.ceil((j + 1) * size[1] / columns)
        region = x[:, top:bottom, left:right].astype(np.float64)
        np.testing.assert_allclose(y[:, i, j], region.mean((1, 2)), rtol=1e-5, atol=1e-6)
