"""Figures of the filters, feature maps, receptive fields and predictions of a network.

Each `*_figure` function returns a `matplotlib.figure.Figure`. Display it in a notebook, or write it with
`figure.savefig`. The argument `trained` is a trained network, as `jaxcnn.train.load_run` returns it. The network of
this example is not trained:

>>> import jax
>>> import numpy as np
>>> from jaxcnn.layers import Conv, Dense, GlobalAvgPool, ReLU, Sequential
>>> from jaxcnn.train import Config, Trained
>>> from jaxcnn.train.runtime.preprocessing import Preprocessing
>>> names, image = ("cat", "dog"), np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
>>> model = Sequential([Conv(4, 3, padding=1), ReLU(), GlobalAvgPool(), Dense(2)])
>>> variables = model.init(jax.random.key(0), image[None])
>>> trained = Trained(Config(), model, variables, 0, Preprocessing(image.shape, (0.5,), (0.25,), names))

Layers are named by their path in the model:

>>> layer_names(model, variables, image.shape)
['layers_0', 'layers_1']
>>> layer_output(model, variables, image[None] / 255, "layers_0").shape
(1, 8, 8, 4)
>>> filters = filter_figure(model, variables, image.shape)
>>> maps = feature_map_figure(trained, image, "layers_1")
>>> fields = receptive_field_figure(model, image)
>>> grad_cam(trained, image, label=1, layer="layers_1").shape
(8, 8)
>>> support = grad_cam_figure(trained, image, label=1)

Figures of predictions need the true classes and the predicted probabilities:

>>> images, labels = np.stack([image, image]), np.array([0, 1])
>>> probabilities = np.array([[0.1, 0.9], [0.2, 0.8]])
>>> wrong = mistake_figure(images, labels, probabilities, names)
"""

from jaxcnn.visualize.confusion import confusion_figure, confusion_matrix, draw_confusion
from jaxcnn.visualize.feature_maps import feature_map_figure
from jaxcnn.visualize.filters import filter_figure
from jaxcnn.visualize.grad_cam import grad_cam, grad_cam_figure
from jaxcnn.visualize.layers import layer_names, layer_output
from jaxcnn.visualize.mistakes import Mistakes, draw_mistakes, mistake_figure
from jaxcnn.visualize.receptive_field import receptive_field_figure
from jaxcnn.visualize.report import report_figure

__all__ = [
    "Mistakes",
    "confusion_figure",
    "confusion_matrix",
    "draw_confusion",
    "draw_mistakes",
    "feature_map_figure",
    "filter_figure",
    "grad_cam",
    "grad_cam_figure",
    "layer_names",
    "layer_output",
    "mistake_figure",
    "receptive_field_figure",
    "report_figure",
]
