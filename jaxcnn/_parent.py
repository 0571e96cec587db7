"""Make a child process end when its parent process ends, even if a signal has stopped (paused) the child."""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Option of Linux's `prctl` that sets the signal which a process gets when its parent ends."""


def end_with_parent() -> None:
    """Ask Linux to kill this process with SIGKILL when the parent's thread that started this process ends.

    A stopped (paused) process reads no pipe and handles no signal, but SIGKILL ends even a stopped process. On systems
    other than Linux, this function does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
