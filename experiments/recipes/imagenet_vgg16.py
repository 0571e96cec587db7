"""VGG-16 on ImageNet, with the settings of torchvision's reference script, after Simonyan, Zisserman: *Very Deep
Convolutional Networks for Large-Scale Image Recognition*, 2014, section 3.1.

    jaxcnn train --config experiments/recipes/imagenet_vgg16.py --data-dir FOLDER

Aims at torchvision's `VGG16_Weights.IMAGENET1K_V1`: 71.592 % top-1 (one crop of 224 pixels out of 256; this recipe
evaluates on the center square of the image). `--model vgg16_bn` adds batch normalization and aims at 73.360 %.
torchvision trained on 8 GPUs with 32 images each. On fewer GPUs, `--accumulate` splits the batch and computes the same
gradients, because VGG-16 has no batch normalization.

Not run here. `experiments/results/predictions/README.md` lists the memory and a lower bound of the hours on 8 GPUs.
"""

from jaxcnn.train import Config, OptimizerConfig, ScheduleConfig

config = Config(
    model="vgg16",
    dataset="imagenet2012",
    image_size=224,
    epochs=90,
    batch_size=256,
    augment=("resized_crop", "flip"),
    label_smoothing=0.0,
    optimizer=OptimizerConfig("momentum", learning_rate=0.01, momentum=0.9, weight_decay=1e-4, decay_all=True),
    schedule=ScheduleConfig("step", milestones=(30 / 90, 60 / 90), factor=0.1),
)
