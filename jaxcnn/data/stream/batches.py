"""Datasets of iterators of batches, such as iterators of tf.data, torch or grain, or generator functions."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

import numpy as np

from jaxcnn.data.augment import OF_THE_PIPELINE
from jaxcnn.data.dataset import Batch, Dataset
from jaxcnn.data.decode import Geometry
from jaxcnn.data.statistics import Statistics
from jaxcnn.data.stream import StreamPipeline
from jaxcnn.data.stream.counts import Counts, count_all
from jaxcnn.data.stream.feed import joined, one_pass
from jaxcnn.data.stream.form import Form
from jaxcnn.data.stream.measure import Moments, find_classes, first_examples
from jaxcnn.data.stream.source import Source
from jaxcnn.errors import UsageError, unknown_name


@dataclass(frozen=True)
class BatchesDataset(Dataset):
    """Examples that are read in order from iterators of batches; see `from_batches`.

    Attributes:
      sources: source of the batches of each split.
      found: names of the arguments that the caller of `from_batches` omitted. The values of these arguments come from
        this process's part of the data.
    """

    sources: Mapping[str, Source] = field(default_factory=dict)
    found: tuple[str, ...] = ()
    _moments: list[Moments] = field(default_factory=list, repr=False)  # of the first training examples

    @property
    def counts(self) -> Counts:
        """Number of examples of each split."""
        return cast(Counts, self.examples)

    def form(self, split: str) -> Form:
        """Return an object that checks and converts the batches of a new iterator."""
        height, width, channels = self.image_shape
        assert height is not None
        assert width is not None
        classes = self.num_classes if self._positions is None else len(self._positions)
        dtype = np.dtype(np.uint8 if self.pixel_range == 255.0 else np.float32)
        return Form(split, (height, width, channels), dtype, classes, self._with_positions)

    def examined(self, split: str) -> Iterator[Batch]:
        """Yield all batches of an evaluation split.

        Raises:
          UsageError: if the iterator is empty, its number of examples has changed, or a batch is invalid.
        """
        count = 0
        for batch in one_pass(self.sources[split], self.form(split)):
            count += len(batch["image"])
            self.counts.check(split, count)
            yield batch
        self.counts.finish(split, count)

    def load(self, split: str, indices: Sequence[int], geometry: Geometry | None = None, **options: Any) -> NoReturn:
        """Raise `UsageError`: a stream has no random access."""
        self._refuse(f"examples of the {split} split cannot be loaded by index")

    def labels_at(self, split: str, indices: Sequence[int]) -> np.ndarray | None:
        """Return the labels of the examples at `indices` of an evaluation split.

        Raises:
          UsageError: for the training split, which has no random access.
        """
        if split == "train":
            self._refuse("training labels cannot be listed for class weights, balanced sampling or a stratified split")
        labels = self.decoded(split).get("label")
        return None if labels is None else labels[np.asarray(indices, np.int64)]

    def _load_all(self, split: str, geometry: Geometry) -> Batch:
        if split == "train":
            self._refuse("the training split cannot be kept in memory")
        if split not in self.sources:
            raise unknown_name(f"split of dataset {self.name!r}", split, self.sources)
        self._check_geometry(geometry)
        return joined(list(self.examined(split)))

    def with_validation(self, part: float | str, seed: int) -> Dataset:
        """Return this dataset if it has the validation split that `part` names.

        Raises:
          UsageError: if `part` is a fraction, or the dataset has no split of this name.
        """
        if "validation" not in self.sources and not isinstance(part, str):
            self._refuse("no fraction of the training split can be held out", "Pass validation=... to from_batches")
        return super().with_validation(part, seed)

    def measure(self, geometry: Geometry | None = None) -> Statistics:
        """Return the statistics of the first training examples, up to 10,000 in each process. The result is cached."""
        if "statistics" not in self._cache:
            if not self._moments:
                self._moments.append(_survey(self.sources["train"], self.form("train"))[0])
            self._cache["statistics"] = self._moments[0].statistics()
        return self._cache["statistics"]

    def fingerprint(self, *, contents: bool = False) -> dict[str, dict[str, Any]]:
        """Return the number of training examples, and a hash of the class names and the image shape.

        A hash of the examples would require reading the whole stream. A run therefore resumes with any stream that has
        the same number of examples, class names and image shape.
        """
        described = json.dumps([self.class_names, self.image_shape])
        sizes = hashlib.sha256(described.encode("utf-8", "surrogateescape")).hexdigest()
        return {"the training iterator": {"images": self.examples["train"], "sizes": sizes, "contents": None}}

    def open_stream(
        self,
        batch_size: int,
        seed: int = 0,
        *,
        geometry: Geometry | None = None,
        augment: Sequence[Any] = (),
        share: tuple[int, int] = (0, 1),
        sampling: str = "shuffle",
    ) -> StreamPipeline:
        """Return the pipeline of training and evaluation batches; see `open_pipeline`.

        Raises:
          UsageError: if the batch size is out of range, the geometry changes images, `sampling` is not "shuffle", or
            `augment` contains "alternating_flip". With several processes, `UsageError` is also raised if `examples` or
            `class_names` was not passed to `from_batches`.
        """
        examples = self.examples["train"]
        if not 1 <= batch_size <= examples:
            raise UsageError(f"batch_size must be from 1 to the {examples} training images, got {batch_size}")
        if sampling != "shuffle":
            self._refuse(f"sampling cannot be {sampling}")
        for spec in augment:
            if spec in OF_THE_PIPELINE:
                self._refuse(f"augmentation cannot be {spec}")
        geometry = geometry or self.geometry()
        self._check_geometry(geometry)
        if share[1] > 1:
            if self.found:
                raise UsageError(
                    f"{self.found[0]} is missing: each of {share[1]} processes reads only its part of the data. "
                    f"Pass {' and '.join(self.found)} to from_batches."
                )
            self.counts.exchange()
        height, width, channels = self.image_shape
        assert height is not None
        assert width is not None
        return StreamPipeline(
            dataset=self,
            batch_size=batch_size,
            seed=seed,
            image_shape=(height, width, channels),
            geometry=geometry,
            device_augment=tuple(augment),
            share=share,
        )

    def _check_geometry(self, geometry: Geometry) -> None:
        if not self.keeps_pixels(geometry):
            height, width, _ = self.image_shape
            raise UsageError(
                f"images of a stream keep their size, {height}x{width}. Resize the images in the iterator, and omit "
                "--image-size, --resize and --crop-fraction."
            )

    def _refuse(self, what: str, remedy: str = "Use from_arrays or from_source") -> NoReturn:
        raise UsageError(f"{what}: from_batches reads examples in order. {remedy}.")


def from_batches(
    train: Any,
    test: Any,
    *,
    examples: int | None = None,
    validation: Any = None,
    class_names: Sequence[str] | None = None,
    image_shape: tuple[int, int, int] | None = None,
) -> BatchesDataset:
    """Return a dataset that reads batches from your iterators, in their order.

    `train`, `test` and `validation` are functions that return a new iterator of batches, or objects that can be
    iterated again. Examples are `dataset.as_numpy_iterator` of tf.data, a `DataLoader` of torch, a dataset of grain, a
    generator function, and a list of batches. A function with a parameter is called with the number of the epoch, from
    0, so that the function can shuffle the examples. In an evaluation, the number of the epoch is always 0.

    A batch is a dict with `image` and usually `label`, or a tuple `(image, label, ...)`. Arrays of NumPy, JAX, torch
    and TensorFlow are supported. Arrays with other keys are passed on to the task. Further parts of a batch tuple have
    the keys `field2`, `field3`, ... Batches may have any length: they are regrouped to the batch size of the run. A
    batch that already has the batch size is used without a copy, so the iterator must not change this batch later.

    - Images are uint8 or floats. Floats are used unchanged. The shape is `[N, H, W, C]`, `[N, H, W]` or `[N, C, H, W]`.
      Images are read as `[N, C, H, W]` if axis 1 has length 1, 3 or 4 and the last axis does not. If `image_shape` is
      given, the axes are recognized by this shape.
    - Labels are integers `[N]`, or floats or multi-hot labels `[N, classes]`.

    An epoch has `examples` examples. If the training iterator ends, a new iterator is opened. A training iterator must
    end after a whole number of epochs, or never end. Evaluation iterators are read to their end in each evaluation, and
    must have the same number of examples each time.

    A resumed run continues with the next example. The state of the training iterator is saved as JSON with each
    checkpoint if the iterator has `get_state` and `set_state` (grain). The state is also saved if the iterator or its
    loader has `state_dict` and `load_state_dict` (`StatefulDataLoader` of torchdata). If the state of the iterator is
    not saved, the resumed run reads the earlier examples of the epoch again and skips them. If the iterator is
    deterministic, the resumed run then uses the same batches as a run without interruption. A resumed run raises an
    error if `examples`, the class names or the image shape have changed. A resumed run does not detect any other change
    of the data.

    If there are several processes, each process passes iterators of its own part of the examples: part p of P, where P
    is the number of processes. `DistributedSampler` of torch and `ShardByJaxProcess` of grain divide the examples among
    the processes. The numbers of examples in the parts of an epoch must differ by at most one. Pass `examples`, the
    number of examples of all parts together, and `class_names`. Evaluation iterators are read once more at the start,
    to count their examples.

    A stream has no random access. For validation fractions, class weights and balanced sampling, use `from_arrays` or
    `from_source`.

    Args:
      train: source of training batches: a function, or an object that can be iterated again.
      test: source of test batches.
      examples: number of training examples in an epoch. Default: if `train` has a length, the number of examples in one
        pass over `train`.
      validation: source of validation batches. Default: no validation split.
      class_names: name of each class; () if labels are not classes. Default: "0", "1", ... up to the largest label of
        the first 10,000 training examples.
      image_shape: shape `(H, W, C)` of the images. Default: the shape of the images in the first training batch.

    Returns:
      The dataset, for `fit(config, data=...)`. `from_batches` reads the first training batch, or up to 10,000 examples
      if `class_names` is None. If `class_names` is None, the mean and standard deviation of the pixels are also
      measured on the examples that were read.

    Raises:
      UsageError: if an argument or a batch does not have the form described above.

    >>> import numpy as np
    >>> def batches(epoch):
    ...     for start in np.random.default_rng(epoch).permutation(4) * 8:
    ...         yield {"image": np.full((8, 5, 5, 3), start, np.uint8), "label": np.arange(8) % 2}
    >>> dataset = from_batches(batches, batches, examples=32)
    >>> dataset.image_shape, dataset.class_names, dict(dataset.examples)
    ((5, 5, 3), ('0', '1'), {'train': 32, 'test': 32})
    """
    given = {"train": train, "test": test, "validation": validation}
    sources = {split: Source(split, make) for split, make in given.items() if make is not None or split != "validation"}
    found = tuple(name for name, value in (("examples", examples), ("class_names", class_names)) if value is None)
    if examples is None:
        if not hasattr(train, "__len__"):
            raise UsageError("examples is missing, and train has no length. Pass the number of examples in an epoch.")
        examples = count_all(sources["train"])
    if isinstance(examples, bool) or not isinstance(examples, (int, np.integer)) or examples < 1:
        raise UsageError(f"examples is not a number of training examples: {examples!r}. Pass an integer of 1 or more.")
    shape = None if image_shape is None else _checked_shape(image_shape)
    names = None if class_names is None else _checked_names(class_names)
    form = Form("train", shape, classes=None if names is None else len(names))
    moments = []
    if names is None:
        measured, names = _survey(sources["train"], form)
        moments.append(measured)
    else:
        _survey(sources["train"], form, most=1)
    assert form.image_shape is not None
    return BatchesDataset(
        name="batches",
        image_shape=form.image_shape,
        class_names=names,
        examples=Counts(int(examples), sources),
        pixel_range=255.0 if form.dtype == np.uint8 else 1.0,
        random_access=False,
        sources=sources,
        found=found,
        _moments=moments,
    )


def _survey(source: Source, form: Form, **limit: int) -> tuple[Moments, tuple[str, ...]]:
    """Return the moments of the first training examples, and the classes of their labels."""
    moments, labels = Moments(), []
    for batch in first_examples(one_pass(source, form), **limit):
        moments.add(batch["image"])
        labels.append(batch.get("label"))
    if not labels:
        raise UsageError("the training iterator is empty. Return at least one batch from each new iterator.")
    return moments, () if labels[0] is None else find_classes(labels)


def _checked_shape(image_shape: Sequence[int]) -> tuple[int, int, int]:
    shape = tuple(image_shape)
    if len(shape) != 3 or not all(isinstance(size, (int, np.integer)) and size > 0 for size in shape):
        raise UsageError(f"image_shape is not (H, W, C): {image_shape}. Pass three positive integers.")
    return int(shape[0]), int(shape[1]), int(shape[2])


def _checked_names(class_names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(class_names, str):
        raise UsageError(f"class_names is one string: {class_names!r}. Pass one name for each class.")
    names = tuple(map(str, class_names))
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"class_names has the same name twice: {twice!r}. Pass one name for each class.")
    return names
