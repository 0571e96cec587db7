"""What every peer is asked to do. Needs numpy only, so that all of them can import it."""

import numpy as np

# Blocks of each stage, width of the first, kind of block, stem and shortcut, and classes.
RESNETS = {
    "resnet20_cifar": {"stages": (3, 3, 3), "width": 16, "bottleneck": False, "small": True, "classes": 10},
    "resnet18": {"stages": (2, 2, 2, 2), "width": 64, "bottleneck": False, "small": False, "classes": 1000},
    "resnet50": {"stages": (3, 4, 6, 3), "width": 64, "bottleneck": True, "small": False, "classes": 1000},
}
# Those that jaxcnn and torch (by torchvision) have; the others say that they do not.
OF_TORCHVISION = ("vgg16", "densenet121")
MODELS = ("lenet5", *RESNETS, *OF_TORCHVISION)

LEARNING_RATE, MOMENTUM = 1e-3, 0.9


def batch(task: dict) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images `[N, H, W, C]` and int32 labels, which stay on the device; the step makes them float."""
    generator = np.random.default_rng(0)
    height, width, channels = task["image_shape"]
    classes = 10 if task["model"] in ("lenet5", "resnet20_cifar") else 1000
    images = generator.integers(0, 256, (task["batch_size"], height, width, channels), np.uint8)
    return images, generator.integers(0, classes, task["batch_size"]).astype(np.int32)


def blocks(model: str) -> list[tuple[int, int]]:
    """(features, stride) of every residual block."""
    stages, width = RESNETS[model]["stages"], RESNETS[model]["width"]
    return [(width * 2**stage, 2 if stage and not block else 1) for stage, n in enumerate(stages) for block in range(n)]


def check_written(task: dict) -> None:
    """Raises `NotImplementedError` for a model that only torchvision has."""
    if task["model"] in OF_TORCHVISION:
        raise NotImplementedError(f"{task['model']} is not written for this library here")
