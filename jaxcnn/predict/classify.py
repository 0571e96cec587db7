"""The most probable classes of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.predict.images import read_image
from jaxcnn.train import Trained


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image: class names with probabilities, the most probable first."""

    image: Path
    classes: tuple[tuple[str, float], ...]


def classify(trained: Trained, images: Sequence[Path], top: int = 5) -> list[Prediction]:
    """Predictions for image files.

    Args:
      trained: the network, as `jaxcnn.train.load_run` gives it.
      images: the files.
      top: how many classes to name.

    Raises:
      UsageError: an image that cannot be read, or fewer than one class asked for.
    """
    if top < 1:
        raise UsageError(f"top must be at least 1, got {top}")
    around = trained.preprocessing
    probabilities = trained.predict(np.stack([read_image(path, around.image_shape) for path in images]))
    predictions = []
    for path, row in zip(images, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[:top]
        predictions.append(Prediction(path, tuple((around.class_names[k], float(row[k])) for k in best)))
    return predictions
