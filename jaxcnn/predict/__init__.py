"""Predictions: image files in, class names with probabilities out."""

from jaxcnn.predict.classify import Prediction, classify
from jaxcnn.predict.images import find_images, read_image

__all__ = ["Prediction", "classify", "find_images", "read_image"]
