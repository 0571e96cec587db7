"""What data sets exist, where they are, and how one is read.

Every data set, the one inside the package included, is a TFDS data set prepared as ArrayRecord and read through
`tfds.core.DatasetBuilder.as_data_source`, which needs no TensorFlow.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import UsageError, unknown_name

BUNDLED_DIR = Path(__file__).parent / "bundled"
"""The folder of data sets that come with the package."""


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of a training split's pixels, scaled to [0, 1], for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @staticmethod
    def of(images: np.ndarray) -> "Statistics":
        """Exact statistics of uint8 images `[N, H, W, C]`, from the counts of each pixel value."""
        values = np.arange(256) / 255.0
        mean, std = [], []
        for channel in range(images.shape[-1]):
            share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
            mean.append(float(share @ values))
            std.append(float(np.sqrt(share @ (values - mean[-1]) ** 2)))
        return Statistics(tuple(mean), tuple(std))


# Statistics recorded here save reading a training split whole before its first batch; a data set that is not
# listed is read and measured.
STATISTICS: dict[str, Statistics] = {
    "cifar10": Statistics((0.491400, 0.482158, 0.446531), (0.247032, 0.243485, 0.261588)),
    "cifar100": Statistics((0.507076, 0.486549, 0.440918), (0.267334, 0.256438, 0.276150)),
    "fashion_mnist": Statistics((0.286041,), (0.353024,)),
    "fashion_mnist_mini": Statistics((0.286105,), (0.353626,)),
    "mnist": Statistics((0.130660,), (0.308108,)),
}

KNOWN = ("cifar10", "cifar100", "fashion_mnist", "fashion_mnist_mini", "kmnist", "mnist", "svhn_cropped")
"""Names that are offered; any other TFDS data set of labelled images works by its name once it is prepared."""


def default_data_dir() -> Path:
    """Where prepared data sets are kept: `$TFDS_DATA_DIR`, or TFDS's own default."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


@dataclass(frozen=True)
class Dataset:
    """A prepared data set of labelled images.

    Attributes:
      name: its TFDS name.
      directory: where its files are.
      image_shape: `(H, W, C)`.
      class_names: one name a label, in the order of the labels.
      examples: how many examples the splits "train" and "test" have.
    """

    name: str
    directory: Path
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    examples: Mapping[str, int]
    _builder: Any
    _splits: Mapping[str, str]  # our name of a split -> the data set's own
    _keys: tuple[str, str]  # of the image and of the label in an example
    _decoded: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """All images (uint8 `[N, H, W, C]`) and labels (int32 `[N]`) of the split "train" or "test".

        A split is decoded once and kept.

        Raises:
          UsageError: files that are missing or damaged, or images that differ in size.
        """
        if split not in self._decoded:
            self._decoded[split] = self._decode(split)
        return self._decoded[split]

    def _decode(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        image_key, label_key = self._keys
        try:
            source = self._builder.as_data_source(split=self._splits[split])
            examples = source.__getitems__(range(len(source)))
        except Exception as error:  # ArrayRecord and the image decoder raise a zoo of types
            raise UsageError(
                f"data set {self.name!r} in {self.directory} is damaged: {_first_line(error)}; prepare it again"
            ) from error
        shapes = {example[image_key].shape for example in examples}
        if len(shapes) != 1:
            raise UsageError(f"data set {self.name!r} has images of {len(shapes)} sizes; all must have one size")
        images = np.stack([example[image_key] for example in examples])
        labels = np.array([example[label_key] for example in examples], np.int32)
        return images, labels

    def statistics(self) -> Statistics:
        """The recorded statistics of the training split, or those measured on it."""
        return STATISTICS.get(self.name) or Statistics.of(self.read("train")[0])


def list_datasets(data_dir: str | Path | None = None) -> list[str]:
    """Names of all known data sets and of whatever else is prepared in `data_dir`."""
    root = Path(data_dir) if data_dir else default_data_dir()
    prepared = {path.parent.parent.name for path in root.glob("*/*/dataset_info.json")}
    return sorted({*KNOWN, *prepared})


def open_dataset(name: str, data_dir: str | Path | None = None) -> Dataset:
    """The prepared data set of this name, from inside the package or from `data_dir`.

    Args:
      name: a TFDS name, with a configuration if it has any: `fashion_mnist`, `emnist/letters`.
      data_dir: the folder of prepared data sets; `default_data_dir()` if not given.

    Raises:
      UsageError: an unknown name (the nearest is named), one that is not prepared, or one without labelled images.
    """
    root = BUNDLED_DIR if (BUNDLED_DIR / name).is_dir() else Path(data_dir or default_data_dir()).expanduser()
    if not name or not any((root / name).glob("*/dataset_info.json")):
        # Asked before TFDS is: it would try to download, and without a network keep trying for ten minutes.
        known = list_datasets(data_dir)
        if name not in known:
            raise unknown_name("data set", name, known)
        raise UsageError(f"data set {name!r} is not prepared in {root}; give its folder with --data-dir")

    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS reports every file, and that it would like OpenCV
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=root)
        info: Any = builder.info
        keys = info.supervised_keys
        image, label = (info.features[key] for key in keys)
        class_names = tuple(label.names)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"data set {name!r} in {root} has no labelled images: {_first_line(error)}") from error

    splits = {"train": "train", "test": "test" if "test" in info.splits else "validation"}
    for ours, theirs in splits.items():
        if theirs not in info.splits:
            raise UsageError(f"data set {name!r} has no {ours} split; it has {', '.join(info.splits)}")
    return Dataset(
        name=name,
        directory=Path(builder.data_dir),
        image_shape=tuple(image.shape),
        class_names=class_names,
        examples={ours: info.splits[theirs].num_examples for ours, theirs in splits.items()},
        _builder=builder,
        _splits=splits,
        _keys=(keys[0], keys[1]),
    )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
