"""Stopping a run from outside without losing anything."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from jaxcnn.errors import RunError


class InterruptedRunError(RunError):
    """A run that was asked to stop by a signal, and has saved its state.

    Attributes:
      workdir: the run's folder.
      how: how the run is continued; whoever knows better (the command line) may replace it.
      exit_status: 143 for SIGTERM and 130 for SIGINT, as a shell has it.
    """

    def __init__(self, number: int, step: int, steps: int, workdir: Path):
        super().__init__(number, step, steps, workdir)
        self.exit_status = 128 + number
        self.workdir = workdir
        self.how = f"fit the same configuration with workdir={str(workdir)!r}"
        self._what = f"stopped by {signal.Signals(number).name} at step {step:,} of {steps:,}, which is saved"

    def __str__(self) -> str:
        return f"{self._what}; to go on: {self.how}"


class StopSignals:
    """While it is entered, SIGTERM and SIGINT only ask to stop; a second SIGINT stops at once.

    Signals are Python's to handle in its main thread alone; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                # What is ignored (a background job's SIGINT), or handled by something other than Python, stays so.
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
            # Not by print, in the middle of which the signal may have come.
            os.write(2, b"\njaxcnn: finishing this step and saving; Ctrl-C stops at once\n")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
