"""GoogLeNet in the paper's form on ImageNet: Szegedy et al., *Going Deeper with Convolutions*, 2014, with the settings
of Caffe's `bvlc_googlenet` (its "quick" solver), because the paper does not give its settings.

    jaxcnn train --config experiments/recipes/imagenet_googlenet.py --data-dir FOLDER

Aims at that model's 68.7 % top-1, 88.9 % top-5 (in the paper, one model and one crop: 10.07 % top-5 error). Each of the
two auxiliary classifiers adds 0.3 times its loss (section 5). Caffe crops 224 pixels out of images of 256 and flips
them. This recipe crops 8 % to 100 % of the image, as in the paper (section 6), and evaluates on the center square.
The 2,400,000 steps of 32 images are 60 epochs.

Not run here. `experiments/results/predictions/README.md` lists the memory and a lower bound of the hours on one GPU.
"""

from jaxcnn.train import Config, OptimizerConfig, ScheduleConfig

config = Config(
    model="googlenet",
    dataset="imagenet2012",
    image_size=224,
    steps=2_400_000,
    batch_size=32,
    augment=("resized_crop", "flip"),
    label_smoothing=0.0,
    optimizer=OptimizerConfig("momentum", learning_rate=0.01, momentum=0.9, weight_decay=2e-4),
    schedule=ScheduleConfig("polynomial", power=0.5),
    aux_weight=0.3,
)
