"""Handle SIGINT and SIGTERM while no run handles them: print one line, and exit with the status that shells expect."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

CONTINUED = "; to resume, repeat the command with the same --workdir"


@contextlib.contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """End the process with one line when Ctrl-C is pressed in the `with` block, which only imports modules.

    `KeyboardInterrupt` does not work during imports: an import may turn the exception into another error or ignore it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # SIGINT is already ignored, as in a background job of a script
        yield
        return
    signal.signal(signal.SIGINT, _exit_before_start)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _exit_before_start(*_: object) -> NoReturn:
    os.write(2, b"jaxcnn: interrupted before the start\n")
    os._exit(130)


def end_by_sigterm(advice: str) -> None:
    """Make SIGTERM print one line and end this process, except while a training run handles the signal.

    A thread waits for the signal. A signal handler in Python would run only after the current C++ call, such as a
    compilation, has ended.

    Args:
      advice: text at the end of the line, such as how to resume the run.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # SIGTERM is already ignored or handled
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, _leave_to_thread)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # A forked process does not have the thread that waits for SIGTERM.
    os.register_at_fork(after_in_child=_restore_sigterm)
    line = f"jaxcnn: stopped by SIGTERM{advice}\n".encode()
    threading.Thread(target=_wait_for_sigterm, args=(reader, line), daemon=True).start()


def _leave_to_thread(*_: object) -> None:
    """Handle SIGTERM in the main thread by doing nothing: the thread of `end_by_sigterm` ends the process."""


def _wait_for_sigterm(reader: int, line: bytes) -> None:
    while numbers := os.read(reader, 64):
        if signal.SIGTERM in numbers and signal.getsignal(signal.SIGTERM) is _leave_to_thread:
            os.write(2, line)
            os._exit(128 + signal.SIGTERM)


def _restore_sigterm() -> None:
    if signal.getsignal(signal.SIGTERM) is _leave_to_thread:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
