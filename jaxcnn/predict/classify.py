"""Predict the most probable classes of image files."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from jaxcnn.data.decode import NotAnImageError
from jaxcnn.data.threads import map_in_threads
from jaxcnn.errors import UsageError
from jaxcnn.predict.images import decode_file, reason_of
from jaxcnn.predict.search import Candidate, has_image_name
from jaxcnn.train import Trained

Item = TypeVar("Item")

BATCH = 64
"""Number of images in one forward pass of the network."""

CHUNK = 16
"""Number of images that a thread decodes at a time. At most two chunks per thread wait for the network."""

DEFAULT_TOP = 5
"""Default number of classes that are returned for each image."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
      image: path of the file.
      classes: pairs of a class name and its probability, the most probable class first.
      label: the true class: the name of the closest parent folder of the image whose name is also a class name. None if
        there is no such folder.
      rank: position of `label` among all classes, from 1 for the most probable class; None if `label` is None.
    """

    image: Path
    classes: tuple[tuple[str, float], ...]
    label: str | None = None
    rank: int | None = None


@dataclass(frozen=True)
class Failure:
    """A file that was not classified because it could not be read as an image.

    Attributes:
      path: path of the file.
      reason: why the file could not be read.
      is_image: whether the file was expected to be an image. True if the caller gave the path of this file, or if its
        content or suffix belongs to an image format. If False, the file was found in a folder and can be skipped.
    """

    path: Path
    reason: str
    is_image: bool


def classify(trained: Trained, images: Sequence[Path], top: int | None = None) -> list[Prediction]:
    """Return the most probable classes of image files.

    Args:
      trained: a trained network, from `jaxcnn.train.load_run`.
      images: paths of the files.
      top: number of classes to return for each image. Default: 5, or all classes if there are fewer than 5.

    Raises:
      UsageError: if an image cannot be read, or `top` is not between 1 and the number of classes.
    """
    predictions = []
    for result in classify_files(trained, map(Candidate, images), top):
        if isinstance(result, Failure):
            raise UsageError(f"{result.path} cannot be read as an image: {result.reason}")
        predictions.append(result)
    return predictions


def classify_files(
    trained: Trained, files: Iterable[Candidate], top: int | None = None
) -> Iterator[Prediction | Failure]:
    """Yield a `Prediction` or a `Failure` for each file, in the order of the files.

    Threads decode the next images while the network computes. At most a few batches are in memory, for any number of
    files.

    Args:
      trained: a trained network, from `jaxcnn.train.load_run`.
      files: the files to classify, as `Candidate`s, such as a `Search`.
      top: number of classes to return for each image. Default: 5, or all classes if there are fewer than 5.

    Raises:
      UsageError: if `top` is not between 1 and the number of classes.
    """
    top = check_top(top, trained.num_classes)

    def read_chunk(chunk: list[Candidate]) -> list[tuple[Candidate, np.ndarray | Failure]]:
        return [(file, _read(trained, file)) for file in chunk]

    results = itertools.chain.from_iterable(map_in_threads(read_chunk, _grouped(files, CHUNK)))
    size = 0
    for group in _grouped(results, BATCH):
        decoded = [image for _, image in group if isinstance(image, np.ndarray)]
        # All batches are padded to the size of the first batch, so that JAX compiles one program only.
        size = size or (BATCH if len(group) == BATCH else len(decoded))
        rows = iter(trained.predict_batch(np.stack(decoded), size) if decoded else ())
        for file, image in group:
            yield image if isinstance(image, Failure) else _prediction(trained, file, next(rows), top)


def check_top(top: int | None, classes: int) -> int:
    """Return the number of classes to show for each image: `top`, or a default if `top` is None.

    Raises:
      UsageError: if `top` is not between 1 and `classes`, the number of classes of the network.
    """
    if top is None:
        return min(DEFAULT_TOP, classes)
    if top < 1:
        raise UsageError(f"top must be at least 1, got {top}")
    if top > classes:
        raise UsageError(f"top must be at most {classes}, the number of classes of the network, got {top}")
    return top


def _grouped(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items; the last list may be shorter."""
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _read(trained: Trained, file: Candidate) -> np.ndarray | Failure:
    try:
        return decode_file(file.path, trained.preprocessing)
    except (NotAnImageError, OSError) as error:
        return Failure(file.path, reason_of(error), file.root is None or has_image_name(file.path))
    except (ValueError, MemoryError) as error:
        return Failure(file.path, reason_of(error), True)


def _prediction(trained: Trained, file: Candidate, probabilities: np.ndarray, top: int) -> Prediction:
    names = trained.preprocessing.class_names
    order = np.argsort(-probabilities, kind="stable")
    label, rank = file.label(names), None
    if label is not None:
        rank = 1 + int(np.flatnonzero(order == names.index(label))[0])
    return Prediction(file.path, tuple((names[k], float(probabilities[k])) for k in order[:top]), label, rank)
