"""Datasets of the user's own sources: objects with `len(source)` and `source[i]`."""

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
"""Maximum size of the encoded examples of a source that are kept in memory, as a fraction of the host's memory."""


@dataclass(frozen=True)
class SourceDataset(Dataset):
    """Examples of a user's own source, opened by `from_source`.

    Raises:
      UsageError: raised by the methods that read examples, if the source raises an error or returns invalid examples.
    """

    _readers: Mapping[str, Reader] = field(default_factory=dict, repr=False)  # reader of each stored split
    _stored_labels: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)  # labels of each stored split

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

        Raises:
          UsageError: if the source raises an error, its length has changed, an image cannot be decoded, or the arrays
            of a field other than the image differ in shape.
        """
        geometry, channels = geometry or self.geometry(), channels or self.image_shape[-1]
        stored, places = self.stored_at(split, indices)
        reader = self._readers[stored]
        examples = [reader.read(place) for place in places]
        each_random = [None] * len(places) if randoms is None else randoms
        # If no resize is expected, do not resize, so that an image of another size raises an error.
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
        """Raise `UsageError` if an image does not have the expected size or type."""
        if pixels.shape[:2] != size:
            raise UsageError(
                f"images of {reader.what} differ in size: example {place} is {_size(pixels.shape[:2])}, other examples "
                f"are {_size(size)}. Set a common size with --image-size."
            )
        if pixels.dtype != self._dtype:
            raise UsageError(
                f"images of {reader.what} differ in type: example {place} is {pixels.dtype}, other examples are "
                f"{np.dtype(self._dtype)}. Give all images the same type, uint8 or float32."
            )

    def labels_at(self, split: str, indices: Sequence[int]) -> np.ndarray | None:
        """Return the labels of the examples at `indices`: int32 `[N]`, float32 `[N, classes]`, or None."""
        stored, places = self.stored_at(split, indices)
        labels = self._stored_labels.get(stored)
        return None if labels is None else self._with_positions(labels[np.asarray(places, np.int64)])

    def example_bytes(self, geometry: Geometry) -> int:
        """Return the number of bytes of all arrays of one decoded example."""
        others = jax.tree.leaves(self._readers["train"].read(0).others)
        return super().example_bytes(geometry) + sum(leaf.nbytes for leaf in others)

    def fingerprint(self, *, contents: bool = False) -> dict[str, dict[str, Any]]:
        """Return the length of each source, and a hash of at most 64 evenly spaced examples.

        `contents` has no effect: only the evenly spaced examples are hashed.

        Returns:
          A dict for each split. `images` is the number of examples. `sizes` is a hash of the names of the fields.
          `contents` is a hash of the evenly spaced examples. `files` is False, because the data are not files.
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
    """Stack the arrays of several examples along a new leading axis.

    Raises:
      UsageError: if the examples differ in keys or shapes.
    """
    described = [_leaves_of(tree) for tree in trees]
    for place, found in zip(places, described, strict=True):
        for key in {**described[0], **found}:
            here, first = found.get(key, "missing"), described[0].get(key, "missing")
            if here != first:
                raise UsageError(
                    f"{key!r} of {what} differs in shape: {here} in example {place}, {first} in example {places[0]}. "
                    "Give arrays of the same shape, or omit this field from `fields`."
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
    """Return a dataset of sources that have `len(source)` and `source[i]`.

    Sources are, for example, datasets of Hugging Face and torch, data sources of TFDS and grain, and lists. `source[i]`
    must return the same example every time. Several threads read a source. The examples of a source are kept in memory
    if they fit; otherwise they are read again for each batch.

    Args:
      train: source of training examples. An example is a dict with "image" and usually "label", a tuple `(image, label,
        ...)`, or an image.

        - An image is an array, a torch tensor, a Pillow image, the content of an image file, or the path of an image
          file. Arrays are uint8 or float `[H, W, C]` or `[H, W]`. Torch tensors may be `[C, H, W]` with 1, 3 or 4
          channels. Pillow images and image files are decoded as in prediction; see `jaxcnn.data.decode`.
        - A label is a class number, a string, or an array `[classes]` of values from 0 to 1.
        - Other fields that are arrays are kept for tasks of your own. Each field must have the same shape in all
          examples.
      test: source of test examples.
      validation: source of validation examples. Default: no validation split. `Dataset.with_validation` can hold out
        training examples later.
      class_names: name of each class. Default: the class names of the source (`features["label"].names`, `classes`), or
        else the distinct strings of the labels in sorted order, or the class numbers.
      fields: field of an example for each key of a batch, such as `{"image": "img", "label": "fine_label"}`. A field is
        a name, or a position in a tuple. Default: all fields.

    Raises:
      UsageError: if a source is empty or raises an error, an example does not have the form described for `train`, a
        label is out of range, or a class has no training examples.

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
    """Read the labels of a source, and the size, channels and type of its images.

    Args:
      reader: reader of the source.
      samples: some examples of the source, by index.
      column: all labels, or None if the labels are not known. If the labels are known, only the samples are read.
      keeps: whether to keep all examples in memory.

    Returns:
      A reader, the properties of the images that were read, and all labels.
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
    """Return the labels of all splits and the class names.

    The labels and the class names are empty if the examples have no labels.

    Raises:
      UsageError: if only some of the examples have a label, or `read_labels` raises `UsageError`.
    """
    has = {split: [_is_label(label) for label in part] for split, part in labels.items()}
    if not any(any(part) for part in has.values()):
        if class_names is not None:
            raise UsageError("class_names is given, but the examples have no label. Name the label field by `fields`.")
        return {}, ()
    for split, part in has.items():
        if not all(part):
            raise UsageError(
                f"example {part.index(False)} of {readers[split].what} has no label. Give each example a label."
            )
    found = class_names_of(source, "label" if fields is None else fields.get("label"))
    return read_labels(labels, class_names if class_names is not None else found)


def _is_label(label: Any) -> bool:
    return label is not None and not (isinstance(label, np.ndarray) and label.dtype == object)


def _common_channels(forms: Sequence[Form]) -> int:
    """Return the number of channels for all images. If some images are gray and other images have colors, return 3."""
    found = {form.channels for form in forms}
    if len(found) == 1:
        return found.pop()
    if found <= {1, 3, 4}:
        return 3
    raise UsageError(
        f"images have different numbers of channels: {', '.join(map(str, sorted(found)))}. "
        "Give all images the same number of channels."
    )


def _common_range(forms: Sequence[Form]) -> float:
    floats = {form.is_float for form in forms}
    if len(floats) > 1:
        raise UsageError("some images are uint8 and others are float. Give all images the same type.")
    return 1.0 if floats.pop() else 255.0
