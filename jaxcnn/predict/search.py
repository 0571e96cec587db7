"""Find image files in folders, at any depth."""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from jaxcnn.data import decode
from jaxcnn.data.imagefolder.scan import SYSTEM_FOLDERS, image_suffixes, is_in_kernel_folder
from jaxcnn.errors import UsageError, printable, shortened


@dataclass(frozen=True)
class Candidate:
    """A file that may be an image.

    Attributes:
      path: path of the file.
      root: the given folder in which the file was found; None if the file itself was given.
    """

    path: Path
    root: Path | None = None

    def label(self, class_names: Sequence[str]) -> str | None:
        """Return the name of the closest parent folder of the file whose name is a class name, or None.

        Only `root` and the folders below `root` are considered.

        >>> Candidate(Path("test/cat/sub/1.png"), Path("test")).label(["cat", "dog"])
        'cat'
        """
        if self.root is None:
            return None
        for folder in self.path.parents:
            name = folder.name or folder.resolve().name
            if name in class_names:
                return name
            if folder == self.root:
                return None
        return None


class Search:
    """Iterate over the given files and the files in the given folders. Files are sorted by name within each folder.

    Hidden files and folders, whose names begin with a dot, are left out. Folders that operating systems add, such as
    `__MACOSX`, are also left out.

    Args:
      paths: paths of image files, and of folders to search at any depth.

    Attributes:
      paths: the given paths, with `~` expanded.
      hidden: number of hidden files that were left out so far.
      unreadable: pairs (folder that could not be read, reason), for the folders that were visited so far.

    Raises:
      UsageError: if no path is given, or a path does not exist.
    """

    def __init__(self, paths: Sequence[str | Path]):
        if not paths:
            raise UsageError("no images given; pass image files or folders of image files")
        self.paths = [_existing(path) for path in paths]
        self.hidden = 0
        self.unreadable: list[tuple[Path, str]] = []

    def __iter__(self) -> Iterator[Candidate]:
        for path in self.paths:
            if path.is_dir():
                yield from self._inside(path, path, set())
            else:
                yield Candidate(path)

    def _inside(self, folder: Path, root: Path, seen: set[tuple[int, int]]) -> Iterator[Candidate]:
        """Yield the files in a folder of the tree below `root`. Read each folder once, because links can form loops."""
        try:
            status = folder.stat()
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            self.unreadable.append((folder, error.strerror or str(error)))
            return
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            return
        seen.add(identity)
        for entry in entries:
            is_folder = os.path.isdir(entry.path)
            if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
                self.hidden += not is_folder
            elif is_folder and entry.is_symlink() and is_in_kernel_folder(entry.path):
                self.unreadable.append((folder / entry.name, "a folder of the operating system"))
            elif is_folder:
                yield from self._inside(folder / entry.name, root, seen)
            elif os.path.isfile(entry.path) or not os.path.exists(entry.path):
                # Pipes and devices are left out. A broken link is kept, so that reading it reports an error.
                yield Candidate(folder / entry.name, root)


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Return the given image files, and the image files in the given folders, at any depth.

    A file in a folder is an image file if its suffix or its content belongs to an image format.

    Raises:
      UsageError: if a path does not exist, or no image is found.
    """
    found = [
        candidate.path
        for candidate in Search(paths)
        if candidate.root is None or has_image_name(candidate.path) or _has_image_content(candidate.path)
    ]
    if not found:
        raise no_images(paths)
    return found


def no_images(paths: Sequence[str | Path]) -> UsageError:
    """Return the error for paths that contain no images."""
    shown = ", ".join(printable(shortened(path)) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
    return UsageError(f"no images found in {shown}. Pass image files or folders of image files.")


def has_image_name(path: Path) -> bool:
    """Return whether a file has the suffix of an image format.

    If a file with such a suffix cannot be read as an image, the file is damaged.
    """
    return path.suffix.lower() in image_suffixes()


def _has_image_content(path: Path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about large images and about damaged files
            with Image.open(path, formats=decode.readable_formats()):
                return True
    except Exception:  # Pillow's formats have no common exception type
        return False


def _existing(path: str | Path) -> Path:
    """Return a path with the home directory in place of "~".

    Raises:
      UsageError: if the path is neither a file nor a folder, or is a folder of the operating system.
    """
    try:
        found = Path(path).expanduser()
    except RuntimeError:  # the home directory of an unknown user
        found = Path(path)
    # For impossible names, functions of `os.path` return False, while `Path.exists` raises an error.
    shown = printable(shortened(path))
    if not os.path.lexists(found):
        raise UsageError(f"image does not exist: {shown}. Pass image files or folders of image files.")
    if os.path.isdir(found) and is_in_kernel_folder(found):
        raise UsageError(
            f"cannot search a folder of the operating system: {shown}. Pass image files or folders of image files."
        )
    if not os.path.isdir(found) and not os.path.isfile(found):
        raise UsageError(
            f"image path is neither a file nor a folder: {shown}. Pass image files or folders of image files."
        )
    return found
