"""Iterate over the batches of training steps, with a method to go back to an earlier step."""

from collections.abc import Callable, Iterator
from typing import Any


class Calls(Iterator[tuple[int, Any]]):
    """Iterator over pairs `(number of steps, batches)`, one for each dispatch, which can go back to an earlier step.

    Args:
      batches: function that returns an iterator over the dispatches from a given step on.
      first_step: step from which the iterator starts.
    """

    def __init__(self, batches: Callable[[int], Iterator[tuple[int, Any]]], first_step: int):
        self._batches = batches
        self._calls = batches(first_step)

    def __next__(self) -> tuple[int, Any]:
        return next(self._calls)

    def go_back(self, step: int) -> None:
        """Continue with the dispatches from `step` on, and drop batches that were read in advance."""
        self._calls = self._batches(step)
