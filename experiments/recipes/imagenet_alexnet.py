"""AlexNet (one tower) on ImageNet, with the settings of torchvision's reference script, after Krizhevsky, Sutskever,
Hinton: *ImageNet Classification with Deep Convolutional Neural Networks*, 2012, section 5.

    jaxcnn train --config experiments/recipes/imagenet_alexnet.py --data-dir FOLDER

Aims at torchvision's `AlexNet_Weights.IMAGENET1K_V1`: 56.522 % top-1 (one crop of 224 pixels out of 256; this recipe
evaluates on the center square of the image). The paper's own settings (batch size 128, weight decay 0.0005, two towers:
`--model alexnet_two_tower --image-size 227`) gave 59.3 % top-1 on the validation images, averaged over ten crops.
Decoding the images is likely to limit the speed.

Not run here. `experiments/results/predictions/README.md` lists the memory and a lower bound of the hours on one GPU.
"""

from jaxcnn.train import Config, OptimizerConfig, ScheduleConfig

config = Config(
    model="alexnet",
    dataset="imagenet2012",
    image_size=224,
    epochs=90,
    batch_size=256,
    augment=("resized_crop", "flip"),
    label_smoothing=0.0,
    optimizer=OptimizerConfig("momentum", learning_rate=0.01, momentum=0.9, weight_decay=1e-4, decay_all=True),
    schedule=ScheduleConfig("step", milestones=(30 / 90, 60 / 90), factor=0.1),
)
