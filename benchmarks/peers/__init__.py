"""Compare jaxcnn with baselines: the same network, batch, dtype and optimizer in other libraries.

    python -m benchmarks.peers [--models lenet5,resnet20_cifar] [--peers jaxcnn,flax,torch] [--here]

Each baseline follows the guide or example of its library. Each library runs in its own process and Python environment.
The processes take turns of about one second, round after round, so that other work on the machine affects all of them.
Ratios of step times are medians over the rounds.
"""
