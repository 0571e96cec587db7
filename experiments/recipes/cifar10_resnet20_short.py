"""ResNet-20 on CIFAR-10: the accuracy of the paper in a quarter of its steps.

    jaxcnn train --config experiments/recipes/cifar10_resnet20_short.py

Aims at 8.75 % test error, 91.25 % accuracy (He, Zhang, Ren, Sun: *Deep Residual Learning for Image Recognition*, 2015,
table 6), after 16,000 steps of 128 images. `cifar10_resnet20.py` is the paper's recipe, with 64,000 steps. This recipe
raises and lowers the learning rate linearly (Smith and Topin: *Super-Convergence*, 2017), uses Nesterov's momentum and
a stronger weight decay, and mirrors each image in every other epoch. Add `--dtype bfloat16` where that is faster.
"""

from jaxcnn.train import Config, OptimizerConfig, ScheduleConfig

config = Config(
    model="resnet20_cifar",
    dataset="cifar10",
    steps=16_000,
    batch_size=128,
    augment=("alternating_flip", "crop:4"),
    label_smoothing=0.0,
    optimizer=OptimizerConfig("nesterov", learning_rate=0.2, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleConfig("triangle", start_factor=0.1, peak_at=0.3, end_factor=0.0),
    evaluate_every=1_955,
    checkpoint_every=400,
)
