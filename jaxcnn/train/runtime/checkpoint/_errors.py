"""Errors of checkpoints, and what Orbax prints after them."""

import contextlib
import gc
import logging
import re
import threading
from collections.abc import Iterator

from jaxcnn._scoped import ignored_unraisable, quiet_logger
from jaxcnn.errors import RunError

STRAGGLER_SECONDS = 60.0
"""Time after a failed save or restore for which what Orbax's other threads print is dropped."""


_OS_ERROR = re.compile(r": ([^:\[\]]+) \[os_error_code=")
"""The text of an error number in a message of TensorStore."""


class SaveError(RunError):
    """A checkpoint could not be written. Earlier checkpoints are kept.

    >>> error = SaveError("cannot save checkpoint 100: No space left on device")
    >>> error.exit_status  # of the command line
    1
    """


class DamagedError(RunError):
    """A checkpoint cannot be read, or differs from the saved state."""


@contextlib.contextmanager
def dropped_prints() -> Iterator[None]:
    """Drop what Orbax's writes print when one of them has failed: a traceback each."""
    with ignored_unraisable("Event loop is closed"), quiet_logger("asyncio", logging.CRITICAL):
        yield


@contextlib.contextmanager
def quiet_stragglers() -> Iterator[None]:
    """Drop the output of Orbax's other writes when one of them has failed, also after the block.

    These writes end at any time after the block, when a core is free for them. Their output is dropped for some
    time, or until the process ends.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(dropped_prints())
        try:
            yield
        except Exception:
            timer = threading.Timer(STRAGGLER_SECONDS, held.pop_all().close)
            timer.daemon = True
            timer.start()
            gc.collect()  # what they print is printed by their destructors
            raise


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, or what the operating system said, if TensorStore quotes it."""
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().splitlines()[0]
    quoted = _OS_ERROR.search(text)
    if quoted is not None:
        return quoted.group(1)
    return text if len(text) < 200 else f"{text[:200]}..."
