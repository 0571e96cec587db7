"""Neural network layers as Flax Linen modules; each file defines one kind of layer.

Images are `[N, H, W, C]`: batch, height, width, channels. A layer that behaves differently in training is called as
`layer(x, train)`. `train` is accepted by position and by keyword; Flax's transformations (`nn.vmap`, `nn.remat`,
`nn.jit`) need `train` by position. Layers with equal fields are equal and have equal hashes, also after `pickle` and
`copy.deepcopy`.
"""

from jaxcnn.layers import initializers
from jaxcnn.layers.activation import (
    GELU,
    HardSigmoid,
    HardSwish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
    hard_sigmoid,
    hard_swish,
    relu,
    relu6,
    sigmoid,
    silu,
)
from jaxcnn.layers.channels import ChannelShuffle, LayerScale
from jaxcnn.layers.compose import Concat, Flatten, Residual, Sequential, ZeroPadShortcut
from jaxcnn.layers.convolution import Conv
from jaxcnn.layers.dense import Dense
from jaxcnn.layers.dropout import Dropout, StochasticDepth, linear_decay
from jaxcnn.layers.normalization import BATCH_AXIS, BatchNorm, LayerNorm, LocalResponseNorm, norm_relu, norm_relu_pool
from jaxcnn.layers.partial import Partial
from jaxcnn.layers.pooling import AdaptiveAvgPool, AvgPool, GlobalAvgPool, MaxPool
from jaxcnn.layers.squeeze_excitation import SqueezeExcitation

__all__ = [
    "BATCH_AXIS",
    "GELU",
    "AdaptiveAvgPool",
    "AvgPool",
    "BatchNorm",
    "ChannelShuffle",
    "Concat",
    "Conv",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "HardSigmoid",
    "HardSwish",
    "LayerNorm",
    "LayerScale",
    "LocalResponseNorm",
    "MaxPool",
    "Partial",
    "ReLU",
    "ReLU6",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "SqueezeExcitation",
    "StochasticDepth",
    "Tanh",
    "ZeroPadShortcut",
    "hard_sigmoid",
    "hard_swish",
    "initializers",
    "linear_decay",
    "norm_relu",
    "norm_relu_pool",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
]
