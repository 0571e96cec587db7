"""Pictures of receptive fields."""

import jax
import numpy as np
import pytest

from jaxcnn import visualize
from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv, MaxPool, Sequential

MODEL = Sequential([Conv(4, 3, padding=1), MaxPool(2), Conv(4, 3)])
IMAGE = np.zeros((16, 16, 3), np.uint8)


def test_the_box_contains_exactly_the_pixels_with_a_gradient():
    axes = visualize.receptive_field_figure(MODEL, IMAGE, "layers_2").axes[0]
    (box,) = axes.patches
    left, top = round(box.get_x() + 0.5), round(box.get_y() + 0.5)
    assert (box.get_width(), box.get_height()) == (8, 8)
    # The middle of 6x6 units is (2, 2): a change of any pixel in the box, and of no other, can reach it.
    images = np.random.default_rng(0).normal(size=(20, 1, 16, 16, 3)).astype(np.float32)
    variables = jax.jit(MODEL.init)(jax.random.key(0), images[0])
    gradients = jax.jit(jax.vmap(jax.grad(lambda x: MODEL.apply(variables, x)[0, 2, 2].sum())))(images)
    seen = (np.asarray(gradients) != 0).any((0, 1, 4))
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (top, top + 7, left, left + 7)


def test_without_a_layer_all_are_drawn():
    assert len(visualize.receptive_field_figure(MODEL, IMAGE).axes[0].patches) == 3


def test_an_unknown_layer_is_refused_with_the_closest_name():
    with pytest.raises(UsageError, match="did you mean"):
        visualize.receptive_field_figure(MODEL, IMAGE, "layers_22")
