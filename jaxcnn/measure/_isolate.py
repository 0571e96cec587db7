"""Measure a case in a fresh process: cases do not affect each other, and a killed process still yields a row."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.measure.case import Case
from jaxcnn.measure.row import Report, Row, case_columns

CHILD = (sys.executable, "-m", "jaxcnn.measure._child")


def measure_isolated(
    case: Case,
    report: Report = lambda stage: None,
    *,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
    child: Sequence[str] = CHILD,
) -> Row:
    """Measure a case in a fresh process.

    Args:
      case: the case to measure.
      report: called with the current stage, such as "compiling".
      timeout: time limit in seconds. A process that exceeds it is killed, and the row's `error` says so.
      environment: environment variables that the process gets in addition to those of this process.
      child: command to run. It must read the case and write messages as `jaxcnn.measure._child` does.

    Returns:
      The row. If the process ended without one, a row with the columns of the case and an `error`.

    Raises:
      UsageError: if the case cannot run on the available devices.

    >>> measure_isolated(Case("lenet5"), child=("false",))["error"]  # the process ends without a row
    'process ended with status 1: no error output'
    """
    row, error = run_child(
        child, dataclasses.asdict(case), "row", report, timeout=timeout, environment=environment or {}
    )
    return {**case_columns(case), "error": error} if row is None else row


def run_child(
    child: Sequence[str],
    task: Any,
    result: str,
    report: Report = lambda stage: None,
    *,
    timeout: float | None = None,
    environment: Mapping[str, str],
) -> tuple[Any, str | None]:
    """Give a task to a fresh process, and return its result, and why there is none.

    Args:
      child: command to run. It reads the task from standard input, and writes one JSON object per line: `doing` with
        the current stage, then the result, or `mistake` with a mistake of the user.
      task: JSON value.
      result: key of the result.
      report: called with the current stage.
      timeout: time limit in seconds, after which the process is killed.
      environment: environment variables that the process gets in addition to those of this process.

    Returns:
      The result and None, or None and the reason in one line.

    Raises:
      UsageError: if the process reports a mistake of the user.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            child,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        timed_out = threading.Event()

        def kill_late_process() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(timeout, kill_late_process) if timeout else None
        found: Any = None
        try:
            if timer:
                timer.start()
            try:
                process.stdin.write(json.dumps(task))
                process.stdin.close()
            except BrokenPipeError:
                pass  # the process ended before it read the task; its exit status is reported below
            for line in process.stdout:
                message = json.loads(line)
                if "mistake" in message:
                    raise UsageError(message["mistake"])
                if "doing" in message:
                    report(message["doing"])
                found = message.get(result, found)
            status = process.wait()
        finally:
            if timer:
                timer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
        if found is not None:
            return found, None
        errors.seek(0)
        return None, f"took more than {timeout:g} s" if timed_out.is_set() else _exit_reason(status, errors.read())


def _exit_reason(status: int, errors: str) -> str:
    """Return one line that says why a process ended without a result.

    Args:
      status: exit status of the process; negative for a signal.
      errors: its standard error.
    """
    if status == -signal.SIGKILL:
        return "out of memory: the process was killed by SIGKILL, which the kernel sends when memory runs out"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "no error output"
    if status < 0:
        return f"process ended by {signal.Signals(-status).name}: {last}"
    return f"process ended with status {status}: {last}"
