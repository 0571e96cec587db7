"""ResNet-50 on ImageNet in 90 epochs, with the settings of torchvision's reference script, after He, Zhang, Ren, Sun:
*Deep Residual Learning for Image Recognition*, 2015, section 3.4.

    jaxcnn train --config experiments/recipes/imagenet_resnet50.py --data-dir FOLDER

Aims at torchvision's `ResNet50_Weights.IMAGENET1K_V1`: 76.130 % top-1 (one crop). torchvision evaluates on the center
224 pixels of images of 256; this recipe resizes the center square of the image to 224. torchvision trained on 8 GPUs
with 32 images each. With `--dtype bfloat16` the same batch needs about half the memory.

Not run here. `experiments/results/predictions/README.md` lists the memory and a lower bound of the hours on 8 GPUs.
"""

from jaxcnn.train import Config, OptimizerConfig, ScheduleConfig

config = Config(
    model="resnet50",
    dataset="imagenet2012",
    image_size=224,
    epochs=90,
    batch_size=256,
    augment=("resized_crop", "flip"),
    label_smoothing=0.0,
    optimizer=OptimizerConfig("momentum", learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True),
    schedule=ScheduleConfig("step", milestones=(30 / 90, 60 / 90), factor=0.1),
)
