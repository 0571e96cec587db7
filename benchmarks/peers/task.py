"""What every peer is asked to do. Needs numpy only, so that all of them can import it."""

import numpy as np

# Blocks of each stage, width of the first, kind of block, a stem for small images or not, shortcuts that are filled
# with zeros or projected, and classes.
RESNETS = {
    "resnet20_cifar": {
        "stages": (3, 3, 3),
        "width": 16,
        "bottleneck": False,
        "small": True,
        "pad": True,
        "classes": 10,
    },
    "resnet18": {
        "stages": (2, 2, 2, 2),
        "width": 64,
        "bottleneck": False,
        "small": False,
        "pad": False,
        "classes": 1000,
    },
    "resnet18_small_stem": {
        "stages": (2, 2, 2, 2),
        "width": 64,
        "bottleneck": False,
        "small": True,
        "pad": False,
        "classes": 10,
    },
    "resnet50": {
        "stages": (3, 4, 6, 3),
        "width": 64,
        "bottleneck": True,
        "small": False,
        "pad": False,
        "classes": 1000,
    },
    "resnet152": {
        "stages": (3, 8, 36, 3),
        "width": 64,
        "bottleneck": True,
        "small": False,
        "pad": False,
        "classes": 1000,
    },
}
# Those that jaxcnn, plain Flax and torch (by torchvision) have; the others say that they do not.
OF_TORCHVISION = {"vgg16": "vgg16", "densenet121": "densenet121", "googlenet_bn": "googlenet"}
MODELS = ("lenet5", *RESNETS, *OF_TORCHVISION)
# GoogLeNet's modules: maps of the 1x1, of the two branches (reduction and then 3x3), of the pooling's projection.
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}

LEARNING_RATE, MOMENTUM = 1e-3, 0.9


def batch(task: dict) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images `[N, H, W, C]` and int32 labels, which stay on the device; the step makes them float."""
    generator = np.random.default_rng(0)
    height, width, channels = task["image_shape"]
    classes = 10 if task["model"] == "lenet5" else RESNETS.get(task["model"], {}).get("classes", 1000)
    images = generator.integers(0, 256, (task["batch_size"], height, width, channels), np.uint8)
    return images, generator.integers(0, classes, task["batch_size"]).astype(np.int32)


def blocks(model: str) -> list[tuple[int, int]]:
    """(features, stride) of every residual block."""
    stages, width = RESNETS[model]["stages"], RESNETS[model]["width"]
    return [(width * 2**stage, 2 if stage and not block else 1) for stage, n in enumerate(stages) for block in range(n)]


def check_written(task: dict) -> None:
    """Raises `NotImplementedError` for a model that few libraries are asked for."""
    if task["model"] in OF_TORCHVISION:
        raise NotImplementedError(f"{task['model']} is not written for this library here")
