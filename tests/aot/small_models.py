"""A small model of each family, and its training step over given devices. Imported by the tests beside it."""

from jaxcnn.aot import Images, parse_target, targets
from jaxcnn.aot.program import plan_of
from jaxcnn.errors import UsageError
from jaxcnn.train import Config

BATCH = 32

MODULE = (8, (8, 8), (8, 8), 8)
RESNET = {"stage_sizes": (1, 1), "width": 16}
SMALL = {
    "lenet5": ({}, 28),
    "alexnet": ({"features": (8, 16, 8, 8, 8), "hidden": 32}, 67),
    "vgg11_bn": ({"column": ((3,), (3, 1)), "widths": (8, 8), "hidden": 16}, 32),
    "googlenet_bn": ({"modules": {"4a": MODULE, "4d": MODULE, "5a": MODULE}}, 79),
    "resnet50": (RESNET, 32),
    "resnet20_cifar": (RESNET, 32),
    "preact_resnet18": (RESNET, 32),
    "wide_resnet28_10": (RESNET, 32),
    "resnext50_32x4d": (RESNET, 32),
    "densenet121": ({"block_sizes": (1, 1), "growth_rate": 4, "stem_width": 8}, 32),
    "densenet_bc100_k12": ({"block_sizes": (1, 1), "growth_rate": 4, "stem_width": 8}, 32),
}
"""Fields that make the model small, and the side of the images."""


def small_plan(model, devices, dtype="bfloat16"):
    """Return the parts of a run of the small model: `BATCH` images over `devices`."""
    fields, side = SMALL[model]
    options = tuple(f"{name}={value!r}" for name, value in fields.items())
    config = Config(model=model, model_options=options, dtype=dtype, batch_size=BATCH, image_size=side)
    return plan_of(config, Images.of_model(config), devices)


def installed(target):
    """Return whether the compiler of a target is installed."""
    try:
        targets.check_installed(parse_target(target))
    except UsageError:
        return False
    return True
