"""Every layer as a pure Linen module, one kind a file.

Images are `[N, H, W, C]`: batch, height, width, channels. A layer that behaves differently while training takes
`train` as a keyword: `layer(x, train=True)`.
"""

from jaxcnn.layers import initializers
from jaxcnn.layers.activation import ReLU, Sigmoid, Softmax, Tanh
from jaxcnn.layers.compose import Concat, Flatten, Residual, Sequential, ZeroPadShortcut
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.dense import Dense
from jaxcnn.layers.dropout import Dropout, StochasticDepth, linear_decay
from jaxcnn.layers.normalization import BATCH_AXIS, BatchNorm, LayerNorm, LocalResponseNorm
from jaxcnn.layers.pooling import AdaptiveAvgPool, AvgPool, GlobalAvgPool, MaxPool

__all__ = [
    "BATCH_AXIS",
    "AdaptiveAvgPool",
    "AvgPool",
    "BatchNorm",
    "Concat",
    "Conv",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "LayerNorm",
    "LocalResponseNorm",
    "MaxPool",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "StochasticDepth",
    "Tanh",
    "ZeroPadShortcut",
    "initializers",
    "linear_decay",
]
