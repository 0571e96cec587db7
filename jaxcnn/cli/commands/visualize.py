"""`jaxcnn visualize`: draw what a trained network has learned and what it sees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console

from jaxcnn import data, predict, train
from jaxcnn.cli._flags import parse
from jaxcnn.errors import UsageError, unknown_name

What = Literal["all", "filters", "features", "grad-cam", "confusion", "mistakes", "field", "layers"]


@dataclass(frozen=True)
class Flags:
    """Draw what a trained network has learned and what it sees, as PNG files.

    filters: kernels of the first convolution. features: feature maps of a layer for an image. grad-cam: regions of an
    image that support a class. confusion: confusion matrix. mistakes: the most confident mistakes. field: receptive
    fields of layers. all: all of these. layers: print the names of the layers.
    """

    what: tyro.conf.Positional[What] = "all"
    """What to draw."""
    workdir: str = tyro.MISSING
    """Run directory."""
    image: str | None = None
    """Image file to use (default: the first test image)."""
    layer: str | None = None
    """Layer to draw (default: the first for features, the last for grad-cam, all for field)."""
    label: str | None = None
    """Class to explain (default: the most probable one)."""
    out: str | None = None
    """Output directory (default: visualize/ in the run directory)."""


def run(args: Sequence[str]) -> None:
    flags = parse(Flags, "visualize", args)
    from jaxcnn import visualize

    trained = train.load_run(flags.workdir)
    model, preprocessing = trained.model, trained.preprocessing
    layers = visualize.layer_names(model, trained.variables, preprocessing.image_shape)
    if flags.what == "layers":
        print("\n".join(layers))
        return
    if flags.layer is not None and flags.layer not in layers:
        raise unknown_name("layer", flags.layer, layers)
    if not layers:
        raise UsageError(f"{trained.config.model} has no layer whose output is feature maps")
    label = _label(flags.label, preprocessing.class_names)
    tests = _Tests(trained)
    if flags.image is not None:
        image = predict.read_image(predict.find_images([flags.image])[0], preprocessing)
    elif flags.what in ("all", "features", "grad-cam", "field"):
        image = tests.images[0]
    else:
        image = np.zeros(preprocessing.image_shape, np.uint8)

    pictures: dict[str, Callable[[], Any]] = {
        "filters": lambda: visualize.filter_figure(model, trained.variables, preprocessing.image_shape),
        "features": lambda: visualize.feature_map_figure(trained, image, flags.layer or layers[0]),
        "grad-cam": lambda: visualize.grad_cam_figure(trained, image, label, flags.layer),
        "confusion": lambda: visualize.confusion_figure(
            tests.labels, tests.probabilities.argmax(axis=1), preprocessing.class_names
        ),
        "mistakes": lambda: visualize.mistake_figure(
            tests.images, tests.labels, tests.probabilities, preprocessing.class_names
        ),
        "field": lambda: visualize.receptive_field_figure(model, image, flags.layer),
    }
    folder = Path(flags.out).expanduser() if flags.out else Path(flags.workdir).expanduser() / "visualize"
    figures = {name: draw() for name, draw in pictures.items() if flags.what in ("all", name)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png")
            Console().print(f"{folder / f'{name}.png'}", highlight=False, soft_wrap=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from error


def _label(name: str | None, class_names: Sequence[str]) -> int | None:
    if name is None:
        return None
    if name not in class_names:
        raise unknown_name("class", name, class_names)
    return class_names.index(name)


class _Tests:
    """The test images of the run's dataset. Reading and prediction are deferred to the first use."""

    def __init__(self, trained: train.Trained):
        self._trained = trained
        self._decoded: tuple[np.ndarray, np.ndarray] | None = None
        self._probabilities: np.ndarray | None = None

    @property
    def images(self) -> np.ndarray:
        return self._read()[0]

    @property
    def labels(self) -> np.ndarray:
        return self._read()[1]

    @property
    def probabilities(self) -> np.ndarray:
        if self._probabilities is None:
            self._probabilities = self._trained.predict(self.images)
        return self._probabilities

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        if self._decoded is None:
            config = self._trained.config
            dataset = data.open_dataset(config.dataset, config.data_dir)
            preprocessing = self._trained.preprocessing
            self._decoded = dataset.with_classes(preprocessing.class_names).read("test", preprocessing.geometry)
        return self._decoded
