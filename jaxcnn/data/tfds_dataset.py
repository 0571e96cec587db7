"""Read and decode the examples of a prepared TFDS dataset."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.data import decode, imagefolder
from jaxcnn.data.dataset import SPLIT_NAMES, Batch, Dataset, first_line
from jaxcnn.data.decode import Geometry
from jaxcnn.data.tfrecord import TfRecordSource
from jaxcnn.errors import UsageError

READ_AT_ONCE = 1024
"""Number of examples to read in one call when the labels of a split are read."""

MOST_DIVIDED_BY_CLASS = 200_000
"""Larger training splits are divided without regard to class, since reading the labels of all examples takes long."""


class Encoded(NamedTuple):
    """A stored example: the bytes of an image file, and a label."""

    image: bytes
    label: int


@dataclass(frozen=True)
class TfdsDataset(Dataset):
    """A prepared dataset of labeled images, opened by `open_dataset`.

    `directory` is the folder of the files of the dataset.

    Raises:
      UsageError: raised by the methods that read examples, if a file is damaged.

    >>> from jaxcnn.data import open_dataset
    >>> dataset = open_dataset("fashion_mnist_mini")
    >>> isinstance(dataset, TfdsDataset), dataset.load("test", [0, 1])["image"].shape
    (True, (2, 28, 28, 1))
    """

    directory: Path = Path()
    _builder: Any = None
    _splits: Mapping[str, str] = field(default_factory=dict)  # "train" and "test" -> TFDS name of the split
    _keys: tuple[str, str] = ("image", "label")  # feature names of the image and of the label
    _sources: dict[str, Any] = field(default_factory=dict, repr=False)  # data source of each split, by its TFDS name

    @property
    def chooses_test_images(self) -> bool:
        """Return whether the test images were selected automatically, because the folder has no test set."""
        return imagefolder.is_copy(self.directory) and imagefolder.inventory(self.directory)["chosen"]

    def load(
        self,
        split: str,
        indices: Sequence[int],
        geometry: Geometry | None = None,
        *,
        channels: int | None = None,
        random_box: decode.RandomBox | None = None,
        randoms: Sequence[np.random.Generator] | None = None,
    ) -> Batch:
        """Read, decode and stack the examples at `indices` of a split; see `Dataset.load`.

        Returns:
          A batch with `image`, uint8 `[N, H, W, C]`, and `label`, int32 `[N]`.
        """
        examples = self.read_encoded(split, indices)
        images = self.decode_batch(examples, geometry, random_box, randoms, channels=channels)
        return Batch(image=images, label=np.array([example.label for example in examples], np.int32))

    def labels_at(self, split: str, indices: Sequence[int]) -> np.ndarray:
        """Return the labels of the examples at `indices` of a split, int32 `[N]`, without decoding images."""
        labels = np.empty(len(indices), np.int32)
        for start in range(0, len(indices), READ_AT_ONCE):
            examples = self.read_encoded(split, indices[start : start + READ_AT_ONCE])
            labels[start : start + len(examples)] = [example.label for example in examples]
        return labels

    def _labels_to_divide(self) -> np.ndarray | None:
        return super()._labels_to_divide() if self.examples["train"] <= MOST_DIVIDED_BY_CLASS else None

    def _with_validation_split(self, part: str) -> "TfdsDataset":
        """Return the dataset with `part`, a TFDS split or a part of a TFDS split, as the validation split.

        Raises:
          UsageError: if the split does not exist, is empty, overlaps the test split, or contains all training examples.
        """
        ranges = {**{split: self._ranges(split, name) for split, name in self._splits.items()}}
        held_out = self._ranges("validation", part)
        if _overlap(held_out, ranges["test"]).any():
            raise UsageError(
                f"the validation split {part!r} of dataset {self.name!r} overlaps its test split "
                f"{self._splits['test']!r}. Choose another part, such as 'train[90%:]'."
            )
        kept = np.flatnonzero(~_overlap(ranges["train"], held_out))
        if len(kept) == 0:
            raise UsageError(
                f"the validation split {part!r} of dataset {self.name!r} contains all training examples. Choose a "
                "part, such as 'train[90%:]'."
            )
        found = replace(
            self,
            examples={**self.examples, "validation": sum(stop - start for _, start, stop in held_out)},
            _splits={**self._splits, "validation": part},
            _cache={},
            _decoded={},
        )
        return found if len(kept) == self.examples["train"] else found._divided({"train": ("train", kept)})

    def _ranges(self, split: str, name: str) -> list[tuple[str, int, int]]:
        """Return the ranges `(TFDS split, start, stop)` of the examples in the split `name` (TFDS notation)."""
        import tensorflow_datasets as tfds

        splits = self._builder.info.splits
        count_examples(self.name, splits, split, name)
        instructions: Any = tfds.core.ReadInstruction.from_spec(name).to_absolute(splits)
        return [(part.splitname, part.from_ or 0, _stop(part, splits)) for part in instructions]

    def read_encoded(self, split: str, indices: Sequence[int]) -> list[Encoded]:
        """Read the stored examples at `indices` of a split in one call. This method is thread-safe.

        Raises:
          UsageError: if files are missing or damaged, or a label is out of range.
        """
        # Parsing the protocol buffer directly is faster than decoding through the features of TFDS.
        from tensorflow_datasets.proto import tf_example_pb2

        image_key, label_key = self._keys
        stored, places = self.stored_at(split, indices)
        try:
            records = self._source(stored).__getitems__(places)
            examples = []
            for record in records:
                feature = tf_example_pb2.Example.FromString(record).features.feature  # pyright: ignore[reportAttributeAccessIssue]
                image, label = feature[image_key].bytes_list.value[0], feature[label_key].int64_list.value[0]
                examples.append(Encoded(image, label))
        except UsageError:
            raise
        except Exception as error:  # ArrayRecord and protobuf raise exceptions of many unrelated types
            raise self.damaged(error) from error
        stored_classes = self.num_classes if self._positions is None else len(self._positions)
        for example in examples:
            if not 0 <= example.label < stored_classes:
                raise UsageError(
                    f"dataset {self.name!r} in {self.directory} has a label out of range in the {split} split: "
                    f"{example.label}. Prepare the dataset again with labels from 0 to {stored_classes - 1}."
                )
        if self._positions is None:
            return examples
        return [Encoded(example.image, self._positions[example.label]) for example in examples]

    def _source(self, split: str) -> Any:
        name = self._splits[split]
        if name not in self._sources:
            self._sources[name] = self._open_source(name)
        return self._sources[name]

    def _open_source(self, split: str) -> Any:
        """Return a random-access source of the serialized examples of `split`, the TFDS name of a split."""
        import tensorflow_datasets as tfds

        info, raw = self._builder.info, tfds.decode.DeserializeMethod.RAW_BYTES
        try:
            return self._builder.as_data_source(split=split, deserialize_method=raw)
        except NotImplementedError as error:  # TFDS reads formats other than ArrayRecord with TensorFlow
            if info.file_format.value == "tfrecord":
                return TfRecordSource(info.splits[split].file_instructions)
            raise UsageError(
                f"unsupported file format of dataset {self.name!r} in {self.directory}: {info.file_format.value}. "
                "Prepare the dataset again with file_format='array_record'."
            ) from error

    def decode_batch(
        self,
        examples: Sequence[Encoded],
        geometry: Geometry | None = None,
        random_box: decode.RandomBox | None = None,
        randoms: Sequence[np.random.Generator] | None = None,
        *,
        channels: int | None = None,
    ) -> np.ndarray:
        """Decode the images of a batch. This method is thread-safe.

        Each image equals the result of `decode` for the same example.

        Args:
          examples: stored examples.
          geometry: how to resize and crop the images. Default: `self.geometry()`, which keeps the size of the images.
          random_box: distribution of the random crop of each image. Default: the center crop.
          randoms: one random generator for each example, to draw the crop of its image. Default: the center crop.
          channels: number of channels of the result. Default: the number of channels in `image_shape`.

        Returns:
          Pixels, uint8 `[N, H, W, C]`.

        Raises:
          UsageError: if an image is damaged, or images differ in size and `geometry` is None.
        """
        geometry = geometry or self.geometry()
        channels = channels or self.image_shape[-1]
        height, width = geometry.size or self.image_shape[:2]
        if random_box is None and self.keeps_pixels(geometry) and height is not None and width is not None:
            together = decode.decode_together([example.image for example in examples], (height, width, channels))
            if together is not None:
                return together
        each_random = [None] * len(examples) if randoms is None else randoms
        decoded = (
            self.decode(example, geometry, random_box, random, channels=channels)
            for example, random in zip(examples, each_random, strict=True)
        )
        if geometry.size is not None:
            images = np.empty((len(examples), *geometry.size, channels), np.uint8)
            for index, pixels in enumerate(decoded):
                images[index] = pixels
            return images
        pixels = list(decoded)
        if len({image.shape for image in pixels}) > 1:
            raise UsageError(
                f"images of dataset {self.name!r} differ in size. Pass a `geometry` to `open_pipeline` to read batches."
            )
        return np.stack(pixels)

    def decode(
        self,
        example: Encoded,
        geometry: Geometry = Geometry(),  # noqa: B008  # immutable
        random_box: decode.RandomBox | None = None,
        random: np.random.Generator | None = None,
        *,
        channels: int | None = None,
    ) -> np.ndarray:
        """Decode the image of an example.

        Args:
          example: stored example.
          geometry: how to resize and crop the image; see `jaxcnn.data.Geometry`. By default, the image keeps its size.
          random_box: distribution of the random crop. Default: the center crop.
          random: random generator that draws the crop. Default: the center crop.
          channels: number of channels of the result. Default: the number of channels in `image_shape`.

        Returns:
          Pixels, uint8 `[H, W, C]`.

        Raises:
          UsageError: if the image is damaged.
        """
        try:
            return decode.decode(example.image, channels or self.image_shape[-1], geometry, random_box, random)
        except ValueError as error:
            raise self.damaged(error) from error

    def damaged(self, error: BaseException) -> UsageError:
        """Return the error to raise when reading the files of this dataset fails with `error`."""
        if imagefolder.is_copy(self.directory):
            remedy = f"Remove {self.directory} to prepare the dataset again."
        else:
            remedy = f"Run jaxcnn prepare {self.name} --force to prepare the dataset again."
        return UsageError(f"dataset {self.name!r} in {self.directory} is damaged: {first_line(error)}. {remedy}")

    def fingerprint(self, *, contents: bool = False) -> dict[str, dict[str, Any]]:
        """Return hashes that identify the data. Image files are read only if `contents` is True.

        Returns:
          A dict for each part of the data: for each class and split of a folder, or for each split of a TFDS dataset.
          `images` is the number of images. `sizes` is a hash of the names and sizes of the files. `contents` is a hash
          of the contents of the files, or None if this hash is not known.
        """
        if imagefolder.is_copy(self.directory):
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


def count_examples(dataset: str, splits: Any, ours: str, theirs: str) -> int:
    """Return the number of examples that a split in TFDS notation selects.

    Args:
      dataset: name of the dataset, for error messages.
      splits: all splits of the dataset, from its TFDS builder.
      ours: "train", "validation" or "test", for error messages.
      theirs: split in TFDS notation, such as "train[:90%]".

    Raises:
      UsageError: if the split does not exist, or is empty.
    """
    try:
        count = splits[theirs].num_examples
    except Exception as error:  # TFDS parses the notation, and raises exceptions of many types
        raise UsageError(
            f"dataset {dataset!r} has no {ours} split {theirs!r}: {first_line(error)}. The dataset has the splits "
            f"{', '.join(splits)}. Write a part of a split as 'train[:90%]'."
        ) from error
    if count < 1:
        raise UsageError(
            f"the {ours} split {theirs!r} of dataset {dataset!r} is empty. Choose a larger part of the split."
        )
    return count


def _stop(part: Any, splits: Any) -> int:
    return splits[part.splitname].num_examples if part.to is None else part.to


def _overlap(examples: Sequence[tuple[str, int, int]], others: Sequence[tuple[str, int, int]]) -> np.ndarray:
    """Return a bool mask of the examples in the ranges `examples`: True for examples in the ranges `others`."""
    found = []
    for name, start, stop in examples:
        places = np.arange(start, stop)
        inside = np.zeros(len(places), bool)
        for other, first, end in others:
            if other == name:
                inside |= (first <= places) & (places < end)
        found.append(inside)
    return np.concatenate(found)


def hash_files(paths: Sequence[Path]) -> str:
    """Return a SHA-256 hash of the contents of several files, which depends on the order of the files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
