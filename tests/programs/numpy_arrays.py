"""Train on NumPy arrays: images uint8 [N, 28, 28] and labels [N]."""

import sys

import numpy as np

from jaxcnn.data import from_arrays
from jaxcnn.train import Config, fit

arrays = np.load("fashion.npz")
data = from_arrays((arrays["x_train"], arrays["y_train"]), test=(arrays["x_test"], arrays["y_test"]))

config = Config(workdir=sys.argv[1], epochs=2, batch_size=32, checkpoint_every=4, progress=False)
result = fit(config, data=data)
print(f"accuracy {result.test_accuracy:.1%} of {result.test_examples} test images")
