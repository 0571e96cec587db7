"""`jaxcnn datasets`: list datasets, draw example images, and measure pixel statistics."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from jaxcnn import data
from jaxcnn.cli._flags import parse
from jaxcnn.cli._output import print_rows
from jaxcnn.data.augment import check_sizes
from jaxcnn.errors import UsageError, printable
from jaxcnn.local_path import local_path


@dataclass(frozen=True)
class ListFlags:
    """List the datasets, and show which of them are prepared.

    `jaxcnn datasets show NAME` draws example images. `jaxcnn datasets stats NAME` measures the mean and standard
    deviation of the pixels.
    """

    data_dir: str | None = None
    """Folder of prepared datasets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    json: bool = False
    """Print the list as JSON."""


@dataclass(frozen=True)
class ShowFlags:
    """Draw random training images of each class to a PNG file, with or without augmentation."""

    name: tyro.conf.Positional[str]
    """Name of the dataset; `jaxcnn datasets` lists the names."""
    augment: tuple[str, ...] = ()
    """Augmentations to apply in this order, such as crop:4 flip. The augmented images appear below the originals."""
    out: str | None = None
    """PNG file to write (default: NAME.png)."""
    data_dir: str | None = None
    """Folder of prepared datasets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    classes: int = 10
    """Maximum number of classes to draw, from 1 to 100. Each class is one row of images."""
    columns: int = 8
    """Maximum number of images to draw for each class, from 1 to 100."""
    seed: int = 0
    """Seed of the random choice of images and of the augmentations."""


@dataclass(frozen=True)
class StatsFlags:
    """Measure the mean and standard deviation of the training pixels. Training normalizes images with these values."""

    name: tyro.conf.Positional[str]
    """Name of the dataset; `jaxcnn datasets` lists the names."""
    data_dir: str | None = None
    """Folder of prepared datasets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    json: bool = False
    """Print the statistics as JSON."""


def run(args: Sequence[str]) -> None:
    """Run `jaxcnn datasets`, or its subcommand `show` or `stats` if the first argument names a subcommand."""
    command = COMMANDS.get(args[0]) if args else None
    if command is not None:
        command(args[1:])
    else:
        _list(args)


def _list(args: Sequence[str]) -> None:
    flags = parse(ListFlags, "datasets", args)
    print_rows([_describe(name, flags.data_dir) for name in data.list_datasets(flags.data_dir)], as_json=flags.json)


def _describe(name: str, data_dir: str | None) -> dict[str, Any]:
    """Return the row of a dataset in the list, as a dict from column name to value."""
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
    for name, least, most in (("classes", 1, 100), ("columns", 1, 100), ("seed", 0, 2**32 - 1)):
        if not least <= getattr(flags, name) <= most:
            raise UsageError(f"--{name} is out of range: {getattr(flags, name)}. Use a number from {least} to {most}.")
    data.compose(flags.augment)  # reports an unknown name before the dataset is read
    given = None if flags.out is None else local_path("--out", flags.out)
    dataset = data.open_dataset(flags.name, flags.data_dir)
    check_sizes(flags.augment, dataset.image_shape)
    from jaxcnn.data.preparation.sheet import contact_sheet

    sheet = contact_sheet(dataset, flags.augment, classes=flags.classes, columns=flags.columns, seed=flags.seed)
    out = given or Path(f"{flags.name.replace(':', '_').rpartition('/')[2] or 'images'}.png")
    try:
        sheet.save(out, format="PNG")
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror or error}. Choose another path with --out.") from error
    print(printable(out))


def _stats(args: Sequence[str]) -> None:
    flags = parse(StatsFlags, "datasets stats", args)
    dataset = data.open_dataset(flags.name, flags.data_dir)
    measured, recorded = dataset.measure(), data.STATISTICS.get(flags.name)
    values = {"mean": [round(x, 6) for x in measured.mean], "std": [round(x, 6) for x in measured.std]}
    if flags.json:
        print(json.dumps({"name": flags.name, **values}))
        return
    print(f'"{printable(flags.name)}": Statistics({tuple(values["mean"])}, {tuple(values["std"])}),')
    if recorded is None:
        print(
            "not recorded in jaxcnn/data/statistics.py. Training measures these values once, and stores them with the "
            "dataset if its folder is writable."
        )
        return
    pairs = zip((*measured.mean, *measured.std), (*recorded.mean, *recorded.std), strict=True)
    difference = max(abs(a - b) for a, b in pairs)
    print(f"maximum difference from the values recorded in jaxcnn/data/statistics.py: {difference:.1e}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"show": _show, "stats": _stats}
