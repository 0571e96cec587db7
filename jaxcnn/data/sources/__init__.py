"""Datasets of the user's own: arrays in memory, NumPy files, and sources with `len` and `[i]`."""

from jaxcnn.data.sources.arrays import ArrayDataset, from_arrays
from jaxcnn.data.sources.source import SourceDataset, from_source

__all__ = ["ArrayDataset", "SourceDataset", "from_arrays", "from_source"]
