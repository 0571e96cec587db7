"""Batches from the user's iterators of batches, which are read in order."""

from jaxcnn.data.stream.pipeline import StreamPipeline

__all__ = ["StreamPipeline"]
