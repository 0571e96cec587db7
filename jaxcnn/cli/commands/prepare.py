"""`jaxcnn prepare`: prepare a dataset from its original files, or download it."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxcnn.cli._flags import parse
from jaxcnn.cli._output import plain
from jaxcnn.data.prepare import prepare
from jaxcnn.errors import printable


@dataclass(frozen=True)
class Flags:
    """Prepare a dataset for training: download it, or read its original files from a folder (--source).

    imagefolder:PATH copies the images in a folder and reports what it found. Training does this when necessary.

    cifar10, cifar100, fashion_mnist, kmnist, mnist and svhn_cropped do not need TensorFlow. Other datasets do.
    `tfds.data_source(name)` of tensorflow-datasets can read the result, too.
    """

    name: tyro.conf.Positional[str]
    """Name of the dataset; `jaxcnn datasets` lists the names."""
    source: str | None = None
    """Folder of the original files (default: download them)."""
    data_dir: str | None = None
    """Folder of prepared datasets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    verify: bool = True
    """Accept original files whose checksums differ from the published ones."""
    force: bool = False
    """Replace the dataset if it exists."""
    skip_damaged: bool = False
    """Leave out damaged image files of an image folder, instead of stopping."""


def run(args: Sequence[str]) -> None:
    """Run `jaxcnn prepare` and show its progress."""
    flags = parse(Flags, "prepare", args)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, refresh_per_second=4)
    tasks = {}

    def show(split: str, done: int, total: int) -> None:
        if not tasks:
            bar.start()  # started late, since even an empty bar prints a line
        if split not in tasks:
            tasks[split] = bar.add_task(f"{flags.name} {split}", total=total)
        if done % 256 == 0 or done == total:
            bar.update(tasks[split], completed=done)

    try:
        result = prepare(
            flags.name,
            flags.source,
            flags.data_dir,
            verify=flags.verify,
            force=flags.force,
            skip_damaged=flags.skip_damaged,
            progress=show,
        )
    finally:
        if tasks:
            bar.stop()
    if result.unverified:
        files = ", ".join(result.unverified)
        console.print(plain(f"no published checksum for {files}: only the format was checked"))
    for note in result.notes:
        print(note)
    if result.notes:
        return
    counts = ", ".join(f"{count:,} {split}" for split, count in result.examples.items())
    print(f"{flags.name}: {counts} images in {printable(result.folder)}")
