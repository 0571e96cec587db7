"""What is done to an image before the model sees it, and what its answers mean: stored with the run."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax

from jaxcnn.data import Dataset, normalize
from jaxcnn.errors import UsageError
from jaxcnn.train.runtime import workdir

PREPROCESSING = "preprocessing.json"


@dataclass(frozen=True)
class Preprocessing:
    """From pixels to the model's input, and from its logits to classes.

    Attributes:
      image_shape: `(H, W, C)` of the images.
      mean, std: of the pixels in [0, 1], for each channel; they are subtracted and divided by.
      class_names: one name a logit.
    """

    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]

    @staticmethod
    def of(dataset: Dataset, image_size: int | None = None) -> "Preprocessing":
        """What training on this data set does, whose images are brought to `image_size` if one is given."""
        statistics = dataset.statistics()
        height, width, channels = dataset.image_shape
        if image_size is not None:
            height = width = image_size
        if height is None or width is None:
            raise UsageError(f"data set {dataset.name!r} has images of different sizes; give them one")
        return Preprocessing((height, width, channels), statistics.mean, statistics.std, dataset.class_names)

    def normalize(self, images: jax.Array) -> jax.Array:
        """The model's input `[N, H, W, C]` from uint8 images."""
        return normalize(images, self.mean, self.std)


def write(folder: Path, preprocessing: Preprocessing) -> None:
    """Writes `preprocessing.json` in a run's folder."""
    workdir.write_json(folder / PREPROCESSING, dataclasses.asdict(preprocessing))


def read(folder: Path) -> Preprocessing | None:
    """What stands in a run's folder, or None if it is from before this was stored.

    Raises:
      UsageError: a file that is damaged.
    """
    path = folder / PREPROCESSING
    if not path.exists():
        return None
    damaged = UsageError(f"{path} is damaged; remove it, and it is taken from the data set")
    try:
        found = Preprocessing(**{name: tuple(value) for name, value in workdir.read_json(path).items()})
        height, width, channels = found.image_shape
    except (TypeError, ValueError, AttributeError):
        raise damaged from None
    if not channels == len(found.mean) == len(found.std) or height * width == 0:
        raise damaged
    return found
