"""`jaxcnn visualize`: draw what a trained network has learned and what it sees."""

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from jaxcnn import predict, train
from jaxcnn.cli._flags import parse
from jaxcnn.cli._network_flags import RunOptions, open_run, source_note
from jaxcnn.data import Dataset
from jaxcnn.errors import UsageError, printable, unknown_name
from jaxcnn.local_path import local_path
from jaxcnn.train.evaluation import evaluation_batches, open_test_set
from jaxcnn.train.runtime.trained import BATCH
from jaxcnn.train.runtime.workdir import replacing

What = Literal["all", "filters", "features", "grad-cam", "confusion", "mistakes", "field", "layers"]


@dataclass(frozen=True, kw_only=True)
class Flags(RunOptions):
    """Draw what a trained network has learned and what it sees, as PNG files.

    filters: kernels of the first convolution. features: feature maps of a layer for an image. grad-cam: regions of an
    image that support a class. confusion: confusion matrix. mistakes: the most confident mistakes. field: receptive
    fields of layers. all: every figure above. layers: print the names of the layers and draw nothing.
    """

    what: tyro.conf.Positional[What] = "all"
    """Figure to draw."""
    workdir: str = tyro.MISSING
    """Run directory."""
    dataset: str | None = None
    """Dataset whose test images are used (default: the dataset of the run)."""
    data_dir: str | None = None
    """Directory of prepared datasets (default: the directory that the run used, or $TFDS_DATA_DIR, or
    ~/tensorflow_datasets)."""
    image: str | None = None
    """Input image of the figures features, grad-cam and field (default: the first test image)."""
    layer: str | None = None
    """Name of the layer to draw (default: the first layer for features, the last layer for grad-cam,
    all layers for field)."""
    label: str | None = None
    """Name of the class that grad-cam explains (default: the most probable class)."""
    out: str | None = None
    """Output directory (default: visualize/ in the run directory)."""


def run(args: Sequence[str]) -> None:
    """Run `jaxcnn visualize`."""
    flags = parse(Flags, "visualize", args)
    from jaxcnn import visualize

    trained = open_run(flags.workdir, flags)
    layers = visualize.layer_names(trained.model, trained.variables, trained.preprocessing.image_shape)
    if flags.what == "layers":
        print("\n".join(layers))
        return
    if flags.layer is not None and flags.layer not in layers:
        raise unknown_name("layer", flags.layer, layers)
    label = _label(flags.label, trained.preprocessing.class_names)
    image = None
    if flags.image is not None:
        image = predict.read_image(predict.find_images([flags.image])[0], trained.preprocessing)
    tests = _Tests(trained, flags)
    if flags.what in ("all", "confusion", "mistakes") or (image is None and flags.what != "filters"):
        tests.open()
    figures = _draw(flags, trained, tests, image, label, layers)
    folder = local_path("--out", flags.out) if flags.out else local_path("--workdir", flags.workdir) / "visualize"
    _write(figures, folder)
    print(source_note(trained, flags), file=sys.stderr)


def _draw(
    flags: Flags, trained: train.Trained, tests: "_Tests", image: Any, label: int | None, layers: list[str]
) -> dict[str, Any]:
    """Return the figures by name. For `all`, print a note instead of each figure that cannot be drawn.

    Raises:
      UsageError: if the requested figure cannot be drawn, or `all` is requested and no figure can be drawn.
    """
    from jaxcnn import visualize

    model, preprocessing = trained.model, trained.preprocessing

    def the_image() -> np.ndarray:
        return tests.first_image if image is None else image

    def feature_maps() -> Any:
        if not layers:
            raise UsageError(f"{trained.name} has no layer that returns feature maps. Use a convolutional network.")
        return visualize.feature_map_figure(trained, the_image(), flags.layer or layers[0])

    pictures: dict[str, Callable[[], Any]] = {
        "filters": lambda: visualize.filter_figure(model, trained.variables, preprocessing.image_shape),
        "features": feature_maps,
        "grad-cam": lambda: visualize.grad_cam_figure(trained, the_image(), label, flags.layer),
        "confusion": lambda: visualize.confusion_figure(tests.labels, tests.predicted, preprocessing.class_names),
        "mistakes": lambda: visualize.draw_mistakes(tests.mistakes, preprocessing.class_names),
        "field": lambda: visualize.receptive_field_figure(model, the_image(), flags.layer),
    }
    if flags.what != "all":
        return {flags.what: pictures[flags.what]()}
    figures, errors = {}, []
    for name, draw in pictures.items():
        try:
            figures[name] = draw()
        except UsageError as error:  # for example, the model has no convolutions or makes no mistakes
            errors.append((name, error))
    if not figures:
        raise errors[0][1]
    for name, error in errors:
        print(f"{name} is left out: {error}", file=sys.stderr)
    return figures


def _write(figures: dict[str, Any], folder: Path) -> None:
    """Write figures as PNG files, and print their paths."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # matplotlib warns about characters that its font does not have
                with replacing(folder / f"{name}.png") as picture:
                    figure.savefig(picture)
            print(printable(folder / f"{name}.png"))
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}. Give another folder with --out.") from error


def _label(name: str | None, class_names: Sequence[str]) -> int | None:
    if name is None:
        return None
    if name not in class_names:
        raise unknown_name("class", name, class_names)
    return class_names.index(name)


class _Tests:
    """The test images of the dataset, which are read in batches when they are first used.

    Only a few images are in memory at a time.
    """

    def __init__(self, trained: train.Trained, flags: Flags):
        self._trained, self._flags = trained, flags

    def open(self) -> None:
        """Open the dataset.

        Raises:
          UsageError: if the dataset does not exist, or has classes that the network does not know.
        """
        _ = self._dataset

    @cached_property
    def _dataset(self) -> Dataset:
        return open_test_set(self._trained, self._flags.dataset, self._flags.data_dir)

    @cached_property
    def first_image(self) -> np.ndarray:
        return next(evaluation_batches(self._dataset, self._trained.preprocessing, 1)).batch["image"][0]

    @property
    def labels(self) -> np.ndarray:
        return self._results[0]

    @property
    def predicted(self) -> np.ndarray:
        return self._results[1]

    @property
    def mistakes(self) -> Any:
        return self._results[2]

    @cached_property
    def _results(self) -> tuple[np.ndarray, np.ndarray, Any]:
        """True and predicted classes of all test images, and the most confident mistakes."""
        from jaxcnn.visualize import Mistakes

        labels, predicted, mistakes = [], [], Mistakes()
        for batch, mask in evaluation_batches(self._dataset, self._trained.preprocessing, BATCH):
            images, true = batch["image"][mask], batch["label"][mask]
            if true.ndim != 1:
                raise UsageError(
                    "the figures confusion and mistakes need one class for each image, but the labels have a "
                    "weight for each class. "
                    "Use jaxcnn eval --per-class."
                )
            probabilities = self._trained.predict_batch(images, BATCH)
            mistakes.add(images, true, probabilities)
            labels.append(true)
            predicted.append(probabilities.argmax(axis=1))
        return np.concatenate(labels), np.concatenate(predicted), mistakes
