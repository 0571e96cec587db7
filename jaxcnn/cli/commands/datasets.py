"""`jaxcnn datasets`: list the data sets, show one, measure its pixels."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from jaxcnn import data
from jaxcnn.cli._flags import parse
from jaxcnn.cli._output import print_rows
from jaxcnn.errors import UsageError


@dataclass(frozen=True)
class ListFlags:
    """List the data sets, and which of them are prepared.

    `jaxcnn datasets show NAME` draws a sheet of images, `jaxcnn datasets stats NAME` measures mean and deviation.
    """

    data_dir: str | None = None
    """Folder of prepared data sets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    json: bool = False
    """Print the list as JSON."""


@dataclass(frozen=True)
class ShowFlags:
    """Draw a sheet of training images with the names of their classes, raw and augmented."""

    name: tyro.conf.Positional[str]
    """Data set; `jaxcnn datasets` lists them."""
    augment: tuple[str, ...] = ()
    """Augmentations, in order, such as crop:4 flip; they are shown under the raw images."""
    out: str | None = None
    """File to write, a PNG (default: NAME.png)."""
    data_dir: str | None = None
    """Folder of prepared data sets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    classes: int = 10
    """Classes to show, a row each."""
    columns: int = 8
    """Images of each class."""
    seed: int = 0
    """Start of the randomness in which images, and how they are augmented."""


@dataclass(frozen=True)
class StatsFlags:
    """Measure mean and deviation of the training pixels, which images are normalised with."""

    name: tyro.conf.Positional[str]
    """Data set; `jaxcnn datasets` lists them."""
    data_dir: str | None = None
    """Folder of prepared data sets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    json: bool = False
    """Print them as JSON."""


def run(args: Sequence[str]) -> None:
    command = COMMANDS.get(args[0]) if args else None
    if command is not None:
        command(args[1:])
    else:
        _list(args)


def _list(args: Sequence[str]) -> None:
    flags = parse(ListFlags, "datasets", args)
    print_rows([_describe(name, flags.data_dir) for name in data.list_datasets(flags.data_dir)], as_json=flags.json)


def _describe(name: str, data_dir: str | None) -> dict[str, Any]:
    try:
        dataset = data.open_dataset(name, data_dir)
    except UsageError:
        return {"name": name, "prepared": False}
    return {
        "name": name,
        "prepared": True,
        "image": "x".join("?" if side is None else str(side) for side in dataset.image_shape),
        "classes": dataset.num_classes,
        "training images": dataset.examples["train"],
        "test images": dataset.examples["test"],
        "folder": str(dataset.directory),
    }


def _show(args: Sequence[str]) -> None:
    flags = parse(ShowFlags, "datasets show", args)
    for name, value in (("classes", flags.classes), ("columns", flags.columns)):
        if not 1 <= value <= 100:
            raise UsageError(f"{name} must be from 1 to 100, got {value}")
    data.compose(flags.augment)  # refuses unknown names before anything is read
    dataset = data.open_dataset(flags.name, flags.data_dir)
    from jaxcnn.data.sheet import contact_sheet

    sheet = contact_sheet(dataset, flags.augment, classes=flags.classes, columns=flags.columns, seed=flags.seed)
    out = Path(flags.out or f"{Path(flags.name.replace(':', '_')).name}.png").expanduser()
    try:
        sheet.save(out, format="PNG")
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror or error}") from error
    print(out)


def _stats(args: Sequence[str]) -> None:
    flags = parse(StatsFlags, "datasets stats", args)
    dataset = data.open_dataset(flags.name, flags.data_dir)
    measured, recorded = dataset.measure(), data.STATISTICS.get(flags.name)
    values = {"mean": [round(x, 6) for x in measured.mean], "std": [round(x, 6) for x in measured.std]}
    if flags.json:
        print(json.dumps({"name": flags.name, **values}))
        return
    print(f'"{flags.name}": Statistics({tuple(values["mean"])}, {tuple(values["std"])}),')
    if recorded is None:
        print("not recorded in jaxcnn/data/datasets.py: every run measures it anew")
    else:
        away = max(
            abs(a - b) for a, b in zip((*measured.mean, *measured.std), (*recorded.mean, *recorded.std), strict=True)
        )
        print(f"recorded in jaxcnn/data/datasets.py, {away:.1e} away at most")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"show": _show, "stats": _stats}
