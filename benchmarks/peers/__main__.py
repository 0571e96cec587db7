"""Run the comparison: `python -m benchmarks.peers`. The docstring of the package describes it."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import benchmarks.peers
from benchmarks.peers.comparison import compare
from benchmarks.peers.libraries import DEFAULT_ENVIRONMENTS, PEERS
from benchmarks.peers.result_tables import to_markdown
from benchmarks.peers.task import MODELS, RESNETS
from benchmarks.results import RESULTS, write
from jaxcnn.errors import UsageError, unknown_name
from jaxcnn.measure.case import natural_image_shape

TITLE = "Baselines: the same network in other libraries"
DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_BATCH = {
    "lenet5": 256,
    "resnet20_cifar": 128,
    "resnet18": 16,
    "resnet18_small_stem": 64,
    "resnet50": 8,
    "resnet152": 4,
    "vgg16": 4,
    "densenet121": 8,
    "googlenet_bn": 8,
    "mobilenet_v2": 16,
    "efficientnet_b0": 16,
    "regnet_y_400mf": 16,
    "convnext_tiny": 8,
}


@dataclass(frozen=True)
class Column:
    """What is measured: `MODE-DTYPE`, or `MODE-DTYPE-BATCH`.

    Attributes:
      mode: "train" for a training step, or "inference" for a forward pass of the trained network.
      dtype: dtype of the computation. Weights in training, and images, are in float32.
      batch: number of images, or None for the model's number in `DEFAULT_BATCH`.
    """

    mode: str
    dtype: str
    batch: int | None = None

    def task(self, model: str, image_size: int | None, batch: int | None) -> dict[str, object]:
        """Return what the libraries compute; `batch` is the number of images of a column that has none."""
        height, width, channels = image_shape(model)
        size = image_size if model != "lenet5" else None
        return {
            "model": model,
            "mode": self.mode,
            "batch_size": self.batch or batch or DEFAULT_BATCH[model],
            "dtype": self.dtype,
            "image_shape": (size or height, size or width, channels),
        }


def parse(text: str) -> Column:
    """Return a column by its name.

    Raises:
      UsageError: there is no such mode or dtype, or the number of images is not positive.
    """
    mode, _, rest = text.partition("-")
    dtype, _, batch = rest.partition("-")
    for kind, given, known in (("mode", mode, PEERS), ("dtype", dtype, DTYPES)):
        if given not in known:
            raise UsageError(f"column {text}: {unknown_name(kind, given, known)}")
    if batch and not (batch.isdecimal() and int(batch)):
        raise UsageError(f"column {text}: {batch} is not a number of images. Give MODE-DTYPE or MODE-DTYPE-BATCH.")
    return Column(mode, dtype, int(batch) if batch else None)


def image_shape(model: str) -> tuple[int, int, int]:
    """Return the image shape `(H, W, C)` of a model's dataset."""
    return (32, 32, 3) if RESNETS.get(model, {}).get("small") else natural_image_shape(model)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=benchmarks.peers.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--models", default="lenet5,resnet20_cifar,resnet18,resnet50", help=f"any of: {', '.join(MODELS)}"
    )
    known = list(dict.fromkeys(peer.name for peers in PEERS.values() for peer in peers))
    batches = ", ".join(f"{model} {batch}" for model, batch in DEFAULT_BATCH.items())
    parser.add_argument(
        "--columns",
        default="train-float32",
        help="what to measure, in the order of the columns: MODE-DTYPE or MODE-DTYPE-BATCH, with the modes "
        f"{' and '.join(PEERS)} and the dtypes {', '.join(DTYPES)} (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, help=f"images of columns without BATCH (default: {batches})")
    parser.add_argument(
        "--image-size", type=int, help="image height and width, except for lenet5 (default: the model's dataset)"
    )
    parser.add_argument(
        "--peers",
        default=",".join(known),
        help="libraries, in the order of their turns (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds (default: %(default)s)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        help="approximate duration of a turn, which has at least one step (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        help="time limit in seconds for compiling and for a turn (default: %(default)s)",
    )
    parser.add_argument(
        "--environments",
        type=Path,
        default=DEFAULT_ENVIRONMENTS,
        help="folder for the libraries' virtual environments (default: %(default)s)",
    )
    parser.add_argument("--here", action="store_true", help="run all libraries in this Python environment")
    parser.add_argument(
        "--no-install", dest="install", action="store_false", help="skip libraries that are not installed"
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "peers", help="folder for the results (default: %(default)s)"
    )
    arguments = parser.parse_args(args)

    names, models = arguments.peers.split(","), arguments.models.split(",")
    for kind, given, choices in (("library", names, known), ("model", models, MODELS)):
        for name in given:
            if name not in choices:
                parser.error(str(unknown_name(kind, name, choices)))
    try:
        columns = [parse(column) for column in arguments.columns.split(",")]
    except UsageError as error:
        parser.error(str(error))
    rows: list[dict[str, Any]] = []
    for model in models:
        for column in columns:
            task = column.task(model, arguments.image_size, arguments.batch_size)
            print(f"{model} {column.mode} {column.dtype} batch {task['batch_size']}", file=sys.stderr, flush=True)
            libraries = {peer.name: peer for peer in PEERS[column.mode]}
            chosen = [libraries[name] for name in names if name in libraries]
            rows += compare(task, chosen, PEERS[column.mode][0].name, arguments)
            write(arguments.out, TITLE, rows, to_markdown(rows))
    print(to_markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
