"""A prepared dataset of labeled images: read, decode and label its examples."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxcnn.data import decode, imagefolder
from jaxcnn.data.decode import Geometry
from jaxcnn.data.statistics import STATISTICS, Statistics, measure
from jaxcnn.data.tfrecord import TfRecordSource
from jaxcnn.errors import UsageError, closest

SPLIT_NAMES = {"train": "training", "test": "test"}

CHUNK_SIZE = 1024
"""Number of examples in one read when a whole split is read."""


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
      notes: what the user should know about the data, one line each.
    """

    name: str
    directory: Path
    image_shape: tuple[int | None, int | None, int]
    class_names: tuple[str, ...]
    examples: Mapping[str, int]
    notes: tuple[str, ...] = ()
    _builder: Any = None
    _splits: Mapping[str, str] = field(default_factory=dict)  # "train" and "test" -> TFDS name of the split
    _keys: tuple[str, str] = ("image", "label")  # feature names of the image and of the label
    _labels: tuple[int, ...] | None = None  # position of each stored label in `class_names`; None if they are equal
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)  # data source of each split, and the statistics
    _decoded: dict[tuple[str, Geometry], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def sizes_differ(self) -> bool:
        """Return whether images differ in size, so that a batch needs a common image size."""
        return None in self.image_shape

    @property
    def chooses_test_images(self) -> bool:
        """Return whether the test images were chosen among those of each class, as the folder has no test set."""
        return self.name.startswith(imagefolder.PREFIX) and imagefolder.inventory(self.directory)["chosen"]

    def geometry(
        self,
        image_size: int | tuple[int, int] | None = None,
        resize: Literal["shorter", "stretch"] | int = "shorter",
        crop_fraction: float | None = None,
        background: Literal["white", "black"] = "white",
    ) -> Geometry:
        """Return the geometry that brings all images to one size.

        Args:
          image_size: height and width of the result, or one number for both. Default: the size of all images.
          resize, background: see `Geometry`.
          crop_fraction: see `Geometry`. Default: 1 if all images have this size already, else `decode.CROP_FRACTION`.

        Raises:
          UsageError: images differ in size and `image_size` is None, or `resize` cannot be used with the other values.
        """
        height, width, _ = self.image_shape
        if image_size is None:
            if height is None or width is None:
                raise UsageError(
                    f"images of dataset {self.name!r} differ in size. Set a common size with --image-size."
                )
            size = (height, width)
        else:
            size = image_size if isinstance(image_size, tuple) else (image_size, image_size)
        if isinstance(resize, int):
            if resize < max(size):
                raise UsageError(f"resize is less than the image size {max(size)}: {resize}. Use {max(size)} or more.")
            if crop_fraction is not None:
                raise UsageError("resize as a number and crop_fraction are mutually exclusive. Give one of them.")
        fraction = crop_fraction or (1.0 if size == (height, width) else decode.CROP_FRACTION)
        return Geometry(size, resize, fraction, background)

    def keeps_pixels(self, geometry: Geometry) -> bool:
        """Return whether the geometry leaves every image of this dataset as it is."""
        if geometry.size is None:
            return True
        whole = geometry.resize in ("shorter", "stretch") and geometry.crop_fraction == 1.0
        return whole and geometry.size == self.image_shape[:2]

    def with_classes(self, class_names: Sequence[str]) -> "Dataset":
        """Return the same images with labels that are positions in `class_names`, mapped by the names of the classes.

        Classes without images are noted.

        Raises:
          UsageError: the dataset has a class that is not in `class_names`.
        """
        class_names = tuple(class_names)
        if class_names == self.class_names:
            return self
        unknown = [name for name in self.class_names if name not in class_names]
        if unknown:
            missing = [name for name in class_names if name not in self.class_names]
            near = closest(unknown[0], missing)
            hint = f" Did you rename {near!r}?" if near else ""
            raise UsageError(
                f"dataset {self.name!r} has classes that the run does not know: {', '.join(map(repr, unknown))}. "
                f"The run knows {_listed(class_names)}.{hint}"
            )
        notes = self.notes
        missing = [name for name in class_names if name not in self.class_names]
        if missing:
            notes += (f"dataset {self.name!r} has no images of {_listed(missing)}",)
        labels = tuple(class_names.index(name) for name in self.class_names)
        if self._labels is not None:
            labels = tuple(labels[position] for position in self._labels)
        return replace(self, class_names=class_names, notes=notes, _labels=labels, _decoded={})

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
        except UsageError:
            raise
        except Exception as error:  # ArrayRecord and protobuf raise exceptions of many unrelated types
            raise self.damaged(error) from error
        stored_classes = self.num_classes if self._labels is None else len(self._labels)
        for example in examples:
            if not 0 <= example.label < stored_classes:
                raise UsageError(
                    f"dataset {self.name!r} in {self.directory} has a label out of range in the {split} split: "
                    f"{example.label}. Prepare it again with labels from 0 to {stored_classes - 1}."
                )
        if self._labels is None:
            return examples
        return [Encoded(example.image, self._labels[example.label]) for example in examples]

    def _source(self, split: str) -> Any:
        if split not in self._cache:
            self._cache[split] = self._open_source(self._splits[split])
        return self._cache[split]

    def _open_source(self, split: str) -> Any:
        """Return random access to the serialized examples of a split, by its TFDS name."""
        import tensorflow_datasets as tfds

        info, raw = self._builder.info, tfds.decode.DeserializeMethod.RAW_BYTES
        try:
            return self._builder.as_data_source(split=split, deserialize_method=raw)
        except NotImplementedError as error:  # TFDS reads other formats with TensorFlow
            if info.file_format.value == "tfrecord":
                return TfRecordSource(info.splits[split].file_instructions)
            raise UsageError(
                f"unsupported file format of dataset {self.name!r} in {self.directory}: {info.file_format.value}. "
                "Prepare it again with file_format='array_record'."
            ) from error

    def read(self, split: str, geometry: Geometry | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read and decode all images and labels of a split. The result is cached.

        Args:
          split: "train" or "test".
          geometry: how images are brought to one size. Default: `self.geometry()`, which keeps their size.

        Returns:
          Images, uint8 `[N, H, W, C]`, and labels, int32 `[N]`.

        Raises:
          UsageError: files are missing or damaged, or images differ in size and `geometry` is None.
        """
        geometry = geometry or self.geometry()
        if (split, geometry) not in self._decoded:
            self._decoded[split, geometry] = self._decode_split(split, geometry)
        return self._decoded[split, geometry]

    def _decode_split(self, split: str, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
        assert geometry.size is not None
        images = np.empty((self.examples[split], *geometry.size, self.image_shape[-1]), np.uint8)
        labels = np.empty(self.examples[split], np.int32)
        for start in range(0, len(labels), CHUNK_SIZE):
            stop = min(start + CHUNK_SIZE, len(labels))
            examples = self.read_encoded(split, range(start, stop))
            images[start:stop] = self.decode_batch(examples, geometry)
            labels[start:stop] = [example.label for example in examples]
        return images, labels

    def decode_batch(
        self,
        examples: Sequence[Encoded],
        geometry: Geometry | None = None,
        random_box: decode.RandomBox | None = None,
        randoms: Sequence[np.random.Generator] | None = None,
    ) -> np.ndarray:
        """Decode a batch of examples, with the same result as `decode` for each. Thread-safe.

        Args:
          examples: stored examples.
          geometry: how images are brought to one size. Default: `self.geometry()`, which keeps their size.
          random_box: distribution of a random part. By default the center crop is decoded.
          randoms: a random generator for each example. By default the center crop is decoded.

        Returns:
          Pixels, uint8 `[N, H, W, C]`.

        Raises:
          UsageError: an image is damaged, or images differ in size and `geometry` is None.
        """
        geometry = geometry or self.geometry()
        assert geometry.size is not None
        shape = (*geometry.size, self.image_shape[-1])
        if random_box is None and self.keeps_pixels(geometry):
            together = decode.decode_together([example.image for example in examples], shape)
            if together is not None:
                return together
        images = np.empty((len(examples), *shape), np.uint8)
        for index, example in enumerate(examples):
            random = None if randoms is None else randoms[index]
            images[index] = self.decode(example, geometry, random_box, random)
        return images

    def decode(
        self,
        example: Encoded,
        geometry: Geometry = Geometry(),  # noqa: B008  # immutable
        random_box: decode.RandomBox | None = None,
        random: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Decode the image of an example.

        Args:
          example: stored example.
          geometry: see `jaxcnn.data.decode.Geometry`. By default the image keeps its size.
          random_box: distribution of a random part. By default the part is the center crop.
          random: random generator of that part. By default the part is the center crop.

        Returns:
          Pixels, uint8 `[H, W, C]`.

        Raises:
          UsageError: the image is damaged.
        """
        try:
            return decode.decode(example.image, self.image_shape[-1], geometry, random_box, random)
        except ValueError as error:
            raise self.damaged(error) from error

    def damaged(self, error: BaseException) -> UsageError:
        """Return the error to raise when reading the files of this dataset fails with `error`."""
        if self.name.startswith(imagefolder.PREFIX):
            remedy = f"Remove {self.directory} to prepare it again."
        else:
            remedy = f"Run jaxcnn prepare {self.name} --force to prepare it again."
        return UsageError(f"dataset {self.name!r} in {self.directory} is damaged: {first_line(error)}. {remedy}")

    def statistics(self, geometry: Geometry | None = None) -> Statistics:
        """Return the recorded statistics of the training split, or measure them.

        Args:
          geometry: how images are brought to one size before they are measured. Default: they keep their size.
        """
        return STATISTICS.get(self.name) or self.measure(geometry)

    def measure(self, geometry: Geometry | None = None) -> Statistics:
        """Measure the statistics of the training split; see `jaxcnn.data.statistics.measure`. The result is cached."""
        key = f"statistics {geometry}"
        if key not in self._cache:
            self._cache[key] = measure(self, geometry)
        return self._cache[key]

    def fingerprint(self, *, contents: bool = False) -> dict[str, dict[str, Any]]:
        """Return what identifies the data, without reading the images unless `contents` is set.

        Returns:
          For each part of the data (a class of a folder in a split, or a split of a TFDS dataset): the number of
          `images`, a hash `sizes` of the names and sizes of the files, and a hash of their `contents` or None.
        """
        if self.name.startswith(imagefolder.PREFIX):
            parts = {}
            for name, splits in imagefolder.inventory(self.directory)["classes"].items():
                for split, part in splits.items():
                    if part["files"]:
                        parts[f"the {SPLIT_NAMES[split]} images of class {name!r}"] = {
                            "images": part["files"],
                            "sizes": part["sizes"],
                            "contents": part["contents"] if contents else None,
                        }
            return parts
        files = sorted(path for path in self.directory.iterdir() if path.is_file() and ".json" not in path.name)
        listed = "".join(f"{path.name} {path.stat().st_size}\n" for path in files)
        sizes = hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()
        hashed = hash_files(files) if contents else None
        return {
            f"the {SPLIT_NAMES[ours]} split {theirs!r}": {
                "images": self.examples[ours],
                "sizes": sizes,
                "contents": hashed,
            }
            for ours, theirs in self._splits.items()
        }


def _listed(names: Sequence[str], most: int = 10) -> str:
    """Return names, separated by commas; the first ones and a count if there are many."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")


def hash_files(paths: Sequence[Path]) -> str:
    """Return a SHA-256 of the contents of files, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
