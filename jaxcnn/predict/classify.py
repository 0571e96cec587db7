"""Predict the most probable classes of image files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.predict.images import read_image
from jaxcnn.train import Trained


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
      image: path of the file.
      classes: class names with probabilities, the most probable first.
    """

    image: Path
    classes: tuple[tuple[str, float], ...]


def classify(trained: Trained, images: Sequence[Path], top: int = 5) -> list[Prediction]:
    """Return the most probable classes of image files.

    Args:
      trained: a trained network, from `jaxcnn.train.load_run`.
      images: paths of the files.
      top: number of classes to return for each image.

    Raises:
      UsageError: an image cannot be read, or `top` is below 1.
    """
    if top < 1:
        raise UsageError(f"top must be at least 1, got {top}")
    preprocessing = trained.preprocessing
    probabilities = trained.predict(np.stack([read_image(path, preprocessing) for path in images]))
    predictions = []
    for path, row in zip(images, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[:top]
        predictions.append(Prediction(path, tuple((preprocessing.class_names[k], float(row[k])) for k in best)))
    return predictions
