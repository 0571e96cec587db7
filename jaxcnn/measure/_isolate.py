"""Measure a case in a fresh process, so that cases do not affect each other and a killed process still yields a row."""

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
      report: function that is called with the current stage, such as "compiling".
      timeout: time limit in seconds. A process that takes longer is killed, and its row has an `error`.
      environment: environment variables to add to the environment of the fresh process.
      child: command to run. The command must read the case and write messages as `jaxcnn.measure._child` does.

    Returns:
      The row. If the process ended without a row, the function returns a row with the columns of the case and an
      `error`.

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
    """Run a task in a fresh process, and return the pair (result, reason why there is no result).

    Args:
      child: command to run. The command reads the task from standard input and writes one JSON object per line. All
        objects but the last have the key `doing` with the current stage. The last object has the key that `result`
        names, or the key `mistake` with the message of a user mistake.
      task: the task for the process, as a JSON value.
      result: key of the result in the last JSON object, such as "row".
      report: function that is called with the current stage, such as "compiling".
      timeout: time limit in seconds, after which the process is killed.
      environment: environment variables to add to the environment of the fresh process.

    Returns:
      The result and None; or None and the reason, in one line, why the process returned no result.

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
      status: exit status of the process; `-N` if signal N ended the process.
      errors: text that the process wrote to standard error.
    """
    if status == -signal.SIGKILL:
        return "out of memory: the process was killed by SIGKILL, which the kernel sends when memory runs out"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "no error output"
    if status < 0:
        return f"process ended by {signal.Signals(-status).name}: {last}"
    return f"process ended with status {status}: {last}"
