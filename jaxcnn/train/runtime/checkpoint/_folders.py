"""Handle folders of checkpoints that are unfinished, being replaced, or damaged."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from jaxcnn.errors import UsageError

DAMAGED = "damaged_checkpoints"
"""Name of the folder in the run directory to which damaged checkpoints are moved."""

REPLACED = ".replaced"
"""Suffix of the folder of an existing checkpoint while a new checkpoint of the same step is written."""


def remove_unfinished(directory: Path) -> None:
    """Remove the files of interrupted saves. Restore an existing checkpoint if its replacement was not written."""
    with contextlib.suppress(OSError):  # other functions report a folder that cannot be read
        for path in directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in directory.glob(f"*{REPLACED}"):
            if path.with_suffix("").exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.rename(path.with_suffix(""))


def move_away(directory: Path, steps: Sequence[int]) -> None:
    """Move damaged checkpoints to the folder `damaged_checkpoints`, since the run will save these steps again.

    Raises:
      UsageError: if `damaged_checkpoints` is a file.
    """
    aside = directory.with_name(DAMAGED)
    if aside.exists() and not aside.is_dir():
        raise UsageError(f"{aside} is a file, but must be the folder of damaged checkpoints. Move the file away.")
    aside.mkdir(exist_ok=True)
    for step in steps:
        if (aside / f"{step}").is_file():
            (aside / f"{step}").unlink()
        shutil.rmtree(aside / f"{step}", ignore_errors=True)
        (directory / f"{step}").rename(aside / f"{step}")
