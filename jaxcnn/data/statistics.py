"""Mean and standard deviation of the pixels of a dataset."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcnn.data.decode import Geometry


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the training pixels of each channel, on the scale from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @staticmethod
    def of(images: np.ndarray) -> "Statistics":
        """Compute exact statistics of uint8 images `[N, H, W, C]`."""
        channels = range(images.shape[-1])
        return Statistics.of_counts(np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in channels]))

    @staticmethod
    def of_counts(counts: np.ndarray) -> "Statistics":
        """Compute exact statistics from the histogram `[C, 256]` of the pixel values of each channel."""
        values = np.arange(256) / 255.0
        mean, std = [], []
        for count in counts:
            frequency = count / count.sum()
            mean.append(float(frequency @ values))
            std.append(float(np.sqrt(frequency @ (values - mean[-1]) ** 2)))
        return Statistics(tuple(mean), tuple(std))


# Recorded statistics save reading the whole training split before the first batch. Other datasets are measured.
# `jaxcnn datasets stats NAME` prints such a line. The statistics of imagenet2012 are torchvision's.
STATISTICS: dict[str, Statistics] = {
    "cifar10": Statistics((0.491400, 0.482158, 0.446531), (0.247032, 0.243485, 0.261588)),
    "cifar100": Statistics((0.507076, 0.486549, 0.440918), (0.267334, 0.256438, 0.276150)),
    "fashion_mnist": Statistics((0.286041,), (0.353024,)),
    "fashion_mnist_mini": Statistics((0.286105,), (0.353626,)),
    "imagenet2012": Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": Statistics((0.130660,), (0.308108,)),
}

CHUNK_SIZE = 1024
"""Number of examples in one read."""

STATISTICS_SAMPLES = 10_000
"""Maximum number of evenly spaced training images that are measured when images differ in size."""


def measure(dataset: Any, geometry: Geometry | None = None) -> Statistics:
    """Measure the statistics of the training split of a `Dataset`.

    All images are measured if they have one size, otherwise at most `STATISTICS_SAMPLES` of them.

    Args:
      dataset: the dataset.
      geometry: how images are brought to one size before they are measured. Default: they keep their size, and a
        larger image has more influence.
    """
    total = dataset.examples["train"]
    measured = min(STATISTICS_SAMPLES, total) if dataset.sizes_differ else total
    indices = np.linspace(0, total - 1, measured).astype(int)
    counts = np.zeros((dataset.image_shape[-1], 256), np.int64)
    for start in range(0, len(indices), CHUNK_SIZE):
        examples = dataset.read_encoded("train", indices[start : start + CHUNK_SIZE].tolist())
        own_size = geometry is None and dataset.sizes_differ
        images = map(dataset.decode, examples) if own_size else dataset.decode_batch(examples, geometry)
        for pixels in images:
            for channel in range(len(counts)):
                counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    return Statistics.of_counts(counts)
