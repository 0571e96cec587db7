"""WRN-28-10 on CIFAR-10, as in Zagoruyko, Komodakis: *Wide Residual Networks*, 2016, section 3.

    jaxcnn train --config experiments/recipes/cifar10_wide_resnet28_10.py

Aims at table 5, without dropout: 4.00 % test error, 96.00 % accuracy. With `--dataset cifar100`, the table has 19.25 %
test error, 80.75 % accuracy.

Not run here. `experiments/results/predictions/README.md` lists the memory and a lower bound of the hours on one GPU.
"""

from jaxcnn.train import Config, OptimizerConfig, ScheduleConfig

config = Config(
    model="wide_resnet28_10",
    dataset="cifar10",
    epochs=200,
    batch_size=128,
    augment=("shift_reflect:4", "flip"),
    label_smoothing=0.0,
    optimizer=OptimizerConfig("nesterov", learning_rate=0.1, momentum=0.9, weight_decay=5e-4, decay_all=True),
    schedule=ScheduleConfig("step", milestones=(60 / 200, 120 / 200, 160 / 200), factor=0.2),
)
