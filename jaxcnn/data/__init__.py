"""Datasets in the format of tensorflow-datasets, read without TensorFlow, as batches of uint8 images."""

from jaxcnn.data.augment import AUGMENTATIONS, compose, normalize
from jaxcnn.data.dataset import Dataset
from jaxcnn.data.datasets import list_datasets, open_dataset
from jaxcnn.data.decode import Geometry
from jaxcnn.data.pipeline import Batch, Padded, Pipeline, open_pipeline
from jaxcnn.data.statistics import STATISTICS

__all__ = [
    "AUGMENTATIONS",
    "STATISTICS",
    "Batch",
    "Dataset",
    "Geometry",
    "Padded",
    "Pipeline",
    "compose",
    "list_datasets",
    "normalize",
    "open_dataset",
    "open_pipeline",
]
