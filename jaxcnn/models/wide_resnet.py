"""Wide ResNet (Zagoruyko, Komodakis: Wide Residual Networks, 2016)."""

from functools import partial

from jaxcnn.layers import Partial
from jaxcnn.models.preact_resnet import PreActBasicBlock, cifar
from jaxcnn.models.resnet import Bottleneck, ResNet

# Table 1: WRN-n-k has (n - 4) / 6 blocks in each stage, and stages of 16 k, 32 k and 64 k channels.
# The ImageNet networks with published weights double the width of the 3x3 convolution in each bottleneck.
MODELS = {
    "wide_resnet28_10": partial(cifar, stage_sizes=(4, 4, 4), block=PreActBasicBlock, width=160, stem_width=16),
    "wide_resnet50_2": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Partial(Bottleneck, group_width=128)),
    "wide_resnet101_2": partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Partial(Bottleneck, group_width=128)),
}
