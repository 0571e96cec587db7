"""ResNet-20 on Fashion-MNIST (Xiao, Rasul, Vollgraf: *Fashion-MNIST*, 2017), with a short schedule.

    jaxcnn train --config experiments/recipes/fashion_mnist_resnet20.py

Aims at 93.0 % accuracy. No paper gives a figure for this network. The dataset's page lists 92.5 % to 94.9 % for
residual networks of 18 layers. Add `--dtype bfloat16` where that is faster.
"""

from jaxcnn.train import Config, OptimizerConfig, ScheduleConfig

config = Config(
    model="resnet20_cifar",
    dataset="fashion_mnist",
    epochs=15,
    batch_size=128,
    augment=("alternating_flip", "shift:2"),
    label_smoothing=0.0,
    optimizer=OptimizerConfig("nesterov", learning_rate=0.2, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleConfig("triangle", start_factor=0.2, peak_at=0.25, end_factor=0.0),
)
