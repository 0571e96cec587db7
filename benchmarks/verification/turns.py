"""Let two runs of `fit` in one process train in turns, and take the time of each turn."""

import dataclasses
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from jaxcnn.train import Callback
from jaxcnn.train.api import train_plan
from jaxcnn.train.runtime.plan import Plan


class Order:
    """Whose turn it is: that of run 0 first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._ended: set[int] = set()

    def wait(self, run: int) -> None:
        """Return when it is the turn of this run."""
        with self._changed:
            self._changed.wait_for(lambda: self._running == run or 1 - run in self._ended)

    def pass_on(self, run: int, *, ends: bool = False) -> None:
        """End the turn of this run, and all its turns if it ends."""
        with self._changed:
            self._running = 1 - run
            if ends:
                self._ended.add(run)
            self._changed.notify_all()


class Turn(Callback):
    """Makes a run wait, after every `length` steps, until the other run has made as many.

    The steps before the first turn compile the program. They belong to no turn.

    Args:
      length: steps in a turn.
      order: is shared by both runs.
      run: 0 or 1.
    """

    def __init__(self, length: int, order: Order, run: int):
        self.length, self._order, self._run = length, order, run
        self.seconds: list[float] = []
        self._started: float | None = None

    def stops_after(self, step: int) -> bool:
        # Half a turn late, so that what happens after a multiple of `length` lies within a turn.
        return step % self.length == self.length // 2

    def on_start(self, run):
        self._order.wait(self._run)

    def on_step(self, run):
        if self._started is not None:
            self.seconds.append(time.perf_counter() - self._started)
        self._order.pass_on(self._run)
        self._order.wait(self._run)
        self._started = time.perf_counter()

    def on_end(self, run, failed):
        self._order.pass_on(self._run, ends=True)


def seconds_of_turns(plans: Sequence[Plan], length: int) -> list[list[float]]:
    """Train two runs in turns of `length` steps, and return the wall-clock seconds of each run's turns.

    Args:
      plans: the two runs. They have the same number of steps.
      length: steps in a turn.

    Raises:
      BaseException: the first error of a run, when both have ended.
    """
    order = Order()
    turns = [Turn(length, order, run) for run in range(2)]
    errors: list[BaseException] = []

    def train(plan: Plan, turn: Turn) -> None:
        with tempfile.TemporaryDirectory() as folder:
            config = dataclasses.replace(plan.config, workdir=str(Path(folder) / "run"))
            try:
                train_plan(dataclasses.replace(plan, config=config), callbacks=[turn])
            except BaseException as error:  # is raised in the main thread
                errors.append(error)
                order.pass_on(turns.index(turn), ends=True)  # it may have failed before its first callback

    threads = [threading.Thread(target=train, args=pair) for pair in zip(plans, turns, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [turn.seconds for turn in turns]
