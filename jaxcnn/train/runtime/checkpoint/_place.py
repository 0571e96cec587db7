"""Check the folder of checkpoints: that it is valid, and that it is still the folder that was opened."""

import os
from pathlib import Path

from jaxcnn.errors import UsageError


def check_directory(path: Path) -> None:
    """Check that a path can be that of a folder of checkpoints, which need not exist.

    Raises:
      UsageError: if there is a file, or if the path is not UTF-8, as it is in Python if the locale is not UTF-8 either.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not the folder of checkpoints. Restore it, or move it away.")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{path} is not UTF-8, which checkpoints need. Set PYTHONUTF8=1, or choose another --workdir."
        ) from None


class Place:
    """A folder at its path, when this object was made.

    Args:
      path: of the folder.
    """

    def __init__(self, path: Path):
        self._path, self._opened = path, path.stat()

    def is_left(self) -> bool:
        """Return whether the folder is no longer there: somebody moved or removed it, or its disk is gone."""
        try:
            return not os.path.samestat(self._opened, self._path.stat())
        except PermissionError:  # it is there, and cannot be used
            return False
        except OSError:
            return True
