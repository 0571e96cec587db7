"""Train on batches of a generator, with an order of its own in each epoch."""

import sys

import numpy as np

from jaxcnn.data import from_batches
from jaxcnn.train import Config, fit

arrays = np.load("fashion.npz")
x_train, y_train, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))


def train(epoch):
    order = np.random.default_rng(epoch).permutation(len(x_train))
    for start in range(0, len(order), 50):
        chosen = order[start : start + 50]
        yield {"image": x_train[chosen], "label": y_train[chosen]}


def test():
    for start in range(0, len(x_test), 100):
        yield {"image": x_test[start : start + 100], "label": y_test[start : start + 100]}


config = Config(workdir=sys.argv[1], epochs=2, batch_size=32, checkpoint_every=4, progress=False)
result = fit(config, data=from_batches(train, test, examples=len(x_train)))
print(f"accuracy {result.test_accuracy:.1%} of {result.test_examples} test images")
