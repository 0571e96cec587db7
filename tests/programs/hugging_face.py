"""Train on a dataset like those of Hugging Face: `dataset[i]` is a dict, and `features` has the class names."""

import sys
from types import SimpleNamespace

import numpy as np
from PIL import Image

from jaxcnn.data import from_source
from jaxcnn.train import Config, fit

arrays = np.load("fashion.npz")


class Dataset:  # in place of datasets.load_dataset("fashion_mnist", split="train")
    def __init__(self, images, labels):
        self.images, self.labels = images, labels
        self.features = {"image": None, "label": SimpleNamespace(names=arrays["class_names"].tolist())}

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": Image.fromarray(self.images[index]), "label": int(self.labels[index])}


train, test = (Dataset(arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in ("train", "test"))
config = Config(workdir=sys.argv[1], epochs=2, batch_size=32, checkpoint_every=4, progress=False)
result = fit(config, data=from_source(train, test))
print(f"accuracy {result.test_accuracy:.1%} of {result.test_examples} test images")
