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
    """A view of a run after a step. The training loop passes a view to the methods of callbacks, as the argument `run`.

    If the training loop calls callbacks after a step, it makes a new view for this step. `state`, `metrics` and
    `evaluate` wait for the devices, compute their values once, and cache the result. Use `state`, `metrics` and
    `evaluate` only within the callback: after the callback returns, the arrays of this step are donated to the next
    step.

    In a multi-process run, `state`, `metrics` and `evaluate` are collective: use them in all processes, or in none of
    the processes.

    Attributes:
      step: number of steps that the run has made so far.
      epoch: number of epochs so far: the mean number of times that each training example has been used.
      steps: number of steps of the whole run.
      first_step: number of steps that the run had made when this process started: 0 for a new run.
      folder: path of the run directory on the machine of the first process.
      config: the configuration that the run directory records.
      fetch_state: function that returns the training state as host arrays.
      fetch_metrics: function that returns the value of the property `metrics`.
      run_evaluation: function that returns the metrics of a split. For None, the split is the validation set if the run
        has a validation set, else the test set.
      wait: function that returns when the devices have completed all steps so far.

    Raises:
      UsageError: if `state`, `metrics` or `evaluate` is used after the run has continued with the next step.

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
        """The training state after this step, as host arrays. Do not write to these arrays: all callbacks share them.

        Raises:
          UsageError: if the run has continued with the next step.
        """
        return self._while_valid("state", self.fetch_state)

    @functools.cached_property
    def metrics(self) -> dict[str, Any]:
        """The training metrics of this step, such as `{"loss": 0.3, "accuracy": 0.9}`. Before the first step: `{}`.

        In `on_epoch`, the value is `{"train": {...}, "validation": {...}}`. "train" contains the means over the steps
        since the previous evaluation. "validation" contains the metrics of this evaluation. If the run has no
        validation set, the key is "test" instead of "validation".

        Raises:
          UsageError: if the run has continued with the next step.
        """
        return self._while_valid("metrics", self.fetch_metrics)

    def evaluate(self, split: str | None = None) -> dict[str, Any]:
        """Evaluate the state after this step on all examples of a split, and return the metrics.

        Args:
          split: "validation" or "test". Default: "validation" if the run has a validation set, else "test".

        Raises:
          UsageError: if the run does not have the split, or if the run has continued with the next step.
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
        """Return `work()`. Raise `UsageError` if the arrays of this step have been donated to the next step."""
        try:
            return work()
        except (RuntimeError, ValueError) as error:
            text = str(error)
            if "has been deleted" not in text and "deleted or donated" not in text:
                raise
            raise UsageError(
                f"run.{name} of step {self.step} was used after the callback had returned. "
                f"Use run.{name} only within the callback."
            ) from error


class Callback:
    """Base class of callbacks. Override the methods that you need.

    Any object that has some of these methods is a callback; deriving from this class is optional. The training loop
    calls the callbacks between two steps, in the order of `fit(..., callbacks=[...])`, and in the thread that called
    `fit`. An exception in a method ends the run, and `fit` raises the exception.

    In a multi-process run, each process calls all methods except `on_picture`, which only the first process calls. A
    method must return the same value in all processes. Write files only to `run.folder`, and only in the first process
    (`jax.process_index() == 0`).

    A resumed run calls `on_start` again, with `run.first_step` above 0. The attributes of a callback are not saved. If
    a resumed run needs a value, store the value in a file in `run.folder`.

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
        """Called before the first step of this process. `run.step` is equal to `run.first_step`."""

    def on_step(self, run: RunView) -> bool | None:
        """Called after each step for which `stops_after` returns True. Return True to stop the run after this step.

        If a callback stops the run, the state is evaluated and saved, and the result is written. The field `stopped` of
        `result.json` names the callback.
        """

    def on_epoch(self, run: RunView) -> bool | None:
        """Called after each evaluation, by default once per epoch. Return True to stop the run; see `on_step`."""

    def on_rows(self, run: RunView, rows: list[dict[str, Any]]) -> None:
        """Called with new rows of `metrics.jsonl`, every `log_every` steps and after each evaluation.

        The metrics of the latest steps may still be on the devices. The last row can therefore be some steps behind
        `run.step`.

        Args:
          run: view of the run.
          rows: the new rows. Each row has `split` ("train", "validation" or "test"), `step`, `epoch`, and the metrics
            that are numbers.
        """

    def on_save(self, run: RunView) -> None:
        """Called before each checkpoint is saved. Use this method to write the data of all steps so far to the disk."""

    def on_picture(self, run: RunView, name: str, png: bytes) -> None:
        """Called with a picture: its name, such as "test/predictions", and the bytes of a PNG file.

        In a multi-process run, only the first process draws pictures and calls this method. Do not use `run.state`,
        `run.metrics` and `run.evaluate` in this method: they would wait for the other processes forever.
        """

    def on_end(self, run: RunView, failed: bool) -> None:
        """Called once, after the run has ended or failed. Use this method to close files that `on_start` has opened.

        The method is not called if the process is killed.

        Args:
          run: view of the run after its last step.
          failed: whether the run ends with an exception. SIGTERM and SIGINT count as exceptions.
        """

    def stops_after(self, step: int) -> bool:
        """Return whether `on_step` is called after step number `step`, counted from 1.

        With `steps_per_dispatch` above 1, the training loop dispatches several steps together. A dispatch ends at each
        step for which this method returns True. The result must depend only on `step`, since the grouping of steps may
        change the last bits of the parameters.
        """
        return _overrides(self, "on_step") and step % self.every == 0


def check_callbacks(callbacks: Iterable[Any]) -> tuple[Any, ...]:
    """Check callbacks, and return them as a tuple.

    Raises:
      UsageError: if an object defines none of the methods of `Callback`, if the name of a method seems to be
        misspelled, or if `every` is not a positive integer. For a misspelled name, the error message suggests the
        closest valid name.

    >>> class Printer:
    ...     def on_stepp(self, run):
    ...         print(run.step)
    >>> check_callbacks([Printer()])
    Traceback (most recent call last):
    ...
    jaxcnn.errors.UsageError: callback Printer has a method that jaxcnn does not call: on_stepp. Did you mean on_step?
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
    # An object that does not derive from `Callback` may have methods for another library, with similar names.
    if not known or isinstance(callback, Callback):
        _check_spelling(callback, known)
    if not known:
        raise UsageError(f"callback {name} has no callback method. Define one of {', '.join(METHODS)}.")
    every = getattr(callback, "every", 1)
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise UsageError(
            f"the attribute every of callback {name} must be an integer of at least 1, got {shortened(repr(every))}"
        )


def _check_spelling(callback: Any, known: list[str]) -> None:
    """Raise `UsageError` if the name of a method is similar to the name of a callback method."""
    for method in _public_methods(callback):
        meant = f"on_{method}" in METHODS and not known
        near = closest(method, METHODS)
        if method in METHODS or near is None or not (method.startswith("on") or meant):
            continue
        raise UsageError(
            f"callback {_name(callback)} has a method that jaxcnn does not call: {method}. Did you mean {near}?"
        )


def stops_after(callbacks: Iterable[Any], step: int) -> bool:
    """Return whether any callback's `on_step` is called after step number `step`, counted from 1."""
    return any(_stops_after(callback, step) for callback in callbacks)


def _stops_after(callback: Any, step: int) -> bool:
    own = getattr(callback, "stops_after", None)
    if own is not None:
        return bool(own(step))
    return _overrides(callback, "on_step") and step % getattr(callback, "every", 1) == 0


def call(callbacks: Sequence[Any], name: str, run: RunView, *args: Any) -> list[Any]:
    """Call the method `name` of each callback that defines it, in order. Return the callbacks that ask to stop the run.

    `on_step` is called only for callbacks whose `stops_after` returns True. `on_end` is called for all callbacks, even
    if a callback raises an error: the first error is raised after the last call. If the run has failed already, errors
    of `on_end` are only logged, so that the user sees why the run failed.

    Args:
      callbacks: callbacks, as returned by `check_callbacks`.
      name: name of the method.
      run: view of the run.
      args: arguments of the method after `run`.

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
    """Return whether a method asks to stop the run by its return value: a bool, None or a boolean scalar array."""
    if answer is None or isinstance(answer, bool):
        return bool(answer)
    if getattr(answer, "dtype", None) == np.dtype(bool) and getattr(answer, "shape", None) == ():
        return bool(answer)
    raise UsageError(
        f"{name} of callback {_name(callback)} must return True to stop the run, or else False or None, "
        f"got {shortened(repr(answer))}"
    )


def _overrides(callback: Any, name: str) -> bool:
    """Return whether a callback has a method `name` that is not inherited from `Callback`."""
    method = getattr(callback, name, None)
    return callable(method) and getattr(method, "__func__", method) is not getattr(Callback, name)


def _public_methods(callback: Any) -> list[str]:
    names = [name for name in dir(callback) if not name.startswith("_")]
    return [name for name in names if callable(getattr(callback, name, None))]


def _name(callback: Any) -> str:
    return callback.__name__ if isinstance(callback, type) else type(callback).__name__
