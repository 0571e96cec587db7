"""Datasets of the user's own sources: anything with `len` and `[i]`."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxcnn.data import decode
from jaxcnn.data.dataset import Batch, Dataset
from jaxcnn.data.decode import Geometry
from jaxcnn.data.sources.elements import Example, Fields, Form, content_of, example_size, pixels_of
from jaxcnn.data.sources.labels import read_labels
from jaxcnn.data.sources.pixels import to_array
from jaxcnn.data.sources.reader import Reader, class_names_of, label_column, open_reader
from jaxcnn.data.threads import fits_memory
from jaxcnn.errors import UsageError

KEPT_SHARE = 0.15
"""Largest fraction of the host's memory that the examples of a source may take to be kept there before decoding."""


@dataclass(frozen=True)
class SourceDataset(Dataset):
    """Examples of a user's own source, opened by `from_source`.

    Raises:
      UsageError: from the methods that read examples, if the source raises an error or returns wrong examples.
    """

    _readers: Mapping[str, Reader] = field(default_factory=dict, repr=False)  # of each stored split
    _stored_labels: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)  # likewise, without positions

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
        """Read, decode and stack examples; see `Dataset.load`.

        Raises:
          UsageError: if the source raises or has changed its length, an image cannot be decoded, or arrays other than
            images differ in shape.
        """
        geometry, channels = geometry or self.geometry(), channels or self.image_shape[-1]
        stored, places = self.stored_at(split, indices)
        reader = self._readers[stored]
        examples = [reader.read(place) for place in places]
        each_random = [None] * len(places) if randoms is None else randoms
        # Images of another size than expected must not be resized unnoticed.
        used = geometry._replace(size=None) if random_box is None and self.keeps_pixels(geometry) else geometry
        images = []
        for place, example, random in zip(places, examples, each_random, strict=True):
            try:
                images.append(pixels_of(example.image, channels, used, random_box, random))
            except ValueError as error:
                raise reader.failure(place, error) from error
            self._check(images[-1], geometry.size or images[0].shape[:2], reader, place)
        batch = _stack([example.others for example in examples], places, reader.what)
        if images:
            batch["image"] = np.stack(images)
        else:
            height, width = geometry.size or (0, 0)
            batch["image"] = np.zeros((0, height, width, channels), self._dtype)
        labels = self.labels_at(split, indices)
        if labels is not None:
            batch["label"] = labels
        return batch

    @property
    def _dtype(self) -> Any:
        return np.uint8 if self.pixel_range == 255.0 else np.float32

    def _check(self, pixels: np.ndarray, size: tuple[int, ...], reader: Reader, place: int) -> None:
        """Raise `UsageError` if pixels do not have the size or type of those that were seen when the source opened."""
        if pixels.shape[:2] != size:
            raise UsageError(
                f"images of {reader.what} differ in size: that of example {place} is {_size(pixels.shape[:2])}, others "
                f"are {_size(size)}. Set a common size with --image-size."
            )
        if pixels.dtype != self._dtype:
            raise UsageError(
                f"images of {reader.what} differ in type: that of example {place} is {pixels.dtype}, others are "
                f"{np.dtype(self._dtype)}. Give uint8 or float32 for all."
            )

    def labels_at(self, split: str, indices: Sequence[int]) -> np.ndarray | None:
        """Return the labels of some examples: int32 `[N]`, float32 `[N, classes]`, or None."""
        stored, places = self.stored_at(split, indices)
        labels = self._stored_labels.get(stored)
        return None if labels is None else self._with_positions(labels[np.asarray(places, np.int64)])

    def example_bytes(self, geometry: Geometry) -> int:
        """Return the number of bytes of a decoded example: of all its leaves."""
        others = jax.tree.leaves(self._readers["train"].read(0).others)
        return super().example_bytes(geometry) + sum(leaf.nbytes for leaf in others)

    def fingerprint(self, *, contents: bool = False) -> dict[str, dict[str, Any]]:
        """Return the length of each source, and a hash of at most 64 evenly spaced examples.

        `contents` has no effect: the other examples are never read for it.

        Returns:
          For each split: the number of `images`, a hash `sizes` of the names of the fields, a hash of the `contents` of
          these examples, and that they are no `files`.
        """
        if "fingerprint" not in self._cache:
            self._cache["fingerprint"] = {reader.what: _identity(reader) for reader in self._readers.values()}
        return self._cache["fingerprint"]


def _identity(reader: Reader) -> dict[str, Any]:
    digest, keys = hashlib.sha256(), set()
    for content, others in reader.map(lambda _, x: (content_of(x), tuple(x.others)), reader.sample_indices()):
        digest.update(hashlib.sha256(content).digest())
        keys.add(others)
    return {
        "images": reader.length,
        "sizes": hashlib.sha256(repr(sorted(keys)).encode()).hexdigest(),
        "contents": digest.hexdigest(),
        "files": False,
    }


def _size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _stack(trees: Sequence[dict[str, Any]], places: Sequence[int], what: str) -> Batch:
    """Return trees of arrays stacked to arrays with a leading axis.

    Raises:
      UsageError: if they differ in keys or shapes.
    """
    described = [_leaves_of(tree) for tree in trees]
    for place, found in zip(places, described, strict=True):
        for key in {**described[0], **found}:
            here, first = found.get(key, "missing"), described[0].get(key, "missing")
            if here != first:
                raise UsageError(
                    f"{key!r} of {what} differs in shape: {here} in example {place}, {first} in example {places[0]}. "
                    "Give arrays of one shape, or leave it out by `fields`."
                )
    if not trees:
        return {}
    return dict(jax.tree.map(lambda *leaves: np.stack(leaves), *trees))


def _leaves_of(tree: Any) -> dict[str, str]:
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(str(key.key) for key in path): f"{leaf.dtype} {list(leaf.shape)}" for path, leaf in paths}


def from_source(
    train: Any,
    test: Any,
    validation: Any = None,
    class_names: Sequence[str] | None = None,
    fields: Fields | None = None,
) -> SourceDataset:
    """Return a dataset of sources with `len(source)` and `source[i]`, which must return the same example every time.

    These are, for example, datasets of Hugging Face and torch, data sources of TFDS and grain, and lists. Several
    threads read a source. Its examples are kept in memory if they fit there; otherwise they are read for each batch.

    Args:
      train: source of training examples. An example is a dict with "image" and usually "label", or a tuple
        `(image, label, ...)`, or an image.

        - An image is an array, a torch tensor, an image of Pillow, the content of an image file, or its path. Arrays
          are uint8 or float `[H, W, C]` or `[H, W]`. Torch tensors may be `[C, H, W]` with 1, 3 or 4 channels.
          All other kinds are decoded as in prediction, see `jaxcnn.data.decode`.
        - A label is a class number, a string, or an array `[classes]` of values from 0 to 1.
        - Other fields that are arrays are kept for tasks of your own. All examples must have the same shapes.
      test: source of test examples.
      validation: source of validation examples. Default: none; see `Dataset.with_validation`.
      class_names: name of each class. Default: those of the source (`features["label"].names`, `classes`), or the
        sorted strings of all labels, or their numbers.
      fields: names, or positions in a tuple, of the fields to use by their key in a batch, such as
        `{"image": "img", "label": "fine_label"}`.

    Raises:
      UsageError: if a source is empty or raises, an example is not as above, a label is out of range, or a class has no
        training examples.

    >>> examples = [{"image": np.full((8, 8), 30 * i, np.uint8), "label": ["cat", "dog"][i % 2]} for i in range(6)]
    >>> dataset = from_source(examples, examples)
    >>> dataset.class_names, dataset.labels("test").tolist()
    (('cat', 'dog'), [0, 1, 0, 1, 0, 1])
    """
    given = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
    fields = None if fields is None else _check_fields(fields)
    readers = {split: open_reader(source, split, fields) for split, source in given.items()}
    samples = {
        split: dict(zip(reader.sample_indices(), reader.map(_example, reader.sample_indices()), strict=True))
        for split, reader in readers.items()
    }
    sizes = {split: np.mean([example_size(x) for x in part.values()]) for split, part in samples.items()}
    keeps = fits_memory(sum(float(sizes[split]) * reader.length for split, reader in readers.items()), KEPT_SHARE)
    forms: list[Form] = []
    labels: dict[str, Any] = {}
    for split, reader in readers.items():
        column = None if keeps else label_column(reader, samples[split])
        readers[split], found, labels[split] = _scan(reader, samples[split], column, keeps=keeps)
        forms += found
    first = next(iter(samples["train"].values()))
    stored_labels, names = _read_all_labels(labels, class_names, train, fields, readers)
    height, width = forms[0].size if len({form.size for form in forms}) == 1 else (None, None)
    left_out = sorted(first.left_out)
    return SourceDataset(
        name="source",
        image_shape=(height, width, _common_channels(forms)),
        class_names=names,
        examples={split: reader.length for split, reader in readers.items()},
        notes=(f"fields that are not arrays are left out: {', '.join(left_out)}",) if left_out else (),
        pixel_range=_common_range(forms),
        _readers=readers,
        _stored_labels=stored_labels,
    )


def _check_fields(fields: Fields) -> Fields:
    if not isinstance(fields, Mapping) or "image" not in fields:
        raise UsageError(f"fields has no key 'image': {fields!r}. Use fields={{'image': ..., 'label': ...}}.")
    return dict(fields)


def _example(_: int, example: Example) -> Example:
    return example


def _scan(
    reader: Reader, samples: Mapping[int, Example], column: Any, *, keeps: bool
) -> tuple[Reader, list[Form], Any]:
    """Read the forms and labels of a source.

    Args:
      reader: of the source.
      samples: some examples.
      column: all labels if they are known. The samples alone are then read.
      keeps: whether to keep all examples in memory.

    Returns:
      A reader, the forms of the images that were read, and all labels.
    """
    if column is not None:
        return reader, [reader.form(index, example) for index, example in samples.items()], column
    kept, forms, labels = [], [], []

    def judge(index: int, example: Example) -> tuple[Form, Example | None, Any]:
        label = example.label if isinstance(example.label, str | bytes) else to_array(example.label)
        return reader.form(index, example), example if keeps else None, label

    for form, example, label in reader.map(judge, range(reader.length)):
        forms.append(form)
        labels.append(label)
        kept.append(example)
    reader.require_length()
    return reader.keeping(kept) if keeps else reader, forms, labels


def _read_all_labels(
    labels: Mapping[str, Any],
    class_names: Sequence[str] | None,
    source: Any,
    fields: Fields | None,
    readers: Mapping[str, Reader],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the labels of all splits and the class names; none if the examples have no label.

    Raises:
      UsageError: see `read_labels`; or some of the examples have a label and others do not.
    """
    has = {split: [_is_label(label) for label in part] for split, part in labels.items()}
    if not any(any(part) for part in has.values()):
        if class_names is not None:
            raise UsageError("class_names apply to labels, but the examples have no label. Name the field by `fields`.")
        return {}, ()
    for split, part in has.items():
        if not all(part):
            raise UsageError(f"example {part.index(False)} of {readers[split].what} has no label. Give each a label.")
    found = class_names_of(source, "label" if fields is None else fields.get("label"))
    return read_labels(labels, class_names if class_names is not None else found)


def _is_label(label: Any) -> bool:
    return label is not None and not (isinstance(label, np.ndarray) and label.dtype == object)


def _common_channels(forms: Sequence[Form]) -> int:
    """Return the number of channels of all images: 3 if some are gray and some have colors."""
    found = {form.channels for form in forms}
    if len(found) == 1:
        return found.pop()
    if found <= {1, 3, 4}:
        return 3
    raise UsageError(
        f"images have different numbers of channels: {', '.join(map(str, sorted(found)))}. Give one number."
    )


def _common_range(forms: Sequence[Form]) -> float:
    floats = {form.is_float for form in forms}
    if len(floats) > 1:
        raise UsageError("some images are uint8 and others float. Give one type for all.")
    return 1.0 if floats.pop() else 255.0
