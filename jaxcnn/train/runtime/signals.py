"""Stop a run after SIGTERM or SIGINT, and save all steps that the run has made."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from jaxcnn.errors import RunError


class InterruptedRunError(RunError):
    """Raised when a signal has stopped a run. The state of the run has been saved.

    Attributes:
      workdir: the run directory.
      how: text that says how to resume the run. The command line replaces this text by a command.
      exit_status: exit status of the process: 143 after SIGTERM and 130 after SIGINT, as in a shell.

    >>> error = InterruptedRunError(signal.SIGTERM, step=20, steps=100, workdir=Path("run"))
    >>> print(*str(error).split(". "), sep="\\n")
    stopped by SIGTERM at step 20 of 100, whose state is saved
    To resume: call fit with the same configuration and workdir='run'
    """

    def __init__(self, number: int, step: int, steps: int, workdir: Path):
        super().__init__(number, step, steps, workdir)
        self.exit_status = 128 + number
        self.workdir = workdir
        self.how = f"call fit with the same configuration and workdir={str(workdir)!r}"
        self._what = f"stopped by {signal.Signals(number).name} at step {step:,} of {steps:,}, whose state is saved"

    def __str__(self) -> str:
        return f"{self._what}. To resume: {self.how}"


class StopSignals:
    """Context in which SIGTERM and SIGINT are only recorded in `received`. A second SIGINT raises `KeyboardInterrupt`.

    On exit, the context restores the previous signal handlers. Outside the main thread, the context does nothing, since
    Python handles signals in the main thread only.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                # Do not change a signal that is ignored (SIGINT in a background job), or that has a handler in C.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            # `print` is not used, since the signal may have interrupted a print.
            os.write(2, b"\njaxcnn: finishing this step and saving; Ctrl-C stops at once\n")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
