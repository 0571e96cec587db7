"""List, open and read datasets.

Every dataset, including the one inside the package, is a TFDS dataset in ArrayRecord files. It is read through
`tfds.core.DatasetBuilder.as_data_source`, which does not need TensorFlow.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcnn._scoped import quiet_logger
from jaxcnn.data import _png_batch, decode, imagefolder
from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.local_path import is_possible, local_folder

BUNDLED_DIR = Path(__file__).parent / "bundled"
"""Folder of the datasets inside the package."""


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

KNOWN = (
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "fashion_mnist_mini",
    "imagenet2012",
    "kmnist",
    "mnist",
    "svhn_cropped",
)
"""Names that are always listed. Every other TFDS dataset of labeled images can be opened once it is prepared."""


def default_data_dir() -> Path:
    """Return the folder of prepared datasets: `$TFDS_DATA_DIR`, or the default of TFDS.

    Raises:
      UsageError: the variable is not a folder on this machine, or the home directory is unknown.
    """
    folder = os.environ.get("TFDS_DATA_DIR")
    return local_folder("$TFDS_DATA_DIR", folder) if folder else local_folder("data_dir", "~/tensorflow_datasets")


def is_bundled(name: str) -> bool:
    """Return whether the package contains the dataset."""
    return name.isidentifier() and is_possible(name) and (BUNDLED_DIR / name).is_dir()


# Datasets whose split "test" has no labels. The split "validation" takes its place.
VALIDATION_AS_TEST = ("imagenet2012", "places365_small")

CHUNK_SIZE = 1024
"""Number of examples in one read when a whole split is read."""

STATISTICS_SAMPLES = 10_000
"""Maximum number of evenly spaced training images that are measured when images differ in size."""


class Encoded(NamedTuple):
    """A stored example: the bytes of an image file, and a label."""

    image: bytes
    label: int


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset of labeled images, opened by `open_dataset`.

    Attributes:
      name: TFDS name, or `imagefolder:PATH`.
      directory: folder of the files.
      image_shape: `(H, W, C)`. Height and width are None if images differ in size.
      class_names: name of each class, in the order of the labels.
      examples: number of examples in the splits "train" and "test".
    """

    name: str
    directory: Path
    image_shape: tuple[int | None, int | None, int]
    class_names: tuple[str, ...]
    examples: Mapping[str, int]
    _builder: Any
    _splits: Mapping[str, str]  # "train" and "test" -> TFDS name of the split
    _keys: tuple[str, str]  # feature names of the image and of the label
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)  # data source of each split, and the statistics
    _decoded: dict[tuple[str, tuple[int, int] | None], tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict, repr=False
    )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def sizes_differ(self) -> bool:
        """Return whether images differ in size, so that a batch needs a common image size."""
        return None in self.image_shape

    def read_encoded(self, split: str, indices: Sequence[int]) -> list[Encoded]:
        """Read the stored examples at `indices` of the split "train" or "test", in one call. Thread-safe.

        Raises:
          UsageError: files are missing or damaged, or a label is out of range.
        """
        # Parsing the protocol buffer directly is faster than decoding through the features of TFDS.
        from tensorflow_datasets.proto import tf_example_pb2

        image_key, label_key = self._keys
        try:
            records = self._source(split).__getitems__([int(index) for index in indices])
            examples = []
            for record in records:
                feature = tf_example_pb2.Example.FromString(record).features.feature  # pyright: ignore[reportAttributeAccessIssue]
                image, label = feature[image_key].bytes_list.value[0], feature[label_key].int64_list.value[0]
                examples.append(Encoded(image, label))
        except Exception as error:  # ArrayRecord and protobuf raise exceptions of many unrelated types
            raise self.damaged(error) from error
        for example in examples:
            if not 0 <= example.label < self.num_classes:
                raise UsageError(
                    f"dataset {self.name!r} in {self.directory} has a label out of range in the {split} split: "
                    f"{example.label}. Prepare it again with labels from 0 to {self.num_classes - 1}."
                )
        return examples

    def _source(self, split: str) -> Any:
        if split not in self._cache:
            import tensorflow_datasets as tfds

            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self._cache[split] = self._builder.as_data_source(split=self._splits[split], deserialize_method=raw)
        return self._cache[split]

    def read(self, split: str, size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read and decode all images and labels of a split. The result is cached.

        Args:
          split: "train" or "test".
          size: height and width of the result, to which the center crop of each image is resized. By default images
            keep their size.

        Returns:
          Images, uint8 `[N, H, W, C]`, and labels, int32 `[N]`.

        Raises:
          UsageError: files are missing or damaged, or images differ in size and `size` is None.
        """
        if (split, size) not in self._decoded:
            self._decoded[split, size] = self._decode_split(split, size)
        return self._decoded[split, size]

    def _decode_split(self, split: str, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
        if size is None and self.sizes_differ:
            raise UsageError(f"images of dataset {self.name!r} differ in size. Set a common size with --image-size.")
        height, width, channels = self.image_shape
        shape = size or (height or 0, width or 0)
        images = np.empty((self.examples[split], *shape, channels), np.uint8)
        labels = np.empty(self.examples[split], np.int32)
        for start in range(0, len(labels), CHUNK_SIZE):
            stop = min(start + CHUNK_SIZE, len(labels))
            examples = self.read_encoded(split, range(start, stop))
            images[start:stop] = self.decode_batch(examples, size)
            labels[start:stop] = [example.label for example in examples]
        return images, labels

    def decode_batch(
        self,
        examples: Sequence[Encoded],
        size: tuple[int, int] | None = None,
        random_box: decode.RandomBox | None = None,
        randoms: Sequence[np.random.Generator] | None = None,
    ) -> np.ndarray:
        """Decode a batch of examples, with the same result as `decode` for each. Thread-safe.

        Args:
          examples: stored examples, whose images must have one size if `size` is None.
          size: height and width of the result. By default images keep their size.
          random_box: distribution of a random part. By default the center crop is decoded.
          randoms: a random generator for each example. By default the center crop is decoded.

        Returns:
          Pixels, uint8 `[N, H, W, C]`.

        Raises:
          UsageError: an image is damaged.
        """
        height, width, channels = self.image_shape
        if size is None:
            shape = (height or 0, width or 0, channels)
            together = _png_batch.decode_together([example.image for example in examples], shape)
            if together is not None:
                return together
        images = np.empty((len(examples), *(size or (height or 0, width or 0)), channels), np.uint8)
        for index, example in enumerate(examples):
            random = None if randoms is None else randoms[index]
            images[index] = self.decode(example, size, random_box, random)
        return images

    def decode(
        self,
        example: Encoded,
        size: tuple[int, int] | None = None,
        random_box: decode.RandomBox | None = None,
        random: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Decode the image of an example.

        Args:
          example: stored example.
          size: height and width to which a part of the image is resized. By default the image keeps its size.
          random_box: distribution of a random part. By default the part is the center crop.
          random: random generator of that part. By default the part is the center crop.

        Returns:
          Pixels, uint8 `[H, W, C]`.

        Raises:
          UsageError: the image is damaged.
        """
        channels = self.image_shape[-1]
        try:
            if size is not None:
                return decode.decode_part(example.image, size, channels, random_box, random)
            return decode.decode(example.image, channels)
        except ValueError as error:
            raise self.damaged(error) from error

    def damaged(self, error: BaseException) -> UsageError:
        """Return the error to raise when reading the files of this dataset fails with `error`."""
        if self.name.startswith(imagefolder.PREFIX):
            remedy = f"Remove {self.directory} to prepare it again."
        else:
            remedy = f"Run jaxcnn prepare {self.name} --force to prepare it again."
        return UsageError(f"dataset {self.name!r} in {self.directory} is damaged: {_first_line(error)}. {remedy}")

    def statistics(self) -> Statistics:
        """Return the recorded statistics of the training split, or measure them."""
        return STATISTICS.get(self.name) or self.measure()

    def measure(self) -> Statistics:
        """Measure the statistics of the training split. The result is cached.

        All images are measured if they have one size, otherwise at most `STATISTICS_SAMPLES` of them. Each pixel has
        the same weight, so a larger image has more influence.
        """
        if "statistics" not in self._cache:
            self._cache["statistics"] = self._measure()
        return self._cache["statistics"]

    def _measure(self) -> Statistics:
        total = self.examples["train"]
        measured = min(STATISTICS_SAMPLES, total) if self.sizes_differ else total
        indices = np.linspace(0, total - 1, measured).astype(int)
        counts = np.zeros((self.image_shape[-1], 256), np.int64)
        for start in range(0, len(indices), CHUNK_SIZE):
            examples = self.read_encoded("train", indices[start : start + CHUNK_SIZE].tolist())
            images = map(self.decode, examples) if self.sizes_differ else self.decode_batch(examples)
            for pixels in images:
                for channel in range(len(counts)):
                    counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
        return Statistics.of_counts(counts)


def list_datasets(data_dir: str | Path | None = None) -> list[str]:
    """Return the names of the known datasets and of all datasets prepared in `data_dir`, sorted."""
    root = local_folder("data_dir", data_dir) if data_dir else default_data_dir()
    prepared = {path.parent.parent.name for path in root.glob("*/*/dataset_info.json")}
    return sorted({*KNOWN, *prepared})


@quiet_logger("absl", logging.ERROR)  # TFDS reports every file, and that it would like OpenCV
def open_dataset(name: str, data_dir: str | Path | None = None) -> Dataset:
    """Open a prepared dataset, from inside the package or from `data_dir`.

    Args:
      name: TFDS name, with the configuration if there are several ("fashion_mnist", "emnist/letters"); or
        "imagefolder:PATH", a folder with one folder of images for each class.
      data_dir: folder of prepared datasets. Default: `default_data_dir()`.

    Raises:
      UsageError: the name is unknown, or the dataset is not prepared, has no labeled images, or lacks a split.
    """
    if is_bundled(name):
        root = BUNDLED_DIR
    else:
        root = local_folder("data_dir", data_dir) if data_dir else default_data_dir()
    if name.startswith(imagefolder.PREFIX):
        directory = imagefolder.prepare(name.removeprefix(imagefolder.PREFIX), root)
    else:
        directory = None
        if not is_possible(name):
            raise unknown_name("dataset", name, KNOWN)
        if not name or not any((root / name).glob("*/dataset_info.json")):
            # Checked first, since TFDS would start a download and, without a network, retry for ten minutes.
            raise _not_prepared(name, root, data_dir)

    import tensorflow_datasets as tfds

    try:
        builder: Any = (
            tfds.builder(name, data_dir=root) if directory is None else tfds.builder_from_directory(directory)
        )
        info: Any = builder.info
        keys = info.supervised_keys
        image, label = (info.features[key] for key in keys)
        class_names = tuple(label.names)
        shape = tuple(image.shape)
        if len(shape) != 3 or shape[-1] is None or image.np_dtype != np.uint8:
            raise ValueError(f"its image feature is {image}")
    except (TypeError, ValueError, KeyError, AttributeError, OSError) as error:
        reason = _first_line(error)
        raise UsageError(
            f"dataset {name!r} in {root} has no labeled images: {reason}. "
            "Choose a dataset with uint8 images and one class label for each."
        ) from error

    has_test = "test" in info.splits and name.split("/")[0] not in VALIDATION_AS_TEST
    splits = {"train": "train", "test": "test" if has_test else "validation"}
    for ours, theirs in splits.items():
        if theirs not in info.splits:
            raise UsageError(
                f"dataset {name!r} has no {ours} split: it has {', '.join(info.splits)}. "
                "Choose a dataset with the splits train and test (or validation)."
            )
    return Dataset(
        name=name,
        directory=Path(builder.data_dir),
        image_shape=(shape[0], shape[1], shape[2]),
        class_names=class_names,
        examples={ours: info.splits[theirs].num_examples for ours, theirs in splits.items()},
        _builder=builder,
        _splits=splits,
        _keys=(keys[0], keys[1]),
    )


def _not_prepared(name: str, root: Path, data_dir: str | Path | None) -> UsageError:
    import tensorflow_datasets as tfds

    known = list_datasets(data_dir)
    if name not in known and name.split("/")[0] not in tfds.list_builders(with_community_datasets=False):
        if Path(name).is_dir():
            return UsageError(f"unknown dataset {name!r}; did you mean '{imagefolder.PREFIX}{name}'?")
        return unknown_name("dataset", name, known)
    incomplete = any((root / name).glob("*"))
    state = "is only partly prepared" if incomplete else "is not prepared"
    return UsageError(
        f"dataset {name!r} {state} in {root}. Run jaxcnn prepare {name}, or set the folder of prepared datasets "
        "with --data-dir."
    )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
