"""Read the first examples of a stream before training, to find its classes and its pixel statistics."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from jaxcnn.data.dataset import Batch
from jaxcnn.data.statistics import STATISTICS_SAMPLES, Statistics
from jaxcnn.data.stream.counts import gather
from jaxcnn.data.stream.feed import rows
from jaxcnn.errors import UsageError

AT_ONCE = 1 << 20
"""Maximum number of pixels to measure at once."""

MOST_CLASSES = 1_000_000
"""Maximum number of classes that integer labels can define."""


@dataclass
class Moments:
    """Mean and sum of squared deviations of each channel, over the pixels that were added so far."""

    count: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, images: np.ndarray) -> None:
        """Add the pixels of images `[N, H, W, C]`. uint8 pixels are divided by 255 first."""
        pixels = images.reshape(-1, images.shape[-1])
        for start in range(0, len(pixels), AT_ONCE):
            part = pixels[start : start + AT_ONCE].astype(np.float64)
            part = part / 255.0 if images.dtype == np.uint8 else part
            mean = part.mean(axis=0)
            self.merge(Moments(len(part), mean, ((part - mean) ** 2).sum(axis=0)))

    def merge(self, other: "Moments") -> None:
        """Add the pixels of `other` (Chan, Golub and LeVeque: Updating formulae for sample variances, 1979)."""
        if self.count == 0:
            self.count, self.mean, self.squares = other.count, other.mean, other.squares
            return
        total = self.count + other.count
        difference = other.mean - self.mean
        self.squares = self.squares + other.squares + difference**2 * (self.count * other.count / total)
        self.mean = self.mean + difference * (other.count / total)
        self.count = total

    def statistics(self) -> Statistics:
        """Return the mean and the standard deviation of each channel, over the pixels of all processes."""
        whole = Moments()
        for count, *values in gather(np.concatenate([[float(self.count)], self.mean, self.squares])):
            mean, squares = np.split(np.array(values), 2)
            whole.merge(Moments(int(count), mean, squares))
        std = np.sqrt(whole.squares / whole.count)
        return Statistics(tuple(map(float, whole.mean)), tuple(map(float, std))).without_zeros()


def first_examples(batches: Iterator[Batch], most: int = STATISTICS_SAMPLES) -> Iterator[Batch]:
    """Yield the first `most` examples of a stream, batch by batch."""
    for batch in batches:
        length = len(batch["image"])
        yield rows(batch, 0, min(most, length))
        most -= length
        if most <= 0:
            return


def find_classes(labels: list[np.ndarray]) -> tuple[str, ...]:
    """Return class names "0", "1", ... for labels: integers `[N]`, or floats `[N, classes]`.

    Raises:
      UsageError: if the number of classes would be greater than `MOST_CLASSES`.
    """
    if labels[0].dtype == np.int32:
        count = 1 + max(int(part.max()) for part in labels)
        if count > MOST_CLASSES:
            raise UsageError(
                f"labels are too large for classes: {count - 1}. Return floats if labels are not classes, or give "
                "class_names."
            )
    else:
        count = labels[0].shape[1] if labels[0].ndim == 2 else 0
    return tuple(str(index) for index in range(count))
