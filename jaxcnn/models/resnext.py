"""ResNeXt (Xie, Girshick, Dollar, Tu, He: Aggregated Residual Transformations for Deep Neural Networks, 2017)."""

from functools import partial

from jaxcnn.layers import Partial
from jaxcnn.models.resnet import Bottleneck, ResNet

# Table 1, right: cardinality 32, and 4 channels a group in the first stage.
MODELS = {
    "resnext50_32x4d": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Partial(Bottleneck, groups=32, group_width=4)),
}
