"""Define the networks and batches of all libraries. Requires only NumPy, so that every environment can import it."""

import numpy as np

# stages: number of blocks per stage. width: channels of the first stage. bottleneck: bottleneck blocks, not basic ones.
# small: 3x3 stem without pooling, for small images. pad: shortcuts padded with zero channels, not projected.
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
# Models of jaxcnn, plain Flax and torch (from torchvision); the value is torchvision's name. `check_supported` rejects
# them in the other libraries.
TORCHVISION_MODELS = {"vgg16": "vgg16", "densenet121": "densenet121", "googlenet_bn": "googlenet"}
# Models of jaxcnn and torch alone.
TORCH_MODELS = {name: name for name in ("mobilenet_v2", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny")}
MODELS = ("lenet5", *RESNETS, *TORCHVISION_MODELS, *TORCH_MODELS)
# Channels of GoogLeNet's inception modules: 1x1; 3x3 reduction, 3x3; second 3x3 reduction, 3x3; pooling projection.
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
    """Return random uint8 images `[N, H, W, C]` and int32 labels `[N]`. The step converts the images to float."""
    generator = np.random.default_rng(0)
    height, width, channels = task["image_shape"]
    classes = 10 if task["model"] == "lenet5" else RESNETS.get(task["model"], {}).get("classes", 1000)
    images = generator.integers(0, 256, (task["batch_size"], height, width, channels), np.uint8)
    return images, generator.integers(0, classes, task["batch_size"]).astype(np.int32)


def blocks(model: str) -> list[tuple[int, int]]:
    """Return (features, stride) of every residual block."""
    spec = RESNETS[model]
    result = []
    for stage, count in enumerate(spec["stages"]):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            result.append((spec["width"] * 2**stage, stride))
    return result


def check_supported(task: dict) -> None:
    """Check that the model is one that every library implements.

    Raises:
      NotImplementedError: if only jaxcnn, plain Flax and torch implement it.
    """
    if task["model"] in (*TORCHVISION_MODELS, *TORCH_MODELS):
        raise NotImplementedError(f"no such model: {task['model']} is not implemented for this library")
