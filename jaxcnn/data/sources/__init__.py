"""Datasets of the user's own data: arrays in memory, NumPy files, and objects with `len(source)` and `source[i]`."""

from jaxcnn.data.sources.arrays import ArrayDataset, from_arrays
from jaxcnn.data.sources.source import SourceDataset, from_source

__all__ = ["ArrayDataset", "SourceDataset", "from_arrays", "from_source"]
