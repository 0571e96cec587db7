"""ResNet-20 on CIFAR-10, as in He, Zhang, Ren, Sun: *Deep Residual Learning for Image Recognition*, 2015, section 4.2.

    jaxcnn train --config experiments/recipes/cifar10_resnet20.py

Aims at table 6: 8.75 % test error, 91.25 % accuracy. For the deeper models of the table, change `--model`
(`resnet32_cifar` 92.49 %, `resnet44_cifar` 92.83 %, `resnet56_cifar` 93.03 %, `resnet110_cifar` 93.57 %). For 110
layers the paper also warms up at a learning rate of 0.01 until the training error is below 80 %.

The paper subtracts the mean of each pixel; this recipe subtracts the mean of each channel. Requires a GPU: 64,000 steps
of 128 images.
"""

from jaxcnn.train import Config, OptimizerConfig, ScheduleConfig

config = Config(
    model="resnet20_cifar",
    dataset="cifar10",
    steps=64_000,
    batch_size=128,
    augment=("crop:4", "flip"),
    label_smoothing=0.0,
    optimizer=OptimizerConfig("momentum", learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True),
    schedule=ScheduleConfig("step", milestones=(32 / 64, 48 / 64), factor=0.1),
)
