"""ResNet-50 on ImageNet with a modern recipe: Vryniotis, *How to Train State-Of-The-Art Models Using TorchVision's
Latest Primitives*, 2021, which produced `ResNet50_Weights.IMAGENET1K_V2`.

    jaxcnn train --config experiments/recipes/imagenet_resnet50_modern.py --data-dir FOLDER

The published weights reach 80.858 % top-1. That recipe also erases random rectangles, trains on 176 pixels, evaluates
on 224, and repeats each image four times per batch with different augmentation. This recipe does none of these, so
expect a lower accuracy. The original averages parameters with decay 0.99998 every 32 steps; this recipe uses 0.9999 at
every step.

Not run here. `experiments/results/predictions/README.md` lists the memory and a lower bound of the hours on 8 GPUs.
"""

from jaxcnn.train import Config, OptimizerConfig, ScheduleConfig

config = Config(
    model="resnet50",
    dataset="imagenet2012",
    image_size=224,
    epochs=600,
    batch_size=1024,
    augment=("resized_crop", "flip", "trivialaugment"),
    mixup=0.2,
    cutmix=1.0,
    label_smoothing=0.1,
    optimizer=OptimizerConfig("momentum", learning_rate=0.5, momentum=0.9, weight_decay=2e-5),
    schedule=ScheduleConfig("cosine", warmup_epochs=5),
    ema_decay=0.9999,
    dtype="bfloat16",
)
