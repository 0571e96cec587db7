"""Callbacks: objects whose methods the training loop calls with a view of the run."""

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import UsageError, closest, shortened, unknown_name
from jaxcnn.train.config import Config
from jaxcnn.train.state import TrainState

METHODS = ("on_start", "on_step", "on_epoch", "on_rows", "on_save", "on_picture", "on_end")
STOPPING = ("on_step", "on_epoch")
SPLITS = ("validation", "test")

_log = logging.getLogger(__name__)


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class RunView:
    """The view of a run after a step, which is passed to callbacks.

    The loop makes a new view for each step after which it calls a callback. `state`, `metrics` and `evaluate` wait for
    the devices. A view computes each of them once, and keeps the result. Use them within the callback: after the
    callback returns, the arrays of this step are donated to the next step.

    With several processes, `state`, `metrics` and `evaluate` are collective: use them in all processes or in none.

    Attributes:
      step: number of steps made.
      epoch: mean number of times that each training example has been seen.
      steps: number of steps of the whole run.
      first_step: number of steps that the run had made when this process started: 0 unless it is resumed.
      folder: the run directory (a path on the first process's machine).
      config: the configuration that the run records.
      fetch_state: returns the state as host arrays.
      fetch_metrics: returns the metrics; see `metrics`.
      run_evaluation: returns the metrics of a split. None is the validation split if there is one, else the test split.
      wait: returns when the devices have made all steps so far.

    Raises:
      UsageError: from `state`, `metrics` and `evaluate`, if the run has gone on since this step.

    >>> view = RunView(
    ...     step=50, epoch=1.0, steps=100, first_step=0, folder=Path("run"), config=Config(),
    ...     fetch_state=lambda: None, fetch_metrics=lambda: {"loss": 0.05}, run_evaluation=lambda split: {"loss": 0.2},
    ... )
    >>> view.metrics["loss"], view.evaluate()["loss"]
    (0.05, 0.2)
    """

    step: int
    epoch: float
    steps: int
    first_step: int
    folder: Path
    config: Config
    fetch_state: Callable[[], TrainState] = field(repr=False)
    fetch_metrics: Callable[[], dict[str, Any]] = field(repr=False)
    run_evaluation: Callable[[str | None], dict[str, Any]] = field(repr=False)
    wait: Callable[[], None] = field(default=_nothing, repr=False)

    @functools.cached_property
    def state(self) -> TrainState:
        """The state after this step, as host arrays. They are shared between callbacks: do not write to them.

        Raises:
          UsageError: if the run has gone on since then.
        """
        return self._while_valid("state", self.fetch_state)

    @functools.cached_property
    def metrics(self) -> dict[str, Any]:
        """The training metrics of this step: `{"loss": 0.3, "accuracy": 0.9}`. Empty before the first step.

        In `on_epoch`: the means over the steps since the last evaluation, and the metrics of this evaluation,
        `{"train": {...}, "validation": {...}}`, or "test" in place of "validation" if no validation examples are
        held out.

        Raises:
          UsageError: if the run has gone on since then.
        """
        return self._while_valid("metrics", self.fetch_metrics)

    def evaluate(self, split: str | None = None) -> dict[str, Any]:
        """Return the metrics of the state after this step over every example of a split.

        Args:
          split: "validation" or "test". Default: "validation" if the run holds out validation examples, else "test".

        Raises:
          UsageError: if there is no such split, or if the run has gone on since this step.
        """
        if split is not None and split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        return self._while_valid("evaluate", lambda: self._evaluated(split))

    def _evaluated(self, split: str | None) -> dict[str, Any]:
        if split not in self._evaluations:
            self._evaluations[split] = self.run_evaluation(split)
        return dict(self._evaluations[split])

    @functools.cached_property
    def _evaluations(self) -> dict[str | None, dict[str, Any]]:
        return {}

    def _while_valid(self, name: str, work: Callable[[], Any]) -> Any:
        """Return `work()`. Raise `UsageError` if the arrays were donated to the next step."""
        try:
            return work()
        except (RuntimeError, ValueError) as error:
            text = str(error)
            if "has been deleted" not in text and "deleted or donated" not in text:
                raise
            raise UsageError(
                f"run.{name} of step {self.step} is not available after its callback. Use it within the callback."
            ) from error


class Callback:
    """Base class of callbacks. Override the methods that you need.

    Any object that has some of these methods is a callback; deriving from this class is optional. The loop calls the
    callbacks in the order of `fit(..., callbacks=[...])`, between two steps and in its own thread. An exception in a
    method ends the run, and `fit` raises it.

    With several processes, each process calls the methods, except `on_picture`. They must return the same in all
    processes. Write files to `run.folder`, and only in the first process (`jax.process_index() == 0`).

    A run that is resumed calls `on_start` again, with `run.first_step` above 0. The attributes of a callback are not
    saved: store values that a resumed run needs in a file in `run.folder`.

    Attributes:
      every: number of steps between calls of `on_step`.

    >>> class StopAtLoss(Callback):
    ...     every = 50
    ...
    ...     def on_step(self, run):
    ...         return run.metrics["loss"] < 0.1
    """

    every: int = 1

    def on_start(self, run: RunView) -> None:
        """Do something before the first step of this process. `run.step` is `run.first_step`."""

    def on_step(self, run: RunView) -> bool | None:
        """Do something after each step for which `stops_after` is true. Return True to stop the run after this step.

        A stopped run is evaluated, its state is saved, and its result is written. The result names the callback.
        """

    def on_epoch(self, run: RunView) -> bool | None:
        """Do something after each evaluation, by default once an epoch. Return True to stop the run; see `on_step`."""

    def on_rows(self, run: RunView, rows: list[dict[str, Any]]) -> None:
        """Take new rows of `metrics.jsonl`: every `log_every` steps and after each evaluation.

        The metrics of the latest steps are still on the devices, so that rows may lag some steps behind `run.step`.

        Args:
          run: the run.
          rows: each has `split` ("train", "validation" or "test"), `step`, `epoch` and the metrics that are numbers.
        """

    def on_save(self, run: RunView) -> None:
        """Write all data of the steps so far to the disk. The checkpoint of this step is saved after this method."""

    def on_picture(self, run: RunView, name: str, png: bytes) -> None:
        """Take a picture, such as "test/predictions", as the contents of a PNG file.

        With several processes, only the first one draws pictures and calls this method. Do not use `run.state`,
        `run.metrics` and `run.evaluate` in it: they would wait for the other processes.
        """

    def on_end(self, run: RunView, failed: bool) -> None:
        """Release what `on_start` opened. Called once, after the run ends or fails, unless the process is killed.

        Args:
          run: the run after its last step.
          failed: whether the run ends with an exception, such as that of a signal.
        """

    def stops_after(self, step: int) -> bool:
        """Return whether `on_step` is called after this step (from 1).

        The loop groups steps into calls of one compiled program. A group ends at such a step. The answer must depend
        only on `step`, since the grouping may change the last bits of a result.
        """
        return _overrides(self, "on_step") and step % self.every == 0


def check_callbacks(callbacks: Iterable[Any]) -> tuple[Any, ...]:
    """Return the callbacks as a tuple.

    Raises:
      UsageError: if an object has none of a callback's methods (the message names the closest one), if a method of a
        `Callback` has an unknown name, or if `every` is not a positive integer.

    >>> class Printer:
    ...     def on_stepp(self, run):
    ...         print(run.step)
    >>> check_callbacks([Printer()])
    Traceback (most recent call last):
    ...
    jaxcnn.errors.UsageError: callback Printer has no method that is called: on_stepp. Did you mean on_step?
    """
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise UsageError(f"callbacks must be a list, got {_name(callbacks)}. Write callbacks=[...].")
    found = tuple(callbacks)
    for callback in found:
        _check(callback)
    return found


def _check(callback: Any) -> None:
    name = _name(callback)
    if isinstance(callback, type):
        raise UsageError(f"callback {name} is a class. Pass an object: {name}().")
    known = [method for method in METHODS if _overrides(callback, method)]
    # An object that only acts as a callback may have methods for others too, such as those of another library.
    if not known or isinstance(callback, Callback):
        _check_spelling(callback, known)
    if not known:
        raise UsageError(f"callback {name} has no method that is called. Define one of {', '.join(METHODS)}.")
    every = getattr(callback, "every", 1)
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise UsageError(f"every of callback {name} must be an integer of at least 1, got {shortened(repr(every))}")


def _check_spelling(callback: Any, known: list[str]) -> None:
    """Raise `UsageError` if a method's name is close to one that is called."""
    for method in _public_methods(callback):
        meant = f"on_{method}" in METHODS and not known
        near = closest(method, METHODS)
        if method in METHODS or near is None or not (method.startswith("on") or meant):
            continue
        what = "a method that is never called" if known else "no method that is called"
        raise UsageError(f"callback {_name(callback)} has {what}: {method}. Did you mean {near}?")


def stops_after(callbacks: Iterable[Any], step: int) -> bool:
    """Return whether a callback's `on_step` is called after this step (from 1)."""
    return any(_stops_after(callback, step) for callback in callbacks)


def _stops_after(callback: Any, step: int) -> bool:
    own = getattr(callback, "stops_after", None)
    if own is not None:
        return bool(own(step))
    return _overrides(callback, "on_step") and step % getattr(callback, "every", 1) == 0


def call(callbacks: Sequence[Any], name: str, run: RunView, *args: Any) -> list[Any]:
    """Call a method of all callbacks that have it, in order, and return those that ask to stop.

    `on_step` is called only for callbacks whose `stops_after` is true. `on_end` is called for all callbacks, even if
    one of them raises an error: the first error is raised after the last call. If the run has failed already, errors of
    `on_end` are logged, so that the user sees why the run failed.

    Args:
      callbacks: see `check_callbacks`.
      name: of the method.
      run: the run.
      args: further arguments of the method.

    Raises:
      UsageError: if `on_step` or `on_epoch` returns anything other than True, False or None.
    """
    if name == "on_end":
        _end(callbacks, run, *args)
        return []
    stopping = []
    for callback in callbacks:
        if not _overrides(callback, name) or (name == "on_step" and not _stops_after(callback, run.step)):
            continue
        answer = getattr(callback, name)(run, *args)
        if name in STOPPING and _asks_to_stop(callback, name, answer):
            stopping.append(callback)
    return stopping


def _end(callbacks: Sequence[Any], run: RunView, failed: bool) -> None:
    errors = []
    for callback in callbacks:
        if not _overrides(callback, "on_end"):
            continue
        try:
            callback.on_end(run, failed)
        except Exception as error:
            errors.append(error)
            if failed:
                _log.warning("on_end of callback %s failed: %s", _name(callback), error)
    if errors and not failed:
        raise errors[0]


def _asks_to_stop(callback: Any, name: str, answer: Any) -> bool:
    """Return whether the result of a method stops the run. A comparison of arrays gives a scalar of dtype bool."""
    if answer is None or isinstance(answer, bool):
        return bool(answer)
    if getattr(answer, "dtype", None) == np.dtype(bool) and getattr(answer, "shape", None) == ():
        return bool(answer)
    raise UsageError(
        f"{name} of callback {_name(callback)} must return True to stop the run, or else False or None, "
        f"got {shortened(repr(answer))}"
    )


def _overrides(callback: Any, name: str) -> bool:
    """Return whether a callback has a method of its own of this name."""
    method = getattr(callback, name, None)
    return callable(method) and getattr(method, "__func__", method) is not getattr(Callback, name)


def _public_methods(callback: Any) -> list[str]:
    names = [name for name in dir(callback) if not name.startswith("_")]
    return [name for name in names if callable(getattr(callback, name, None))]


def _name(callback: Any) -> str:
    return callback.__name__ if isinstance(callback, type) else type(callback).__name__
