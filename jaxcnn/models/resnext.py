"""ResNeXt (Xie, Girshick, Dollar, Tu, He: Aggregated Residual Transformations for Deep Neural Networks, 2017)."""

from functools import partial

from jaxcnn.layers import Partial
from jaxcnn.models.resnet import Bottleneck, ResNet

# Table 1, right, and table 3: the cardinality, and the channels of a group in the first stage.
MODELS = {
    "resnext50_32x4d": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Partial(Bottleneck, groups=32, group_width=4)),
    "resnext101_32x8d": partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Partial(Bottleneck, groups=32, group_width=8)),
    "resnext101_64x4d": partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Partial(Bottleneck, groups=64, group_width=4)),
}
