"""A network whose pictures are known, and an image to look at."""

import numpy as np
import pytest

from jaxcnn.layers import Conv, Dense, GlobalAvgPool, ReLU, Sequential
from jaxcnn.train import Config, Trained
from jaxcnn.train.runtime.preprocessing import Preprocessing

CLASSES = ("dark", "bright")


@pytest.fixture
def detector():
    """Return a trained network of one 1x1 filter whose logit for "bright" is the mean brightness."""
    model = Sequential([Conv(1, 1), ReLU(), GlobalAvgPool(), Dense(2)])
    variables = {
        "params": {
            "layers_0": {"kernel": np.ones((1, 1, 1, 1), np.float32), "bias": np.zeros(1, np.float32)},
            "layers_3": {"kernel": np.array([[-1.0, 1.0]], np.float32), "bias": np.zeros(2, np.float32)},
        }
    }
    return Trained(Config(), model, variables, 0, Preprocessing((8, 8, 1), (0.0,), (1.0,), CLASSES))


@pytest.fixture(scope="module")
def spot():
    """Return an image that is dark except for its top right corner."""
    image = np.zeros((8, 8, 1), np.uint8)
    image[:3, 6:] = 255
    return image


def _arrays(axes):
    return [np.asarray(picture.get_array()) for picture in axes.images]


@pytest.fixture(scope="session")
def shown():
    """Return a function that lists the arrays shown in axes."""
    return _arrays
