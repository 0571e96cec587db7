"""DenseNet-BC (100 layers, k = 12) on CIFAR-10, as in Huang, Liu, van der Maaten, Weinberger: *Densely Connected
Convolutional Networks*, 2017, section 4.2.

    jaxcnn train --config experiments/recipes/cifar10_densenet_bc100.py

Aims at table 2, column C10+: 4.51 % test error, 95.49 % accuracy. With flips and shifts, the paper uses no dropout.

Not run here. `experiments/results/predictions/README.md` lists the memory and a lower bound of the hours on one GPU.
"""

from jaxcnn.train import Config, OptimizerConfig, ScheduleConfig

config = Config(
    model="densenet_bc100_k12",
    dataset="cifar10",
    epochs=300,
    batch_size=64,
    augment=("crop:4", "flip"),
    label_smoothing=0.0,
    optimizer=OptimizerConfig("nesterov", learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True),
    schedule=ScheduleConfig("step", milestones=(0.5, 0.75), factor=0.1),
)
