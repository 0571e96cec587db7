"""Compute parameters, operations and receptive fields of a function of images from its jaxpr, without running it.

>>> import flax.linen as nn
>>> from jaxcnn.layers import Conv, MaxPool, Sequential
>>> summary = summarize(Sequential([Conv(8, 3, padding=1), MaxPool(2), Conv(16, 3)]), (32, 32, 3))
>>> summary.params, summary.rows[-1].receptive_field, summary.rows[-1].stride
(1392, (8, 8), (2, 2))
"""

from jaxcnn.analysis.summary import Row, Summary, summarize

__all__ = ["Row", "Summary", "summarize"]
