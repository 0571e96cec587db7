"""The batches of the calls to come, from a step to which the loop may go back."""

from collections.abc import Callable, Iterator
from typing import Any


class Calls(Iterator[tuple[int, Any]]):
    """Yields numbers of steps and their batches, and begins again where it is told to.

    Args:
      batches: returns the calls from a step on.
      first_step: step to begin with.
    """

    def __init__(self, batches: Callable[[int], Iterator[tuple[int, Any]]], first_step: int):
        self._batches = batches
        self._calls = batches(first_step)

    def __next__(self) -> tuple[int, Any]:
        return next(self._calls)

    def go_back(self, step: int) -> None:
        """Continue with the calls from `step` on. Batches that were read ahead are dropped."""
        self._calls = self._batches(step)
