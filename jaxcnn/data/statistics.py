"""Mean and standard deviation of the pixels of a dataset: recorded here, or measured once and stored on disk."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from jaxcnn.data.decode import Geometry
from jaxcnn.data.threads import count_at_once, map_in_threads

if TYPE_CHECKING:
    from jaxcnn.data.dataset import Dataset

STATISTICS_SAMPLES = 10_000
"""Maximum number of training images to measure, evenly spaced in the training split.

All training images are measured if they have the same size and are not resized.
"""

FILE = "jaxcnn_statistics.json"
"""Name of the file that stores the measured statistics of a dataset, in the folder of the dataset."""

FORMAT = 1
"""Version of the statistics file. Change it when image decoding changes, to measure datasets again."""


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the training pixels in each channel.

    uint8 pixels are divided by 255 first. Float pixels are used unchanged.
    """

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

    def without_zeros(self) -> "Statistics":
        """Replace zero standard deviations by 1, so that normalization does not divide by zero."""
        return Statistics(self.mean, tuple(std or 1.0 for std in self.std))


STATISTICS: dict[str, Statistics] = {
    "cifar10": Statistics((0.491400, 0.482158, 0.446531), (0.247032, 0.243485, 0.261588)),
    "cifar100": Statistics((0.507076, 0.486549, 0.440918), (0.267334, 0.256438, 0.276150)),
    "fashion_mnist": Statistics((0.286041,), (0.353024,)),
    "fashion_mnist_mini": Statistics((0.286105,), (0.353626,)),
    "imagenet2012": Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": Statistics((0.130660,), (0.308108,)),
}
"""Recorded mean and standard deviation of the pixels of some datasets, which therefore need no measurement.

`jaxcnn datasets stats NAME` measures the statistics of another dataset. The values of imagenet2012 come from
torchvision.
"""


def measure(dataset: "Dataset", geometry: Geometry | None = None) -> Statistics:
    """Return the statistics of the training images. Measure the statistics if no earlier result is stored.

    Each pixel has the same weight. Images are measured in parallel on all CPU cores. The result is stored as `FILE` in
    the folder of the dataset. The result is not stored if the dataset is in `STATISTICS`, has no folder or has held-out
    examples, or if its folder is read-only.

    Args:
      dataset: dataset to measure.
      geometry: how to resize and crop images before the measurement. Default: images keep their size.

    Raises:
      UsageError: if image files are missing or damaged.
    """
    geometry = geometry or Geometry()
    key = json.dumps(geometry)
    kept = _read(dataset)
    if key in kept:
        return kept[key]
    if dataset.pixel_range == 255.0:
        statistics = Statistics.of_counts(sum(_measured(dataset, geometry, _histogram), start=np.zeros((), np.int64)))
    else:
        statistics = _combined(_measured(dataset, geometry, _moments))
    statistics = statistics.without_zeros()
    if dataset.name not in STATISTICS:
        _write(dataset, {**kept, key: statistics})
    return statistics


def _measured(dataset: "Dataset", geometry: Geometry, function: Callable[[np.ndarray], Any]) -> Iterator[Any]:
    """Yield `function(pixels)` for the pixels `[..., H, W, C]` of each part of the training images.

    Several threads load the images and call the function.
    """
    total, (height, width, _) = dataset.examples["train"], dataset.image_shape
    if geometry.size is None and height is not None and width is not None:
        geometry = geometry._replace(size=(height, width), resize="shorter", crop_fraction=1.0)
        indices = np.arange(total)
    else:
        indices = np.linspace(0, total - 1, min(STATISTICS_SAMPLES, total)).astype(int)
    # Images of different sizes cannot be stacked, so load them one by one.
    at_once = 1 if geometry.size is None else count_at_once((height, width))
    parts = [indices[start : start + at_once].tolist() for start in range(0, len(indices), at_once)]
    return map_in_threads(lambda part: function(dataset.load("train", part, geometry)["image"]), parts)


def _moments(pixels: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the number of pixels, and the mean and sum of squared deviations of the pixels in each channel, `[C]`."""
    channels = np.ascontiguousarray(pixels.reshape(-1, pixels.shape[-1]).T, np.float64)
    mean = channels.mean(1)
    return channels.shape[1], mean, np.square(channels - mean[:, None]).sum(1)


def _combined(parts: Iterable[tuple[int, np.ndarray, np.ndarray]]) -> Statistics:
    """Combine the moments of several parts of the pixels into statistics of all pixels (Chan, Golub, LeVeque, 1979)."""
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for more, part_mean, part_squares in parts:
        whole, difference = count + more, part_mean - mean
        squares = squares + part_squares + difference**2 * (count * more / whole)
        mean, count = mean + difference * (more / whole), whole
    std: np.ndarray = np.sqrt(squares / count)
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()))


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Return the histogram `[C, 256]` of uint8 pixels `[..., H, W, C]`."""
    rows = np.ascontiguousarray(pixels.reshape(-1, *pixels.shape[-2:]))
    # Pillow counts uint8 values directly. `np.bincount` would first copy them to int64.
    if rows.shape[-1] == 3:
        return np.array(Image.fromarray(rows).histogram(), np.int64).reshape(-1, 256)
    channels = [Image.fromarray(np.ascontiguousarray(rows[..., channel])) for channel in range(rows.shape[-1])]
    return np.array([channel.histogram() for channel in channels], np.int64)


def _read(dataset: "Dataset") -> dict[str, Statistics]:
    """Return the statistics that are stored in the folder of a dataset, by geometry.

    The keys of the dict are geometries as JSON text. If the file is damaged, the dict is empty.
    """
    folder = dataset.statistics_folder
    if folder is None:
        return {}
    try:
        stored: Any = json.loads((folder / FILE).read_text())
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
    """Store statistics in the folder of a dataset. Do nothing if the folder is read-only."""
    folder = dataset.statistics_folder
    if folder is None:
        return
    entries = {key: {"mean": value.mean, "std": value.std} for key, value in measured.items()}
    stored = {"format": FORMAT, "train": dataset.examples["train"], "measured": entries}
    # If the folder is read-only, each run measures the statistics again.
    with contextlib.suppress(OSError):
        temporary = folder / f".{FILE}.{os.getpid()}"
        temporary.write_text(json.dumps(stored, indent=1))
        temporary.replace(folder / FILE)
