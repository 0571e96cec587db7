"""Pictures of feature maps."""

import numpy as np

from jaxcnn import visualize


def test_the_image_and_its_maps_are_the_right_way_up(detector, spot, shown):
    figure = visualize.feature_map_figure(detector, spot, "layers_0")
    image, maps = figure.axes[:2]
    np.testing.assert_array_equal(shown(image)[0], spot[..., 0])
    assert image.get_ylim()[0] > image.get_ylim()[1]  # the first row at the top
    assert shown(maps)[0][0, 7] == 1
    assert shown(maps)[0][7, 0] == 0
