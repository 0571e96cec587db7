"""Describe the images of a dataset: the shapes and counts on which a compiled training step depends."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcnn.data import Dataset, Geometry, open_dataset
from jaxcnn.data.statistics import Statistics
from jaxcnn.errors import UsageError
from jaxcnn.models import create_model
from jaxcnn.train import Config

# Image shape, number of classes and number of training images of well-known datasets. These datasets do not have to be
# prepared. The images of ImageNet differ in size.
KNOWN: dict[str, tuple[tuple[int | None, int | None, int], int, int]] = {
    "cifar10": ((32, 32, 3), 10, 50_000),
    "cifar100": ((32, 32, 3), 100, 50_000),
    "fashion_mnist": ((28, 28, 1), 10, 60_000),
    "fashion_mnist_mini": ((28, 28, 1), 10, 10_000),
    "imagenet2012": ((None, None, 3), 1000, 1_281_167),
    "kmnist": ((28, 28, 1), 10, 60_000),
    "mnist": ((28, 28, 1), 10, 60_000),
    "svhn_cropped": ((32, 32, 3), 10, 73_257),
}

IMAGENET_SIDE = 224
"""A model with an image side of at least this number of pixels is assumed to train on images of different sizes."""

STEPS_PER_EPOCH = 1000
"""Number of steps in an epoch if the number of training images is unknown."""


@dataclass(frozen=True)
class Images:
    """Shape and number of the images to train on.

    Attributes:
      shape: `(H, W, C)` of the images in the dataset. Height and width are None if images differ in size.
      size: (height, width) of the images in a batch, to which images of other sizes are cropped.
      classes: number of classes of the dataset.
      count: number of training images; None if it is unknown.
      pixel_range: largest possible pixel value: 255.0 for uint8 images, 1.0 for float32 images.
    """

    shape: tuple[int | None, int | None, int]
    size: tuple[int, int]
    classes: int
    count: int | None = None
    pixel_range: float = 255.0

    @property
    def batch_shape(self) -> tuple[int, int, int]:
        """Shape `(H, W, C)` of the images in a batch."""
        return (*self.size, self.shape[-1])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict of JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Images":
        """Return the `Images` from which `to_dict` made the dict `values`."""
        shapes: Any = {name: tuple(values[name]) for name in ("shape", "size")}
        return Images(**{**values, **shapes})

    @staticmethod
    def of_model(config: Config) -> "Images":
        """Return images of the default shape of the configuration's model, or of `config.image_size` if it is set.

        Raises:
          UsageError: if the model is unknown.
        """
        model: Any = create_model(config.model)
        height, width, channels = model.image_shape
        # Images of ImageNet differ in size. The data pipeline crops the images before the step.
        varies = height >= IMAGENET_SIDE
        shape = (None, None, channels) if varies else (height, width, channels)
        return Images(shape, _size(config, (height, width)), model.num_classes)

    @staticmethod
    def of_dataset(config: Config) -> "Images":
        """Return the images of the dataset that a configuration names. Datasets in `KNOWN` do not have to be prepared.

        Raises:
          UsageError: if the dataset cannot be opened, or its images differ in size and no image size is given.
        """
        if config.dataset in KNOWN:
            shape, classes, count = KNOWN[config.dataset]
            return Images(shape, _size(config, shape[:2]), classes, count)
        data = open_dataset(
            config.dataset, config.data_dir, train_split=config.train_split, test_split=config.test_split
        )
        size = _size(config, data.image_shape[:2])
        return Images(data.image_shape, size, data.num_classes, data.examples["train"], data.pixel_range)


def _size(config: Config, own: tuple[int | None, int | None]) -> tuple[int, int]:
    size = config.image_size
    if size is not None:
        return size if isinstance(size, tuple) else (size, size)
    height, width = own
    if height is None or width is None:
        raise UsageError(f"images of dataset {config.dataset!r} differ in size. Set a common size with --image-size.")
    return height, width


@dataclass(frozen=True)
class ShapeDataset(Dataset):
    """A dataset whose images are zeros, because `make_plan` and `Pipeline` use only the shapes of the images."""

    size: tuple[int, int] = (1, 1)

    @staticmethod
    def of(images: Images, batch_size: int) -> "ShapeDataset":
        """Return a dataset with the shapes in `images`.

        If the number of images is unknown, the dataset has `STEPS_PER_EPOCH` batches.
        """
        names = tuple(str(index) for index in range(images.classes))
        count = images.count or STEPS_PER_EPOCH * batch_size
        return ShapeDataset(
            name="arrays",
            image_shape=images.shape,
            class_names=names,
            examples={"train": count, "test": 1},
            pixel_range=images.pixel_range,
            size=images.size,
        )

    def load(
        self, split: str, indices: Sequence[int], geometry: Geometry | None = None, **_: Any
    ) -> dict[str, np.ndarray]:
        """Return images of zeros and their labels. The images have the size of `geometry`; see `Dataset.load`."""
        size = self.size if geometry is None or geometry.size is None else geometry.size
        dtype = np.uint8 if self.pixel_range == 255.0 else np.float32
        images = np.zeros((len(indices), *size, self.image_shape[-1]), dtype)
        return {"image": images, "label": self.labels_at(split, indices)}

    def labels_at(self, split: str, indices: Sequence[int]) -> np.ndarray:
        """Return one class for each example, int32 `[N]`. All classes are equally frequent."""
        return (np.asarray(indices, np.int64) % self.num_classes).astype(np.int32)

    def labels(self, split: str) -> np.ndarray:
        """Return one label of each class, int32 `[classes]`, for class weights and balanced sampling."""
        return np.arange(self.num_classes, dtype=np.int32)

    def statistics(self, geometry: Geometry | None = None) -> Statistics:
        """Return typical pixel statistics. The statistics are constants of the step and do not affect its cost."""
        channels = self.image_shape[-1]
        return Statistics((0.5,) * channels, (0.25,) * channels)


def without_data(config: Config, images: Images) -> Config:
    """Return a configuration with the same training step as `config`, but without dataset, weights and directories."""
    return dataclasses.replace(
        config,
        dataset=Config.dataset,
        data_dir=None,
        train_split=None,
        test_split=None,
        validation=None,
        init_from=None,
        init_channels="exact",
        image_size=images.size if None in images.shape else config.image_size,
        workdir=None,
        wandb=False,
        tensorboard_images=0,
        profile=None,
        progress=False,
    )
