"""Datasets in the format of tensorflow-datasets, read without TensorFlow, as batches of uint8 images."""

from jaxcnn.data.augment import AUGMENTATIONS, compose, normalize
from jaxcnn.data.datasets import STATISTICS, Dataset, list_datasets, open_dataset
from jaxcnn.data.pipeline import Batch, Pipeline, open_pipeline

__all__ = [
    "AUGMENTATIONS",
    "STATISTICS",
    "Batch",
    "Dataset",
    "Pipeline",
    "compose",
    "list_datasets",
    "normalize",
    "open_dataset",
    "open_pipeline",
]
