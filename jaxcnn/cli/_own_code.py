"""Run Python code that the user wrote: a recipe, a module, or a function that returns a model."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxcnn.errors import UsageError


@contextlib.contextmanager
def own_code(
    refusal: Callable[[BaseException], UsageError], *, passes: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Replace any error of the `with` block, which runs code of the user, by the error that `refusal(error)` returns.

    The user's code can raise any exception, even `SystemExit`. Ctrl-C and errors of the types in `passes` are not
    replaced.
    """
    try:
        yield
    except (KeyboardInterrupt, *passes):
        raise
    except BaseException as error:
        raise refusal(error) from error


@contextlib.contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Let imports in the `with` block find modules in `folder`, as if a script in this folder were run."""
    path = str(folder)
    sys.path.insert(0, path)
    try:
        yield
    finally:
        if path in sys.path:  # the user's code may have removed the path
            sys.path.remove(path)
