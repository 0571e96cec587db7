"""Figures of what a network has learned and what it sees.

Each `*_figure` function returns a `matplotlib.figure.Figure`. Display it in a notebook, or write it with
`figure.savefig`.
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
