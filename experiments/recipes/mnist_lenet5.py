"""LeNet-5 on MNIST, after LeCun et al.: *Gradient-Based Learning Applied to Document Recognition*, 1998.

    jaxcnn train --config experiments/recipes/mnist_lenet5.py

Aims at section III-B: 0.95 % test error, 99.05 % accuracy, after 20 epochs. With `--augment shift:2`, it aims at 0.8 %
test error, which the paper reaches with distorted images.

The network is `lenet5`, with ReLU and max pooling. The paper's network with subsampling and an RBF output is
`lenet5_1998`. The paper's stochastic second-order method is replaced by momentum.
"""

from jaxcnn.train import Config, OptimizerConfig, ScheduleConfig

config = Config(
    model="lenet5",
    dataset="mnist",
    epochs=20,
    batch_size=64,
    augment=(),
    label_smoothing=0.0,
    optimizer=OptimizerConfig("momentum", learning_rate=0.03, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleConfig("cosine"),
)
