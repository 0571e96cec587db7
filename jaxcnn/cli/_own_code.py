"""Run code of the user's: a recipe, a module, or a function that makes a model."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxcnn.errors import UsageError


@contextlib.contextmanager
def own_code(
    refusal: Callable[[BaseException], UsageError], *, passes: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Raise `refusal(error)` in place of an error in the block, which runs code of the user's.

    Such code can raise anything, `SystemExit` included. Ctrl-C and the errors in `passes` are raised as they are.
    """
    try:
        yield
    except (KeyboardInterrupt, *passes):
        raise
    except BaseException as error:
        raise refusal(error) from error


@contextlib.contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Search a folder for modules in the block. Unlike `python FILE.py`, the console script does not do that."""
    path = str(folder)
    sys.path.insert(0, path)
    try:
        yield
    finally:
        if path in sys.path:  # the user's code may have removed it
            sys.path.remove(path)
