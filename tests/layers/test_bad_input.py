"""What makes no sense is refused in one line that says what is wrong."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    GlobalAvgPool,
    LocalResponseNorm,
    MaxPool,
    Residual,
    Sequential,
    ZeroPadShortcut,
)

IMAGE = (1, 6, 8, 4)


def refuse(layer, shape, message, **keywords):
    with pytest.raises(UsageError) as error:
        jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, **keywords), jnp.zeros(shape))
    # Not by `match`, which would search the notes that JAX adds to an error, too.
    assert "\n" not in str(error.value)
    assert re.search(message, str(error.value)), str(error.value)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "3", None, (3, 0), (-1, 3), (3, 2.5), (3,), (3, 3, 3)], ids=repr)
@pytest.mark.parametrize(
    ("field", "layer"),
    [
        ("kernel_size", lambda bad: Conv(2, bad)),
        ("strides", lambda bad: Conv(2, 3, strides=bad)),
        ("kernel_dilation", lambda bad: Conv(2, 3, kernel_dilation=bad)),
        ("window_shape", MaxPool),
        ("window_shape", AvgPool),
        ("strides", lambda bad: MaxPool(2, bad if bad is not None else 0)),  # None is the window's size there
        ("strides", lambda bad: AvgPool(2, bad if bad is not None else 0)),
        ("output_size", AdaptiveAvgPool),
        ("strides", lambda bad: ZeroPadShortcut(4, bad)),
    ],
)
def test_sizes_that_are_not_positive(field, layer, bad):
    refuse(layer(bad), IMAGE, f"^invalid {field}: .* Use one positive integer for height and width, or two")


@pytest.mark.parametrize("bad", [0, -3, 2.0, None])
@pytest.mark.parametrize("layer", [lambda bad: Conv(bad, 3), Dense, LocalResponseNorm])
def test_numbers_of_channels_that_are_not_positive(layer, bad):
    refuse(layer(bad), IMAGE, f"needs a whole number of .*, at least 1, got .*={bad}$")


@pytest.mark.parametrize(("groups", "features"), [(0, 4), (-2, 4), (3, 6), (4, 6), (8, 8), (2.0, 4), (None, 4)])
def test_groups_that_do_not_divide_the_channels(groups, features):
    message = f"feature_group_count must .* divides the input's 4 channels and the output's {features}, got {groups}"
    refuse(Conv(features, 1, feature_group_count=groups), IMAGE, message)


@pytest.mark.parametrize("bad", ["same", -1, (1, -1), 1.5, ((1, 1), (1, -1)), (1, 1, 1), ((1, 1, 1), (1, 1)), None])
@pytest.mark.parametrize("layer", [lambda bad: Conv(2, 3, padding=bad), lambda bad: MaxPool(3, padding=bad)])
def test_padding_that_is_none(layer, bad):
    refuse(layer(bad), IMAGE, "^invalid padding: .* Use 'SAME', 'VALID', an integer")


@pytest.mark.parametrize("layer", [MaxPool, AvgPool])
@pytest.mark.parametrize("padding", [2, (0, 2), ((0, 3), (0, 0))])
def test_padding_as_large_as_the_window(layer, padding):
    refuse(layer(2, 2, padding), IMAGE, f"^{layer.__name__} padding .* must be smaller than its window")


@pytest.mark.parametrize(
    ("layer", "least"),
    [
        (Conv(2, 7), "7x7"),
        (Conv(2, (2, 9)), "2x9"),
        (Conv(2, 4, kernel_dilation=2), "7x7"),
        (Conv(2, 11, padding=1), "9x9"),
        (Conv(2, (9, 3), padding=((1, 1), (0, 0))), "7x3"),
        (MaxPool(7), "7x7"),
        (AvgPool((2, 9), 1), "2x9"),
        (MaxPool(9, 1, 1, ceil_mode=True), "7x7"),
        (MaxPool(9, 3, ceil_mode=True), "7x7"),
    ],
)
def test_an_image_too_small(layer, least):
    refuse(layer, IMAGE, rf"^image too small: 6x8\. .* at least {least}\.$")
    height, width = map(int, least.split("x"))
    jax.eval_shape(
        layer.init, jax.random.key(0), jnp.zeros((1, height, width, 4))
    )  # what the message says is enough, is


@pytest.mark.parametrize("shape", [(4,), (6, 8, 4), (1, 1, 6, 8, 4)])
@pytest.mark.parametrize("layer", [Conv(2, 1), MaxPool(1), AvgPool(1), AdaptiveAvgPool(1), GlobalAvgPool()])
def test_what_is_no_image(layer, shape):
    refuse(layer, shape, rf"^{type(layer).__name__} needs .*\[N, H, W, C\], got shape \[")


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "fields", [{"momentum": -0.1}, {"momentum": 1.1}, {"momentum": float("nan")}, {"epsilon": -1e-5}], ids=repr
)
def test_a_momentum_or_an_epsilon_that_is_none(fields, train):
    refuse(BatchNorm(**fields), IMAGE, "^BatchNorm needs a momentum in .* and an epsilon", train=train)


def test_joints_that_do_not_fit():
    refuse(Residual(Conv(4, 3)), IMAGE, r"^Residual cannot add .*\[1, 4, 6, 4\].*\[1, 6, 8, 4\]")
    refuse(
        ZeroPadShortcut(3),
        IMAGE,
        "^ZeroPadShortcut cannot reduce the number of channels: from 4 to 3. Use features >= 4.$",
    )
    refuse(Concat([]), IMAGE, "^Concat needs at least one branch")
    refuse(
        Concat([Conv(2, 1), Conv(2, 3)]), IMAGE, r"^Concat cannot join outputs of shapes \[1, 6, 8, 2\], \[1, 4, 6, 2\]"
    )
    refuse(Sequential([Conv(2, 3), Conv(2, 5)]), IMAGE, r"^image too small: 4x6\. .* at least 5x5\.$")
