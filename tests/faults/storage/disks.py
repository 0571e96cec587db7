"""Small file systems of their own, which a test may fill."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[bool]:
    """Mount a tmpfs with these options in a new folder; give False if that is not allowed here."""
    folder.mkdir(parents=True)
    is_mounted = _mount("-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield is_mounted
    finally:
        if is_mounted:
            unmount(folder)


@contextlib.contextmanager
def same_disk(original: Path, folder: Path) -> Iterator[bool]:
    """Show a folder at another path, a new folder, as a mounted disk; give False if that is not allowed here."""
    folder.mkdir(parents=True)
    is_mounted = _mount("--bind", str(original), str(folder))
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True)  # unless it has been taken away


def _mount(*words: str) -> bool:
    """Mount a disk, and return whether that is allowed here."""
    return shutil.which("mount") is not None and not subprocess.run(["mount", *words], capture_output=True).returncode


def unmount(folder: Path) -> None:
    """Take a disk away, even if its files are open."""
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int) -> list[Path]:
    """Write a file that leaves so many bytes on a disk, and return it."""
    ballast = folder / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_bsize
    with contextlib.suppress(OSError):  # somebody else has taken the rest
        ballast.write_bytes(bytes(max(0, free - left)))
    return [ballast]


def use_up_names(folder: Path, left: int) -> list[Path]:
    """Create files until a disk has room for so many more, and return them."""
    made = []
    with contextlib.suppress(OSError):  # somebody else has taken the rest
        while os.statvfs(folder).f_ffree > left:
            made.append(folder / f"ballast{len(made)}")
            made[-1].touch()
    return made
