"""Mean and standard deviation of the pixels of a dataset: recorded, or measured once and kept beside the dataset."""

import contextlib
import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from jaxcnn.data.decode import Geometry
from jaxcnn.data.threads import map_in_threads

if TYPE_CHECKING:
    from jaxcnn.data.dataset import Dataset

STATISTICS_SAMPLES = 10_000
"""Maximum number of evenly spaced training images that are measured, unless all images are measured at their own
common size."""

FILE = "jaxcnn_statistics.json"
"""File beside the dataset with its measured statistics."""

FORMAT = 1
"""Version of that file. Increase it when images are decoded in another way, so that they are measured again."""

MAX_CHUNK, CHUNK_PIXELS = 1024, 1 << 20
"""Maximum number of images, and of their pixels, that a thread reads at once."""

CHUNK_OF_UNKNOWN_SIZE = 16
"""Number of images that a thread reads at once if images differ in size."""


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


def measure(dataset: "Dataset", geometry: Geometry | None = None) -> Statistics:
    """Measure the statistics of the training images, or return those that were measured before.

    Each pixel has the same weight. Images are measured in parallel on all cores. The result is kept in `FILE` beside
    the dataset, unless the dataset is in `STATISTICS` or its folder cannot be written.

    Args:
      dataset: dataset to measure.
      geometry: how an image becomes pixels, without random parts. Default: the images at their own size.

    Raises:
      UsageError: files are missing or damaged.
    """
    geometry = geometry or Geometry()
    key = json.dumps(geometry)
    kept = _read(dataset)
    if key in kept:
        return kept[key]
    statistics = Statistics.of_counts(_count_pixels(dataset, geometry))
    if dataset.name not in STATISTICS:
        _write(dataset, {**kept, key: statistics})
    return statistics


def _count_pixels(dataset: "Dataset", geometry: Geometry) -> np.ndarray:
    """Return the histogram `[C, 256]` of the pixel values of each channel."""
    total, (height, width, channels) = dataset.examples["train"], dataset.image_shape
    if geometry.size is None and height is not None and width is not None:
        geometry = geometry._replace(size=(height, width), resize="shorter", crop_fraction=1.0)
        indices = np.arange(total)
    else:
        indices = np.linspace(0, total - 1, min(STATISTICS_SAMPLES, total)).astype(int)
    chunk = CHUNK_OF_UNKNOWN_SIZE
    if height is not None and width is not None:
        chunk = max(1, min(MAX_CHUNK, CHUNK_PIXELS // (height * width)))
    parts = [indices[start : start + chunk].tolist() for start in range(0, len(indices), chunk)]
    counts = np.zeros((channels, 256), np.int64)
    for part in map_in_threads(functools.partial(_count_pixels_of, dataset, geometry), parts):
        counts += part
    return counts


def _count_pixels_of(dataset: "Dataset", geometry: Geometry, indices: Sequence[int]) -> np.ndarray:
    """Return the histogram of the training images at `indices`."""
    examples = dataset.read_encoded("train", indices)
    if geometry.size is not None:
        return _histogram(dataset.decode_batch(examples, geometry))
    return sum((_histogram(dataset.decode(example, geometry)) for example in examples), start=np.zeros((), np.int64))


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Return the histogram `[C, 256]` of uint8 pixels `[..., H, W, C]`."""
    rows = np.ascontiguousarray(pixels.reshape(-1, *pixels.shape[-2:]))
    # Pillow counts uint8 values. `np.bincount` would copy them to int64 first.
    image = Image.fromarray(rows[..., 0] if rows.shape[-1] == 1 else rows)
    return np.array(image.histogram(), np.int64).reshape(-1, 256)


def _read(dataset: "Dataset") -> dict[str, Statistics]:
    """Return the statistics that are kept beside a dataset, by geometry. A damaged file contains none."""
    try:
        stored: Any = json.loads((dataset.directory / FILE).read_text())
        if stored["format"] != FORMAT or stored["train"] != dataset.examples["train"]:
            return {}
        return {
            key: Statistics(tuple(map(float, entry["mean"])), tuple(map(float, entry["std"])))
            for key, entry in stored["measured"].items()
            if len(entry["mean"]) == len(entry["std"]) == dataset.image_shape[-1]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write(dataset: "Dataset", measured: dict[str, Statistics]) -> None:
    """Keep statistics beside a dataset, if its folder can be written."""
    entries = {key: {"mean": value.mean, "std": value.std} for key, value in measured.items()}
    stored = {"format": FORMAT, "train": dataset.examples["train"], "measured": entries}
    # A run on a folder that cannot be written measures again.
    with contextlib.suppress(OSError):
        temporary = dataset.directory / f".{FILE}.{os.getpid()}"
        temporary.write_text(json.dumps(stored, indent=1))
        temporary.replace(dataset.directory / FILE)
