"""What `jaxcnn.analysis` reads off a jaxpr, against counts by hand, published figures and measured gradients."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import jaxcnn
from jaxcnn.analysis import Row, Summary, summarize
from jaxcnn.analysis.walk import SCAN_STEPS
from jaxcnn.errors import UsageError
from jaxcnn.layers import (
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    MaxPool,
    ReLU,
    Sequential,
)


def conv(x: jax.Array, size: int, stride: int = 1, padding="SAME", **options) -> jax.Array:
    """A convolution as plain JAX, with positive weights."""
    kernel = jnp.ones((size, size, x.shape[-1] // options.get("feature_group_count", 1), x.shape[-1]))
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=numbers, **options)


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (Conv(6, 5), 6 * 6 * 6 * 25 * 4),
        (Conv(6, 5, padding=2), 10 * 10 * 6 * 25 * 4),
        (Conv(6, (3, 1), strides=(2, 3)), 4 * 4 * 6 * 3 * 4),
        (Conv(6, 3, kernel_dilation=2), 6 * 6 * 6 * 9 * 4),
        (Conv(6, 3, feature_group_count=2), 8 * 8 * 6 * 9 * 2),
        (Conv(8, 3, feature_group_count=4), 8 * 8 * 8 * 9 * 1),
        (Dense(7), 10 * 10 * 4 * 7),
    ],
)
def test_macs_by_hand_for_one_image_of_a_batch(layer, macs):
    for batch in (1, 5):
        summary = summarize(layer, (batch, 10, 10, 4))
        assert summary.macs == macs
        assert [row.macs for row in summary.rows] == [macs]


def brute_force_taps(size, kernel, stride, padding, dilation, base_dilation=1):
    """Taps of a one-dimensional convolution that fall on a pixel."""
    padded = (
        [0] * padding + [int(i % base_dilation == 0) for i in range((size - 1) * base_dilation + 1)] + [0] * padding
    )
    reach = (kernel - 1) * dilation
    return sum(padded[i + j * dilation] for i in range(0, len(padded) - reach, stride) for j in range(kernel))


@pytest.mark.parametrize("kernel", [1, 3, 4])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (1, 2, 1), (2, 1, 1), (1, 3, 2), (3, 2, 2)])
def test_macs_without_padding_count_taps_on_pixels(kernel, stride, padding, dilation):
    layer = Conv(3, kernel, stride, padding, dilation)
    rows, columns = (brute_force_taps(size, kernel, stride, padding, dilation) for size in (9, 11))
    assert summarize(layer, (9, 11, 2), count_padding=False).macs == rows * columns * 2 * 3


def test_macs_of_a_transposed_convolution_leave_out_the_holes():
    def up(x):
        return conv(x, 4, padding=[(2, 2), (2, 2)], lhs_dilation=(2, 2))

    taps = brute_force_taps(8, 4, 1, 2, 1, base_dilation=2)
    assert summarize(up, (8, 8, 1), count_padding=False).macs == taps**2
    assert summarize(up, (8, 8, 1)).macs == (16 * 2) ** 2  # every unit has two of four taps on a pixel, or beyond
    assert summarize(up, (8, 8, 1)).rows[0].stride == (0.5, 0.5)


class Parent(nn.Module):
    """A convolution, a sum and a dot product of its own, none of them a module."""

    @nn.compact
    def __call__(self, x):
        block = Sequential([Conv(4, 3, padding=1, name="inner"), ReLU()], name="block")
        y = block(x) + conv(x, 5)
        y = Conv(4, 1, name="shared_with_nobody")(y)
        return jnp.einsum("nhwc,cd->nhwd", y, jnp.ones((4, 3)))


def test_rows_are_calls_of_leaf_modules_and_macs_are_all_of_them():
    summary = summarize(Parent(), (2, 8, 8, 4))
    assert [(row.name, row.kind) for row in summary.rows] == [
        ("inner", "Conv"),
        ("ReLU_0", "ReLU"),
        ("shared_with_nobody", "Conv"),
    ]
    first, relu, last = summary.rows
    assert first == Row("inner", "Conv", (2, 8, 8, 4), 9 * 16 + 4, 64 * 9 * 16, (3, 3), (1, 1))
    assert relu.macs == relu.params == 0
    assert last.receptive_field == (5, 5)  # the sum with the parent's own convolution
    assert last.macs == 64 * 16
    assert summary.macs == 64 * (9 * 16 + 25 * 16 + 16 + 12)
    assert summary.params == sum(row.params for row in summary.rows)
    assert summary.activation_bytes == 3 * 2 * 64 * 4 * 4


class Shared(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = Conv(2, 3, padding=1, name="layer")
        return layer(layer(x))


def test_a_shared_layer_is_a_row_a_call_with_parameters_counted_once():
    summary = summarize(Shared(), (8, 8, 2))
    assert [row.name for row in summary.rows] == ["layer", "layer"]
    assert [row.params for row in summary.rows] == [38, 0]
    assert [row.receptive_field for row in summary.rows] == [(3, 3), (5, 5)]
    assert summary.params == 38
    assert summary.macs == 2 * 64 * 36


@pytest.mark.parametrize("transform", [nn.remat, nn.jit])
@pytest.mark.parametrize("where", ["root", "leaf"])
def test_lifted_transformations_change_nothing(transform, where):
    class Net(nn.Module):
        layer: type

        @nn.compact
        def __call__(self, x):
            for index in range(3):
                x = self.layer(2, 3, padding=1, name=f"conv{index}")(x)
            return x

    plain = summarize(Net(Conv), (8, 8, 2))
    assert [row.name for row in plain.rows] == ["conv0", "conv1", "conv2"]
    lifted = summarize(transform(Net)(Conv) if where == "root" else Net(transform(Conv)), (8, 8, 2))
    if (transform, where) == (nn.jit, "leaf"):  # one trace for all three: its name, and three costs and fields
        assert [row.name for row in lifted.rows] == ["conv0"] * 3
        assert (lifted.params, lifted.macs, lifted.activation_bytes) == (plain.params, plain.macs, 3 * 512)
        assert [row.receptive_field for row in lifted.rows] == [row.receptive_field for row in plain.rows]
    else:
        assert lifted == plain


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return Conv(2, 3, padding=1, name="conv")(x), None


class Scanned(nn.Module):
    length: int

    @nn.compact
    def __call__(self, x):
        scan = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.length)
        return scan(name="blocks")(x, None)[0]


def test_layers_of_a_scan_are_rows_of_their_own():
    summary = summarize(Scanned(4), (32, 32, 2))
    assert [row.name for row in summary.rows] == ["blocks/conv"] * 4
    assert [row.receptive_field for row in summary.rows] == [(3, 3), (5, 5), (7, 7), (9, 9)]
    assert summary.params == sum(row.params for row in summary.rows) == 4 * 38
    assert summary.macs == 4 * 32 * 32 * 36


def test_long_scan_sees_the_whole_image():
    summary = summarize(Scanned(SCAN_STEPS + 1), (8, 8, 2))
    assert summary.macs == (SCAN_STEPS + 1) * 64 * 36
    assert summary.rows[-1].receptive_field == (8, 8)
    assert summary.rows[-1].stride is None


@pytest.mark.parametrize(
    "layers",
    [
        [(3, 1, 1), (3, 1, 1)],
        [(7, 2, 1), (3, 2, 1), (3, 1, 1), (1, 2, 1), (3, 1, 1)],
        [(3, 1, 1), (3, 1, 2), (3, 1, 4), (3, 2, 8)],
    ],
)
def test_stacks_follow_the_recurrence(layers):
    # Araujo et al., equation 2: r_0 = 1 + sum_l (k_l - 1) prod_{i < l} s_i, with k = d (k - 1) + 1.
    field, stride = 1, 1
    for kernel, step, dilation in layers:
        field, stride = field + dilation * (kernel - 1) * stride, stride * step
    net = Sequential([Conv(2, k, s, padding="SAME", kernel_dilation=d) for k, s, d in layers])
    row = summarize(net, (64, 64, 1)).rows[-1]
    assert row.receptive_field == (field, field)
    assert row.stride == (stride, stride)


def test_vgg16_has_the_published_figures():
    # Simonyan and Zisserman, table 1; Araujo et al., for the fields; 138,357,544 parameters and 15.47 GMACs.
    layers, names = [], []
    for stage, (depth, width) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for index in range(depth):
            layers += [Conv(width, 3, padding=1), nn.relu]
            names.append(f"conv{stage}_{index + 1}")
        layers.append(MaxPool(2))
        names.append(f"pool{stage}")
    summary = summarize(Sequential([*layers, Flatten(), Dense(4096), Dense(4096), Dense(1000)]), (224, 224, 3))
    rows = dict(zip(names, summary.rows, strict=False))
    assert rows["conv5_3"].receptive_field == (196, 196)
    assert rows["pool5"].receptive_field == (212, 212)
    assert rows["pool5"].stride == (32, 32)
    assert summary.params == 138_357_544
    assert summary.macs == 15_470_264_320
    assert summary.rows[-1].receptive_field == (224, 224)
    assert summary.rows[-1].stride is None


def test_rows_of_a_plain_function_are_equations_in_their_scopes():
    def function(x):
        with jax.named_scope("stem"):
            x = jax.jit(lambda y: conv(y, 3, 2))(x)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return x.reshape(len(x), -1) @ jnp.ones((128, 10))

    summary = summarize(function, (32, 32, 2))
    assert [row.kind for row in summary.rows] == ["conv_general_dilated", "reduce_window_max", "dot_general"]
    assert summary.rows[0].name == "stem"
    assert [row.receptive_field for row in summary.rows] == [(3, 3), (5, 5), (32, 32)]
    assert [row.stride for row in summary.rows] == [(2, 2), (4, 4), None]
    assert summary.params == 0
    assert summary.macs == 16 * 16 * 9 * 4 + 1280


def test_a_dense_layer_in_bfloat16_counts_as_in_float32():
    rows = [summarize(Dense(5, dtype=dtype), (4, 4, 3)).rows for dtype in (jnp.bfloat16, jnp.float32)]
    assert rows[0][0].macs == rows[1][0].macs == 4 * 4 * 3 * 5


def test_of_a_conditional_the_costliest_branch_counts():
    def function(x):
        return jax.lax.switch(1, [lambda y: conv(y, 3), lambda y: conv(y, 5), lambda y: y], x)

    assert summarize(function, (8, 8, 2)).macs == 64 * 25 * 4


def test_training_sees_the_whole_batch_where_statistics_are_taken():
    net = Sequential([Conv(4, 3), BatchNorm(), Conv(4, 3)])
    assert summarize(net, (16, 16, 1)).rows[-1].receptive_field == (5, 5)
    row = summarize(net, (16, 16, 1), train=True).rows[-1]
    assert (row.receptive_field, row.stride) == ((16, 16), None)


def test_a_detached_module_is_part_of_the_one_that_applies_it():
    summary = summarize(jaxcnn.create_model("lenet5_1998"), (28, 28, 1))
    assert summary.params == 60_000
    (row,) = [row for row in summary.rows if row.kind == "SparseConv"]
    assert row.macs == 10 * 10 * 25 * 6 * 16
    assert row.params == 25 * 60 + 16


def test_dtype_and_flax_layers():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.max_pool(nn.Conv(8, (3, 3), dtype=x.dtype)(x), (2, 2), (2, 2))
            x = nn.Dropout(0.5, deterministic=not train)(nn.BatchNorm(use_running_average=not train)(x))
            return nn.Dense(10, dtype=x.dtype)(x.mean((1, 2)))

    for train in (False, True):
        summary = summarize(Net(), (8, 8, 3), dtype=jnp.bfloat16, train=train)
        assert [row.kind for row in summary.rows] == ["Conv", "BatchNorm", "Dropout", "Dense"]
        assert summary.rows[0].receptive_field == (3, 3)
    assert summarize(nn.Conv(8, (3, 3)), (8, 8, 3)).activation_bytes == 8 * 8 * 8 * 4
    assert summarize(Conv(8, 3, dtype=jnp.bfloat16), (8, 8, 3)).activation_bytes == 6 * 6 * 8 * 2


def test_nothing_is_allocated():
    summary = summarize(Sequential([Conv(1000, 3), Flatten(), Dense(10**6)]), (4096, 4096, 4096, 3))
    assert summary.params == 28_000 + (4094 * 4094 * 1000 + 1) * 10**6


def test_a_table_and_json():
    summary = summarize(jaxcnn.create_model("lenet5"), (28, 28, 1))
    lines = str(summary).splitlines()
    assert len(lines) == 4 + len(summary.rows)
    assert lines[0].split() == ["name", "kind", "output", "params", "MACs", "field", "stride"]
    assert lines[2].split() == ["C1", "Conv", "1×28×28×6", "156", "117,600", "5×5", "1×1"]
    assert lines[-1].startswith("61,706 parameters, 0.000417 GMACs an image, ")
    loaded = json.loads(json.dumps(summary.to_dict()))
    assert loaded["params"] == 61_706
    assert loaded["rows"][0]["receptive_field"] == [5, 5]
    assert loaded["rows"][-1]["stride"] is None
    assert isinstance(summary, Summary)


@pytest.mark.parametrize("shape", [(28, 28), (0, 28, 1), (1, 1, 28, 28, 1), 28, (28.0, 28, 1), "abc", (-1, 8, 8, 3)])
def test_impossible_shapes_are_told_in_one_line(shape):
    with pytest.raises(UsageError, match="input_shape must be 3 or 4 positive integers") as error:
        summarize(Conv(1, 1), shape)
    assert "\n" not in str(error.value)


def test_a_models_own_refusal_passes():
    with pytest.raises(UsageError, match="Conv"):
        summarize(Conv(1, 5), (3, 3, 1))
