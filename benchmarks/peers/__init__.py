"""The same network, batch, dtype and optimizer in other libraries, each written as its own guide writes it.

    python -m benchmarks.peers [--models lenet5,resnet20_cifar] [--peers ours,flax,torch] [--here]

Each library runs in a process, and in a Python environment, of its own. The processes take turns, a second or so
each, round after round, so that what else the machine does falls on all of them; a ratio is the median over rounds.
"""
