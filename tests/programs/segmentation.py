"""Learn a class for each pixel. Images and masks are augmented together."""

import sys

import numpy as np

from experiments.tasks.segmentation import FullyConvolutional, Segmentation
from jaxcnn.data import from_arrays
from jaxcnn.train import Config, OptimizerConfig, fit

arrays = np.load("fashion.npz")


def with_masks(images):
    """Return images with masks [N, H, W]: 1 is clothing, 0 the background, and 255 is ignored."""
    return {"image": images, "mask": np.where(images > 64, 1, np.where(images > 8, 255, 0)).astype(np.uint8)}


data = from_arrays(with_masks(arrays["x_train"]), with_masks(arrays["x_test"]))
adam = OptimizerConfig("adam", learning_rate=1e-2)
config = Config(workdir=sys.argv[1], epochs=2, batch_size=32, optimizer=adam, checkpoint_every=4, progress=False)
result = fit(config, data=data, task=Segmentation(num_classes=2), model=FullyConvolutional(2, width=8))
print(f"pixel accuracy {result.metrics['pixel_accuracy']:.1%}, mean IoU {result.metrics['mean_iou']:.1%}")
print(f"{result.test_examples} test images")
