"""Classify image files: return class names with probabilities."""

from jaxcnn.predict.classify import Failure, Prediction, classify, classify_files
from jaxcnn.predict.images import read_image
from jaxcnn.predict.search import Candidate, Search, find_images

__all__ = [
    "Candidate",
    "Failure",
    "Prediction",
    "Search",
    "classify",
    "classify_files",
    "find_images",
    "read_image",
]
