"""Load image datasets as batches of arrays: prepared TensorFlow Datasets (TFDS), or the user's own data."""

from jaxcnn.data.augment import AUGMENTATIONS, compose, normalize
from jaxcnn.data.dataset import Dataset
from jaxcnn.data.datasets import list_datasets, open_dataset
from jaxcnn.data.decode import Geometry
from jaxcnn.data.pipeline import Batch, Padded, Pipeline, open_pipeline
from jaxcnn.data.sources.arrays import from_arrays
from jaxcnn.data.sources.folder import from_folder
from jaxcnn.data.sources.source import from_source
from jaxcnn.data.sources.table import from_table
from jaxcnn.data.statistics import STATISTICS
from jaxcnn.data.stream import StreamPipeline
from jaxcnn.data.stream.batches import from_batches
from jaxcnn.data.tfds_dataset import TfdsDataset

__all__ = [
    "AUGMENTATIONS",
    "STATISTICS",
    "Batch",
    "Dataset",
    "Geometry",
    "Padded",
    "Pipeline",
    "StreamPipeline",
    "TfdsDataset",
    "compose",
    "from_arrays",
    "from_batches",
    "from_folder",
    "from_source",
    "from_table",
    "list_datasets",
    "normalize",
    "open_dataset",
    "open_pipeline",
]
