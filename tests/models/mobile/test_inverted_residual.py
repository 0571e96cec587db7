"""The networks of inverted residual blocks: rules of widths, shortcuts, strides, and rates of stochastic depth."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxcnn.analysis import summarize
from jaxcnn.errors import UsageError
from jaxcnn.layers import StochasticDepth
from jaxcnn.models import create_model
from jaxcnn.models.mobile._inverted_residual import Row, make_divisible
from jaxcnn.models.mobile.mobilenet_v3 import Bneck


def test_channels_are_multiples_of_8_and_lose_at_most_a_tenth():
    for channels in range(1, 2000):
        rounded = make_divisible(channels / 2)
        assert rounded % 8 == 0
        assert 0.9 * channels / 2 <= rounded <= max(8, channels / 2 + 8)


# torchvision's networks with another `width_mult`.
WIDTHS = [
    ("mobilenet_v2", 0.5, 1_968_680),
    ("mobilenet_v2", 1.4, 6_108_776),
    ("mobilenet_v3_large", 0.75, 3_377_576),
    ("mobilenet_v3_small", 0.5, 917_264),
    ("mnasnet1_0", 0.35, 1_788_232),
]


@pytest.mark.parametrize(("name", "width", "params"), WIDTHS)
def test_other_widths_have_the_parameters_of_torchvisions(name, width, params):
    model = create_model(name, width=width)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == params


def test_mobilenet_v2_sees_491_pixels_at_stride_32():
    # 3 + 2 * 2 behind the first block; each depthwise 3x3 adds twice the stride in front of it.
    rows = summarize(create_model("mobilenet_v2"), (224, 224, 3)).rows
    last = next(row for row in rows if row.name == "last/conv")
    assert (last.receptive_field, last.stride) == ((491, 491), (32, 32))


def test_squeeze_and_excitation_sees_the_whole_image():
    rows = summarize(create_model("efficientnet_b0", table=(Row(1, 16, 1, 1),)), (96, 64, 3)).rows
    fields = {row.name: row.receptive_field for row in rows}
    assert fields["stage1_block1/depthwise/conv"] == (7, 7)
    assert fields["stage1_block1/project/conv"] == (96, 64)


def called(model, kind, size):
    """Return the modules of a kind in the order of their calls."""
    found = []

    def watch(call, args, kwargs, context):
        if isinstance(context.module, kind) and context.method_name == "__call__":
            found.append(context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))
    return found


def test_rates_of_stochastic_depth_grow_with_the_number_of_blocks_before():
    # Blocks 1, 4 and 6 of 6 are the first of their rows and have no shortcut; the rate of a block counts all before it.
    table = (Row(1, 16, 1, 1), Row(6, 24, 3, 2), Row(6, 40, 2, 2, fused=True))
    model = create_model("efficientnet_v2_s", table=table, drop_path_rate=0.6)
    assert [module.rate for module in called(model, StochasticDepth, 32)] == pytest.approx([0.2, 0.3, 0.5])


def test_there_is_no_shortcut_around_a_stride_even_where_shapes_agree():
    for strides, shortcuts in ((1, 1), (2, 0)):
        model = create_model("efficientnet_b0", table=(Row(1, 40, 1, 1), Row(1, 40, 1, strides)), drop_path_rate=0.5)
        assert len(called(model, StochasticDepth, 1)) == shortcuts  # all maps are a single pixel


def test_the_stem_for_small_images_skips_the_first_two_halvings():
    model = create_model("mobilenet_v3_small", 10, stem="cifar")
    assert model.image_shape == (32, 32, 3)
    (row,) = (row for row in summarize(model, (32, 32, 3)).rows if row.name == "last/conv")
    assert row.output_shape[1:3] == (4, 4)


def test_a_table_is_given_as_plain_tuples_too():
    rows = ((1, 16, 1, 1), (6, 24, 2, 2))
    plain, named = (create_model("mobilenet_v2", table=table) for table in (rows, tuple(Row(*row) for row in rows)))
    assert summarize(plain, (32, 32, 3)) == summarize(named, (32, 32, 3))


def test_an_unknown_activation_is_refused_with_the_closest_valid_name():
    model = create_model("mobilenet_v3_small", table=((Bneck(3, 16, 16, True, "HSS", 2),),))
    with pytest.raises(UsageError, match="did you mean 'HS'"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
