"""Let a child process end with its parent, even while it is stopped."""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Option of Linux's `prctl`: the signal that a process gets when its parent ends."""


def end_with_parent() -> None:
    """End this process by SIGKILL when its parent ends, or rather the parent's thread that has started it.

    SIGKILL also ends a process that is stopped, which reads no pipe and handles no signal. It is not asked for on other
    systems than Linux.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
