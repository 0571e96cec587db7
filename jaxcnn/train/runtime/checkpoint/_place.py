"""Check that the folder of checkpoints is valid, and that it was not moved or replaced while it was in use."""

import os
from pathlib import Path

from jaxcnn.errors import UsageError


def check_directory(path: Path) -> None:
    """Check that a path can be used as the folder of checkpoints. The folder need not exist.

    Raises:
      UsageError: if the path is a file, or cannot be encoded as UTF-8, as may happen if the locale is not UTF-8.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not the folder of checkpoints. Restore the folder, or move the file away.")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"the path {path} is not UTF-8, which checkpoints need. Set PYTHONUTF8=1, or choose another --workdir."
        ) from None


class Place:
    """Remember which folder is at a path, to find out later whether the folder was moved or removed.

    Args:
      path: path of the folder.
    """

    def __init__(self, path: Path):
        self._path, self._opened = path, path.stat()

    def is_left(self) -> bool:
        """Return whether the folder is no longer at its path: it was moved or removed, or its disk is gone."""
        try:
            return not os.path.samestat(self._opened, self._path.stat())
        except PermissionError:  # the folder exists, but this process may not use it
            return False
        except OSError:
            return True
