"""`jaxcnn prepare`: make a data set."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxcnn.cli._flags import parse
from jaxcnn.data.prepare import prepare


@dataclass(frozen=True)
class Flags:
    """Make a data set: from the original files in a folder, offline, or downloaded from where its authors keep it.

    cifar10, cifar100, fashion_mnist, kmnist, mnist and svhn_cropped need no TensorFlow, and are read by a plain
    `tfds.data_source(name)` afterwards.
    """

    name: tyro.conf.Positional[str]
    """Data set; `jaxcnn datasets` lists them."""
    source: str | None = None
    """Folder of the original files (default: download them)."""
    data_dir: str | None = None
    """Folder of prepared data sets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    verify: bool = True
    """Whether files must have the sums that are published for them."""
    force: bool = False
    """Make the data set anew if it is there already."""


def run(args: Sequence[str]) -> None:
    flags = parse(Flags, "prepare", args)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, refresh_per_second=4)
    tasks = {}

    def show(split: str, done: int, total: int) -> None:
        if not tasks:
            bar.start()  # not before there is something to show, since even an empty bar leaves a line
        if split not in tasks:
            tasks[split] = bar.add_task(f"{flags.name} {split}", total=total)
        if done % 256 == 0 or done == total:
            bar.update(tasks[split], completed=done)

    try:
        made = prepare(flags.name, flags.source, flags.data_dir, verify=flags.verify, force=flags.force, progress=show)
    finally:
        if tasks:
            bar.stop()
    if made.unverified:
        console.print(f"no sum is published for {', '.join(made.unverified)}: checked by format alone")
    counts = ", ".join(f"{count:,} {split}" for split, count in made.examples.items())
    print(f"{flags.name}: {counts} images in {made.folder}")
