"""Run many cases, in one or two processes at the same time."""

import queue
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from .cases import Case, make
from .judge import Fault, Outcome
from .runner import Workplace

Result = tuple[Case, Outcome, list[Fault]]


def run_cases(seed: int, numbers: Sequence[int], children: int = 1) -> Iterator[Result]:
    """Yield how each case ended, with what was wrong, in the order in which they end."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in numbers:
        waiting.put(number)
    results: queue.SimpleQueue[Result | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as scratch:
        threads = [
            threading.Thread(target=_work, args=(Path(scratch) / str(index), seed, waiting, results, stop))
            for index in range(children)
        ]
        for thread in threads:
            thread.start()
        try:
            running = children
            while running:
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                if result is None:
                    running -= 1
                else:
                    yield result
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _work(
    scratch: Path,
    seed: int,
    waiting: "queue.SimpleQueue[int]",
    results: "queue.SimpleQueue[Result | BaseException | None]",
    stop: threading.Event,
) -> None:
    """Run cases until none waits. None, or an exception, is the last result."""
    try:
        with Workplace(scratch) as workplace:
            while not stop.is_set():
                try:
                    case = make(seed, waiting.get_nowait())
                except queue.Empty:
                    break
                results.put((case, *run_confirmed(workplace, case)))
    except BaseException as error:
        results.put(error)
    else:
        results.put(None)


def run_confirmed(workplace: Workplace, case: Case) -> tuple[Outcome, list[Fault]]:
    """Run a case; run it again in a new process if it took too long or too much memory, as a busy machine may cause."""
    outcome, faults = workplace.run(case)
    if outcome.ended.startswith("took"):
        workplace.restart()
        return workplace.run(case)
    return outcome, faults
