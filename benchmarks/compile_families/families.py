"""The smallest and the largest registered model of each family, by number of parameters."""

# A family is what one file of `jaxcnn/models` lists for ImageNet, or for smaller images.
# `tests/models/test_lowering.py` compares the names with the registry.
FAMILIES: dict[str, tuple[str, ...]] = {
    "LeNet": ("lenet5_1998", "lenet5"),
    "AlexNet": ("alexnet_two_tower", "alexnet"),
    "VGG": ("vgg11", "vgg19_bn"),
    "GoogLeNet": ("googlenet_bn", "googlenet_naive"),
    "ResNet, ImageNet": ("resnet18", "resnet152"),
    "ResNet, CIFAR": ("resnet20_cifar", "resnet1202_cifar"),
    "pre-activation ResNet, ImageNet": ("preact_resnet18", "preact_resnet200"),
    "pre-activation ResNet, CIFAR": ("preact_resnet164_cifar", "preact_resnet1001_cifar"),
    "Wide ResNet, ImageNet": ("wide_resnet50_2", "wide_resnet101_2"),
    "Wide ResNet, CIFAR": ("wide_resnet28_10",),
    "ResNeXt": ("resnext50_32x4d", "resnext101_32x8d"),
    "DenseNet, ImageNet": ("densenet121", "densenet161"),
    "DenseNet, CIFAR": ("densenet_bc100_k12", "densenet100_k24"),
    "Inception v3": ("inception_v3",),
    "SqueezeNet": ("squeezenet1_1", "squeezenet1_0"),
    "MobileNetV2": ("mobilenet_v2",),
    "MobileNetV3": ("mobilenet_v3_small", "mobilenet_v3_large"),
    "MnasNet": ("mnasnet0_5", "mnasnet1_3"),
    "ShuffleNet V2": ("shufflenet_v2_x0_5", "shufflenet_v2_x2_0"),
    "EfficientNet": ("efficientnet_b0", "efficientnet_b7"),
    "EfficientNetV2": ("efficientnet_v2_s", "efficientnet_v2_l"),
    "RegNet": ("regnet_y_400mf", "regnet_y_128gf"),
    "ConvNeXt": ("convnext_tiny", "convnext_large"),
    "Airbench": ("speedrun", "speedrun96"),
}

SCANNED = ("resnet1202_cifar", "preact_resnet1001_cifar")
"""Networks that are compiled with loops over equal blocks, because compilers need more than half an hour otherwise."""


def family_of(model: str) -> str:
    """Return the family in whose row a model is.

    Raises:
      KeyError: if the model is neither the smallest nor the largest of its family.
    """
    for family, models in FAMILIES.items():
        if model in models:
            return family
    raise KeyError(model)
