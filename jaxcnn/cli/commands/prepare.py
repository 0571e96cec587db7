"""`jaxcnn prepare`: prepare a dataset from its original files, or download it."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from rich.console import Console

from jaxcnn.cli._flags import parse
from jaxcnn.cli._output import plain
from jaxcnn.data.preparation.prepare import prepare
from jaxcnn.errors import printable
from jaxcnn.train.runtime._progress import PreparationDisplay


@dataclass(frozen=True)
class Flags:
    """Prepare a dataset for training: download it, or read its original files from a folder (--source).

    imagefolder:PATH copies the images in a folder. csv:FILE copies the images in a table of paths and labels. For both,
    the command reports the images that it found. Training prepares such datasets itself when necessary.

    cifar10, cifar100, fashion_mnist, kmnist, mnist and svhn_cropped do not need TensorFlow. Other datasets need
    TensorFlow. `tfds.data_source(name)` of tensorflow-datasets can read the prepared dataset, too.
    """

    name: tyro.conf.Positional[str]
    """Name of the dataset; `jaxcnn datasets` lists the names."""
    source: str | None = None
    """Folder of the original files (default: download the files)."""
    data_dir: str | None = None
    """Folder of prepared datasets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    verify: bool = True
    """Refuse original files whose checksums differ from the published checksums."""
    force: bool = False
    """Replace the dataset if it exists."""
    skip_damaged: bool = False
    """Leave out damaged image files of imagefolder:PATH or csv:FILE instead of stopping with an error."""


def run(args: Sequence[str]) -> None:
    """Run `jaxcnn prepare` and show its progress."""
    flags = parse(Flags, "prepare", args)
    console = Console(stderr=True)
    with PreparationDisplay(flags.name) as display:
        result = prepare(
            flags.name,
            flags.source,
            flags.data_dir,
            verify=flags.verify,
            force=flags.force,
            skip_damaged=flags.skip_damaged,
            progress=display.show,
        )
    if result.unverified:
        files = ", ".join(result.unverified)
        console.print(plain(f"no published checksum for {files}: only the format was checked"))
    for note in result.notes:
        print(note)
    if result.notes:
        return
    counts = ", ".join(f"{count:,} {split}" for split, count in result.examples.items())
    print(f"{flags.name}: {counts} images in {printable(result.folder)}")
