"""Train on the batches of a DataLoader of torch, which shuffles in each epoch."""

import sys

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from jaxcnn.data import from_batches
from jaxcnn.train import Config, fit

arrays = {name: torch.from_numpy(array) for name, array in np.load("fashion.npz").items() if name != "class_names"}
train = TensorDataset(arrays["x_train"], arrays["y_train"])
test = TensorDataset(arrays["x_test"], arrays["y_test"])


def shuffled(epoch):
    return DataLoader(train, batch_size=50, shuffle=True, generator=torch.Generator().manual_seed(epoch))


data = from_batches(shuffled, DataLoader(test, batch_size=64), examples=len(train))
config = Config(workdir=sys.argv[1], epochs=2, batch_size=32, checkpoint_every=4, progress=False)
result = fit(config, data=data)
print(f"accuracy {result.test_accuracy:.1%} of {result.test_examples} test images")
