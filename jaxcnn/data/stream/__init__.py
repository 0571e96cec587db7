"""Batches from iterators of the user's, which are read in order."""

from jaxcnn.data.stream.pipeline import StreamPipeline

__all__ = ["StreamPipeline"]
