"""Folders of checkpoints that are unfinished, replaced or damaged."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from jaxcnn.errors import UsageError

DAMAGED = "damaged_checkpoints"
"""Folder beside that of the checkpoints, to which unreadable checkpoints are moved."""

REPLACED = ".replaced"
"""Suffix of the folder of a checkpoint while the same step is saved again."""


def remove_unfinished(directory: Path) -> None:
    """Remove what interrupted saves have left, and keep a checkpoint whose replacement was not written."""
    with contextlib.suppress(OSError):  # the folder cannot be read, which other functions report
        for path in directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in directory.glob(f"*{REPLACED}"):
            if path.with_suffix("").exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.rename(path.with_suffix(""))


def move_away(directory: Path, steps: Sequence[int]) -> None:
    """Move damaged checkpoints out of the way of the same steps, which are made and saved again.

    Raises:
      UsageError: if there is a file in the place of the folder for damaged checkpoints.
    """
    aside = directory.with_name(DAMAGED)
    if aside.exists() and not aside.is_dir():
        raise UsageError(f"{aside} is a file. Move it away: a folder of this name is for damaged checkpoints.")
    aside.mkdir(exist_ok=True)
    for step in steps:
        if (aside / f"{step}").is_file():
            (aside / f"{step}").unlink()
        shutil.rmtree(aside / f"{step}", ignore_errors=True)
        (directory / f"{step}").rename(aside / f"{step}")
