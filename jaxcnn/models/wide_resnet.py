"""Wide ResNet (Zagoruyko, Komodakis: Wide Residual Networks, 2016)."""

from functools import partial

from jaxcnn.models.preact_resnet import PreActBasicBlock, PreActResNet
from jaxcnn.models.resnet import Bottleneck, ResNet

# Table 1: WRN-n-k has (n - 4) / 6 blocks a stage, and k times the 16, 32 and 64 maps of a thin network.
# Published weights of the ImageNet form double the 3x3 inside each bottleneck.
MODELS = {
    "wide_resnet28_10": partial(
        PreActResNet,
        stage_sizes=(4, 4, 4),
        block=PreActBasicBlock,
        num_classes=10,
        width=160,
        stem="cifar",
        stem_width=16,
    ),
    "wide_resnet50_2": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=partial(Bottleneck, group_width=128)),
}
