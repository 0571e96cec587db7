"""Signals to a command that no run handles: one line, and the exit status of a shell."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

CONTINUED = "; to resume, repeat the command with the same --workdir"


@contextlib.contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """End the process with one line when Ctrl-C is pressed in the block, which only imports modules.

    An exception would not do: imports turn it into other errors, or ignore it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, as in the background of a script
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
    """Let SIGTERM end this process with one line from now on, except where a run handles the signal.

    A handler in Python would wait until a call of C++ ends, such as a compilation. So a thread waits for the signal.

    Args:
      advice: the end of the line.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # ignored
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, _leave_to_thread)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # The thread does not exist in a forked process.
    os.register_at_fork(after_in_child=_restore_sigterm)
    line = f"jaxcnn: stopped by SIGTERM{advice}\n".encode()
    threading.Thread(target=_wait_for_sigterm, args=(reader, line), daemon=True).start()


def _leave_to_thread(*_: object) -> None:
    """Handle SIGTERM in the main thread: the other thread ends the process."""


def _wait_for_sigterm(reader: int, line: bytes) -> None:
    while numbers := os.read(reader, 64):
        if signal.SIGTERM in numbers and signal.getsignal(signal.SIGTERM) is _leave_to_thread:
            os.write(2, line)
            os._exit(128 + signal.SIGTERM)


def _restore_sigterm() -> None:
    if signal.getsignal(signal.SIGTERM) is _leave_to_thread:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
