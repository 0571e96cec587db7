"""Run processes in turns, so that changes of the machine's load affect all of them."""

import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class PeerError(RuntimeError):
    """A library failed to run; the message says why."""


class Turn:
    """The process of one library, which runs training steps on request.

    Args:
      python: path of the interpreter.
      module: of the library, in this folder.
      task: what it computes.
      environment: environment variables that it gets in addition to those of this process.
    """

    def __init__(self, python: str, module: str, task: dict[str, Any], environment: Mapping[str, str] | None = None):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `close`
        self._process = subprocess.Popen(
            [python, str(HERE / "worker.py"), module, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # All processes share the GPU. By default, the first JAX process would allocate most of its memory.
            env={
                **os.environ,
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                "TOKENIZERS_PARALLELISM": "false",
                **(environment or {}),
            },
            cwd=HERE.parents[1],
        )

    def read(self, timeout: float) -> dict[str, Any]:
        """Return the next message of the process.

        Args:
          timeout: time limit in seconds.

        Raises:
          PeerError: if the process reports an error, ends, or sends no message within the time limit.
        """
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                raise PeerError(f"took more than {timeout:g} s")
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            lines = [text.strip() for text in self._errors.read().splitlines() if text.strip()]
            raise PeerError(f"ended with status {self._process.wait()}: {lines[-1][:200] if lines else ''}")
        message = json.loads(line)
        if "error" in message:
            raise PeerError(message["error"])
        return message

    def take(self, steps: int, timeout: float) -> float:
        """Run `steps` steps back to back, and return the seconds per step.

        Raises:
          PeerError: if the process fails or exceeds the time limit of `timeout` seconds.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self.read(timeout)["seconds"]

    def close(self) -> None:
        """Kill the process and close its files."""
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout):
            if file is not None:
                file.close()
        self._errors.close()


def alternate(turns: dict[str, Turn], estimates: dict[str, float], rounds: int, seconds: float, timeout: float):
    """Let the libraries take turns. The order reverses every round, so that no library always follows the same one.

    Args:
      turns: the process of each library.
      estimates: approximate seconds per step of each library.
      rounds: number of rounds.
      seconds: approximate duration of a turn in seconds. A turn has at least one step.
      timeout: time limit per turn in seconds.

    Yields:
      (round, name, result): the result is the seconds per step, or a `PeerError`. A library that fails takes no
      further turns.
    """
    alive = dict(turns)
    for number in range(rounds):
        order = list(alive) if number % 2 == 0 else list(reversed(alive))
        for name in order:
            steps = max(1, round(seconds / max(estimates[name], 1e-9)))
            try:
                yield number, name, alive[name].take(min(steps, 10_000), timeout)
            except PeerError as error:
                del alive[name]
                yield number, name, error
            time.sleep(0.02)  # background threads of this library should not slow down the next one
