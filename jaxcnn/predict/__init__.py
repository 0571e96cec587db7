"""Classify image files: return class names with probabilities."""

from jaxcnn.predict.classify import Prediction, classify
from jaxcnn.predict.images import find_images, read_image

__all__ = ["Prediction", "classify", "find_images", "read_image"]
