"""Pictures of filters."""

import jax
import numpy as np
import pytest

from jaxcnn import visualize
from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv, Dense, Flatten, ReLU, Sequential

IMAGE = np.zeros((1, 9, 9, 1), np.float32)


def test_the_filters_are_those_of_the_first_convolution(shown):
    model = Sequential([Conv(5, 3), ReLU(), Conv(7, 3), Flatten(), Dense(2)])
    variables = jax.jit(model.init)(jax.random.key(0), IMAGE)
    figure = visualize.filter_figure(model, variables, (9, 9, 1))
    assert figure.get_suptitle() == "layers_0: 5 filters of 3x3x1"
    kernel = variables["params"]["layers_0"]["kernel"]
    for index in range(5):
        np.testing.assert_array_equal(shown(figure.axes[index])[0], kernel[..., 0, index])


def test_a_network_without_a_convolution_is_refused():
    flat = Sequential([Flatten(), Dense(2)])
    variables = jax.jit(flat.init)(jax.random.key(0), IMAGE)
    with pytest.raises(UsageError, match="no convolution"):
        visualize.filter_figure(flat, variables, (9, 9, 1))
