"""Stop a run by a callback: as soon as the test accuracy is good enough."""

import sys

from jaxcnn.data import open_dataset
from jaxcnn.train import Callback, Config, OptimizerConfig, fit


class StopAtAccuracy(Callback):
    every = 5

    def __init__(self, accuracy):
        self.accuracy = accuracy

    def on_step(self, run):
        return run.evaluate("test")["accuracy"] > self.accuracy


data = open_dataset("fashion_mnist_mini", train_split="train[:300]", test_split="test[:503]")
adam = OptimizerConfig("adam", learning_rate=3e-3)
config = Config(workdir=sys.argv[1], epochs=20, batch_size=32, optimizer=adam, checkpoint_every=4, progress=False)
result = fit(config, data=data, callbacks=[StopAtAccuracy(0.5)])
print(f"accuracy {result.test_accuracy:.1%} of {result.test_examples} test images")
print(result.values["stopped"])  # stopped at step 35 of 188: callback StopAtAccuracy asked for it
