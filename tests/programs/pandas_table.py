"""Train on the image files that a pandas table lists."""

import sys

import pandas as pd

from jaxcnn.data import from_table
from jaxcnn.train import Config, fit

table = pd.read_csv("pictures.csv")  # columns: path, label, fold
table["split"] = table["fold"].map({0: "test", 1: "train", 2: "train"})
data = from_table(table, root="pictures")

config = Config(workdir=sys.argv[1], epochs=2, batch_size=32, checkpoint_every=4, progress=False)
result = fit(config, data=data)
print(f"accuracy {result.test_accuracy:.1%} of {result.test_examples} test images")
