"""Whether a folder is still the one that was opened."""

import os
from pathlib import Path


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
