"""Grad-CAM: hand-computed maps, drawn over the image."""

import numpy as np
import pytest

from jaxcnn import visualize
from jaxcnn.errors import UsageError


def test_the_map_is_where_the_evidence_is(detector, spot):
    # The gradient of the mean of 64 places is 1 / 64 at each, so alpha is 1 / 64, and L is the map over 64.
    heat = visualize.grad_cam(detector, spot, 1, "layers_1")
    np.testing.assert_allclose(heat, spot[..., 0] / 255.0 / 64, rtol=1e-5)
    assert visualize.grad_cam(detector, spot, 0, "layers_1").max() == 0  # evidence against a class is left out


def test_an_unknown_class_is_refused(detector, spot):
    with pytest.raises(UsageError, match=r"unknown class: 2\. Use an index from 0 to 1"):
        visualize.grad_cam(detector, spot, 2, "layers_1")


def test_the_picture_is_the_right_way_up_and_names_the_class(detector, spot, shown):
    figure = visualize.grad_cam_figure(detector, spot)
    assert "bright" in figure.get_suptitle()
    heat = shown(figure.axes[1])[1]
    assert heat[0, 7] == heat.max()
