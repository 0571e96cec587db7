"""Errors of saving and reading checkpoints, and contexts that suppress what Orbax prints after an error."""

import contextlib
import gc
import logging
import re
import threading
from collections.abc import Iterator

from jaxcnn._scoped import ignored_unraisable, quiet_logger
from jaxcnn.errors import RunError

STRAGGLER_SECONDS = 60.0
"""Seconds after a failed save or restore during which output of Orbax's background threads is dropped."""


_OS_ERROR = re.compile(r": ([^:\[\]]+) \[os_error_code=")
"""Pattern of the operating system's error text, such as "No space left on device", in a message of TensorStore."""


class SaveError(RunError):
    """Raised when a checkpoint could not be written. Earlier checkpoints are kept.

    >>> error = SaveError("cannot save checkpoint 100: No space left on device")
    >>> error.exit_status  # of the command line
    1
    """


class DamagedError(RunError):
    """Raised when a checkpoint cannot be read, or differs from the state that was saved."""


@contextlib.contextmanager
def dropped_prints() -> Iterator[None]:
    """Within the context, drop the tracebacks that Orbax's background writes print after one write has failed."""
    with ignored_unraisable("Event loop is closed"), quiet_logger("asyncio", logging.CRITICAL):
        yield


@contextlib.contextmanager
def quiet_stragglers() -> Iterator[None]:
    """If the block raises an error, drop the output of Orbax's background writes, also after the block.

    Background writes may end long after the block. Their output is dropped for `STRAGGLER_SECONDS`, or until the
    process ends.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(dropped_prints())
        try:
            yield
        except Exception:
            timer = threading.Timer(STRAGGLER_SECONDS, held.pop_all().close)
            timer.daemon = True
            timer.start()
            gc.collect()  # the destructors of failed writes print errors: run the destructors now
            raise


def reason(error: BaseException) -> str:
    """Return the first line of an error's message.

    If TensorStore quotes an error of the operating system in this line, return only the quoted error.
    """
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().splitlines()[0]
    quoted = _OS_ERROR.search(text)
    if quoted is not None:
        return quoted.group(1)
    return text if len(text) < 200 else f"{text[:200]}..."
