"""Processes that take turns, so that none of them has the machine's better minutes."""

import json
import os
import selectors
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class PeerError(RuntimeError):
    """A peer that did not run, and why."""


class Turn:
    """A peer's process, compiled and waiting; a turn makes it take some steps."""

    def __init__(self, python: str, module: str, task: dict[str, Any]):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `close`
        self._process = subprocess.Popen(
            [python, str(HERE / "worker.py"), module, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # All are alive at once, and JAX would otherwise take most of a GPU's memory for the first.
            env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TOKENIZERS_PARALLELISM": "false"},
            cwd=HERE.parents[1],
        )

    def read(self, timeout: float) -> dict[str, Any]:
        """The next line that the process tells.

        Raises:
          PeerError: if it tells of an error, ends, or tells nothing in so many seconds.
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
        said = json.loads(line)
        if "error" in said:
            raise PeerError(said["error"])
        return said

    def take(self, steps: int, timeout: float) -> float:
        """Seconds a step, of so many steps made back to back."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self.read(timeout)["seconds"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout):
            if file is not None:
                file.close()
        self._errors.close()


def alternate(turns: dict[str, Turn], estimates: dict[str, float], rounds: int, seconds: float, timeout: float):
    """Seconds a step of every peer in every round; a turn takes about so many seconds, and one step at least.

    The order is turned around each round, so that nobody is always behind the same neighbour.

    Yields:
      (round, name, seconds a step, or a `PeerError`)
    """
    alive = dict(turns)
    for number in range(rounds):
        for name in [*alive] if number % 2 == 0 else [*alive][::-1]:
            steps = max(1, round(seconds / max(estimates[name], 1e-9)))
            try:
                yield number, name, alive[name].take(min(steps, 10_000), timeout)
            except PeerError as error:
                del alive[name]
                yield number, name, error
            time.sleep(0.02)  # what a library's threads still do after their result is not the next one's burden
