"""Names of layers, and their outputs."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import visualize
from jaxcnn.errors import UsageError


def test_layers_are_listed_in_order(detector):
    assert visualize.layer_names(detector.model, detector.variables, (8, 8, 1)) == ["layers_0", "layers_1"]


def test_the_output_of_a_layer_is_what_it_computes(detector, spot):
    images = jnp.asarray(spot[None] / 255.0)
    output = visualize.layer_output(detector.model, detector.variables, images, "layers_0")
    np.testing.assert_allclose(output[0], spot / 255.0, rtol=1e-6)


def test_an_unknown_layer_is_refused_with_the_closest_name(detector, spot):
    with pytest.raises(UsageError, match="did you mean 'layers_0'"):
        visualize.layer_output(detector.model, detector.variables, jnp.asarray(spot[None]), "layers_00")
