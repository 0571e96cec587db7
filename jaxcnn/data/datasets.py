"""What data sets exist, where they are, and how one is read.

Every data set, the one inside the package included, is a TFDS data set prepared as ArrayRecord and read through
`tfds.core.DatasetBuilder.as_data_source`, which needs no TensorFlow.
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
        channels = range(images.shape[-1])
        return Statistics.of_counts(np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in channels]))

    @staticmethod
    def of_counts(counts: np.ndarray) -> "Statistics":
        """Exact statistics from how often each value of a pixel occurs in each channel, `[C, 256]`."""
        values = np.arange(256) / 255.0
        mean, std = [], []
        for count in counts:
            share = count / count.sum()
            mean.append(float(share @ values))
            std.append(float(np.sqrt(share @ (values - mean[-1]) ** 2)))
        return Statistics(tuple(mean), tuple(std))


# Statistics recorded here save reading a training split whole before its first batch; a data set that is not
# listed is read and measured. `jaxcnn datasets stats NAME` prints such a line; imagenet2012's is torchvision's.
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
"""Names that are offered; any other TFDS data set of labelled images works by its name once it is prepared."""


def default_data_dir() -> Path:
    """Where prepared data sets are kept: `$TFDS_DATA_DIR`, or TFDS's own default."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


# Whose split "test" has no labels.
TESTED_ON_VALIDATION = ("imagenet2012", "places365_small")

READ_AT_ONCE = 1024
"""Examples that are read in one call where a whole split is read."""


MEASURED = 10_000
"""Evenly spread training images that statistics are taken of, where images are large and differ in size."""


class Encoded(NamedTuple):
    """An example as it is kept: the bytes of an image file, and a label."""

    image: bytes
    label: int


@dataclass(frozen=True)
class Dataset:
    """A prepared data set of labelled images.

    Attributes:
      name: its TFDS name, or `imagefolder:PATH`.
      directory: where its files are.
      image_shape: `(H, W, C)`; height and width are None if images differ in size.
      class_names: one name a label, in the order of the labels.
      examples: how many examples the splits "train" and "test" have.
    """

    name: str
    directory: Path
    image_shape: tuple[int | None, int | None, int]
    class_names: tuple[str, ...]
    examples: Mapping[str, int]
    _builder: Any
    _splits: Mapping[str, str]  # our name of a split -> the data set's own
    _keys: tuple[str, str]  # of the image and of the label in an example
    _sources: dict[str, Any] = field(default_factory=dict, repr=False)
    _decoded: dict[tuple[str, tuple[int, int] | None], tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict, repr=False
    )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def sizes_differ(self) -> bool:
        """Whether images differ in size, so that they need a common one before they make a batch."""
        return None in self.image_shape

    def read_encoded(self, split: str, indices: Sequence[int]) -> list[Encoded]:
        """The examples of these places in the split "train" or "test", as they are kept, in one read.

        May be called by several threads at once.

        Raises:
          UsageError: files that are missing or damaged, or a label that is none of the classes.
        """
        # The messages of TFDS, compiled; only its features would be slower to go through.
        from tensorflow_datasets.proto import tf_example_pb2

        image_key, label_key = self._keys
        try:
            records = self._source(split).__getitems__([int(index) for index in indices])
            examples = []
            for record in records:
                feature = tf_example_pb2.Example.FromString(record).features.feature  # pyright: ignore[reportAttributeAccessIssue]
                image, label = feature[image_key].bytes_list.value[0], feature[label_key].int64_list.value[0]
                examples.append(Encoded(image, label))
        except Exception as error:  # ArrayRecord and protobuf raise a zoo of types
            raise self.damaged(error) from error
        for example in examples:
            if not 0 <= example.label < self.num_classes:
                raise UsageError(
                    f"data set {self.name!r} in {self.directory} has an image of the {split} split with the label "
                    f"{example.label}; labels of its {self.num_classes} classes are 0 to {self.num_classes - 1}"
                )
        return examples

    def _source(self, split: str) -> Any:
        if split not in self._sources:
            import tensorflow_datasets as tfds

            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self._sources[split] = self._builder.as_data_source(split=self._splits[split], deserialize_method=raw)
        return self._sources[split]

    def read(self, split: str, size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """All images (uint8 `[N, H, W, C]`) and labels (int32 `[N]`) of the split "train" or "test".

        A split is decoded once and kept.

        Args:
          size: height and width to bring the middle of each image to; as they are if not given.

        Raises:
          UsageError: files that are missing or damaged, or images that differ in size where no `size` is given.
        """
        if (split, size) not in self._decoded:
            self._decoded[split, size] = self._decode(split, size)
        return self._decoded[split, size]

    def _decode(self, split: str, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
        if size is None and self.sizes_differ:
            raise UsageError(f"images of data set {self.name!r} differ in size; give them one with --image-size")
        height, width, channels = self.image_shape
        shape = size or (height or 0, width or 0)
        images = np.empty((self.examples[split], *shape, channels), np.uint8)
        labels = np.empty(self.examples[split], np.int32)
        for start in range(0, len(labels), READ_AT_ONCE):
            places = range(start, min(start + READ_AT_ONCE, len(labels)))
            examples = self.read_encoded(split, places)
            images[places.start : places.stop] = self.decode_batch(examples, size)
            labels[places.start : places.stop] = [example.label for example in examples]
        return images, labels

    def decode_batch(
        self,
        examples: Sequence[Encoded],
        size: tuple[int, int] | None = None,
        random_box: decode.RandomBox | None = None,
        randoms: Sequence[np.random.Generator] | None = None,
    ) -> np.ndarray:
        """The pixels that `decode` gives of each example, uint8 `[N, H, W, C]`; of one size if there is no `size`.

        Several threads can do this at once, with small images too.

        Args:
          randoms: a generator for each example's random part.

        Raises:
          UsageError: a damaged image.
        """
        height, width, channels = self.image_shape
        if size is None:
            shape = (height or 0, width or 0, channels)
            together = _png_batch.decode_together([example.image for example in examples], shape)
            if together is not None:
                return together
        images = np.empty((len(examples), *(size or (height or 0, width or 0)), channels), np.uint8)
        for place, example in enumerate(examples):
            images[place] = self.decode(example, size, random_box, None if randoms is None else randoms[place])
        return images

    def decode(
        self,
        example: Encoded,
        size: tuple[int, int] | None = None,
        random_box: decode.RandomBox | None = None,
        random: np.random.Generator | None = None,
    ) -> np.ndarray:
        """The pixels of an example, uint8 `[H, W, C]`: as they are, or with a `size` the middle or a random part.

        Raises:
          UsageError: a damaged image.
        """
        channels = self.image_shape[-1]
        try:
            if size is not None:
                return decode.decode_part(example.image, size, channels, random_box, random)
            return decode.decode(example.image, channels)
        except ValueError as error:
            raise self.damaged(error) from error

    def damaged(self, error: BaseException) -> UsageError:
        """What to say of a data set in whose files `error` came up."""
        if self.name.startswith(imagefolder.PREFIX):
            how = f"remove {self.directory} and it is made again"
        else:
            how = f"jaxcnn prepare {self.name} --force makes it again"
        return UsageError(f"data set {self.name!r} in {self.directory} is damaged: {_first_line(error)}; {how}")

    def statistics(self) -> Statistics:
        """The recorded statistics of the training split, or those measured on it."""
        return STATISTICS.get(self.name) or self.measure()

    def measure(self) -> Statistics:
        """Statistics of the training split: of all images if they have one size, or of `MEASURED` if they differ.

        Each pixel counts once, so that a larger image counts more.
        """
        if "statistics" not in self._sources:
            self._sources["statistics"] = self._measure()
        return self._sources["statistics"]

    def _measure(self) -> Statistics:
        examples = self.examples["train"]
        places = np.linspace(0, examples - 1, min(MEASURED, examples) if self.sizes_differ else examples).astype(int)
        counts = np.zeros((self.image_shape[-1], 256), np.int64)
        for start in range(0, len(places), READ_AT_ONCE):
            examples = self.read_encoded("train", places[start : start + READ_AT_ONCE].tolist())
            for pixels in map(self.decode, examples) if self.sizes_differ else self.decode_batch(examples):
                for channel, count in enumerate(counts):
                    count += np.bincount(pixels[..., channel].ravel(), minlength=256)
        return Statistics.of_counts(counts)


def list_datasets(data_dir: str | Path | None = None) -> list[str]:
    """Names of all known data sets and of whatever else is prepared in `data_dir`."""
    root = Path(data_dir) if data_dir else default_data_dir()
    prepared = {path.parent.parent.name for path in root.glob("*/*/dataset_info.json")}
    return sorted({*KNOWN, *prepared})


@quiet_logger("absl", logging.ERROR)  # TFDS reports every file, and that it would like OpenCV
def open_dataset(name: str, data_dir: str | Path | None = None) -> Dataset:
    """The prepared data set of this name, from inside the package or from `data_dir`.

    Args:
      name: a TFDS name, with a configuration if it has any, `fashion_mnist`, `emnist/letters`; or `imagefolder:PATH`,
        a folder of folders of images, one a class.
      data_dir: the folder of prepared data sets; `default_data_dir()` if not given.

    Raises:
      UsageError: an unknown name (the nearest is named), one that is not prepared, or one without labelled images.
    """
    root = Path(data_dir or default_data_dir()).expanduser()
    if name.startswith(imagefolder.PREFIX):
        directory = imagefolder.prepare(name.removeprefix(imagefolder.PREFIX), root)
    else:
        root = BUNDLED_DIR if (BUNDLED_DIR / name).is_dir() else root
        directory = None
        if not name or not any((root / name).glob("*/dataset_info.json")):
            # Asked before TFDS is: it would try to download, and without a network keep trying for ten minutes.
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
            raise ValueError(f"its images are {image}")
    except (TypeError, ValueError, KeyError, AttributeError, OSError) as error:
        raise UsageError(f"data set {name!r} in {root} has no labelled images: {_first_line(error)}") from error

    tested = "test" if "test" in info.splits and name.split("/")[0] not in TESTED_ON_VALIDATION else "validation"
    splits = {"train": "train", "test": tested}
    for ours, theirs in splits.items():
        if theirs not in info.splits:
            raise UsageError(f"data set {name!r} has no {ours} split; it has {', '.join(info.splits)}")
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
        return unknown_name("data set", name, known)
    half = any((root / name).glob("*.incomplete*")) or any((root / name).glob("*"))
    state = "is not prepared to its end" if half else "is not prepared"
    return UsageError(
        f"data set {name!r} {state} in {root}; jaxcnn prepare {name} makes it, and --data-dir tells where it is"
    )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
