"""A row in a process of its own, so that rows cannot disturb each other, and one that is killed is a row as well."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence

from jaxcnn.errors import UsageError
from jaxcnn.measure.case import Case
from jaxcnn.measure.row import Report, Row, case_columns

CHILD = (sys.executable, "-m", "jaxcnn.measure._child")


def measure_isolated(
    case: Case,
    report: Report = lambda what: None,
    *,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
    child: Sequence[str] = CHILD,
) -> Row:
    """Measures a case in a fresh process.

    Args:
      case: what to measure.
      report: called with what the process is doing.
      timeout: seconds after which the process is ended, and the row says so.
      environment: variables that differ from this process's.
      child: the process's command; it reads the case and writes as `jaxcnn.measure._child` does.

    Raises:
      UsageError: a case that cannot work on the devices there are.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            child,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout, end) if timeout else None
        row: Row | None = None
        try:
            if timer:
                timer.start()
            try:
                process.stdin.write(json.dumps(dataclasses.asdict(case)))
                process.stdin.close()
            except BrokenPipeError:
                pass  # it ended before it read anything; its exit status tells why
            for line in process.stdout:
                said = json.loads(line)
                if "mistake" in said:
                    raise UsageError(said["mistake"])
                if "doing" in said:
                    report(said["doing"])
                row = said.get("row", row)
            status = process.wait()
        finally:
            if timer:
                timer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
        if row is not None:
            return row
        errors.seek(0)
        reason = f"took more than {timeout:g} s" if late.is_set() else _death(status, errors.read())
        return {**case_columns(case), "error": reason}


def _death(status: int, errors: str) -> str:
    """Why a process ended without its row, in one line."""
    if status == -signal.SIGKILL:
        return "out of memory: the process was killed (SIGKILL), as the system does when memory ends"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "nothing was said"
    if status < 0:
        return f"the process ended by {signal.Signals(-status).name}: {last}"
    return f"the process ended with status {status}: {last}"
