"""The training loop of one process: it makes the training steps, the evaluations and the checkpoints of a run."""

import contextlib
import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxcnn import kernels
from jaxcnn.errors import UsageError
from jaxcnn.train import metrics
from jaxcnn.train.callbacks import RunView, call, stops_after
from jaxcnn.train.config import is_out_of_patience
from jaxcnn.train.devices import distributed, waits
from jaxcnn.train.devices.dispatch import dispatches
from jaxcnn.train.devices.distributed import Ignored
from jaxcnn.train.metrics import Sums, as_arrays, as_lists, numbers
from jaxcnn.train.runtime import integrity
from jaxcnn.train.runtime._progress import ProgressDisplay
from jaxcnn.train.runtime._stopwatch import Stopwatch
from jaxcnn.train.runtime.plan import Plan
from jaxcnn.train.runtime.record import Record, read_rows
from jaxcnn.train.runtime.resume import Start
from jaxcnn.train.runtime.signals import InterruptedRunError, StopSignals
from jaxcnn.train.runtime.verification import Calls, Verifier, make_verifier
from jaxcnn.train.state import TrainState

IN_FLIGHT = 2
"""The metrics of this number of latest dispatches are not fetched yet, so that no device waits for the host."""

EVALUATION_BATCH = 500


def training_batches(
    plan: Plan, first_step: int, stops: Callable[[int], bool] | None = None
) -> Iterator[tuple[int, Any]]:
    """Yield a number of steps and the batches for these steps, for each dispatch of the compiled training step.

    The batches, of shape `[steps, N, ...]`, are copied to the devices some dispatches before their use. A dispatch ends
    at each step after which the run saves a checkpoint, and at each step for which `stops` returns True.
    """

    def ends_call(step: int) -> bool:
        return plan.saves_after(step) or (stops is not None and stops(step))

    def counts() -> Iterator[int]:
        return dispatches(first_step, plan.steps, plan.config.steps_per_dispatch, ends_call)

    batches = plan.pipeline.batches(first_step, place=plan.parallel.place_batches, counts=counts())
    return zip(counts(), batches, strict=True)


def evaluate(plan: Plan, eval_step: Any, state: TrainState, split: str) -> dict[str, Any]:
    """Return the metrics over all examples of a split as JSON values. The entry `examples` is the number of examples.

    Raises:
      UsageError: if the run's dataset does not have the split.
    """
    if split not in plan.dataset.examples:
        raise UsageError(f"the run has no {split} examples. Choose one of: {', '.join(plan.dataset.examples)}")
    devices, examples = len(plan.parallel.devices), plan.dataset.examples[split]
    batch_size = -(-min(EVALUATION_BATCH, examples) // devices) * devices
    batches = plan.pipeline.evaluation_batches(batch_size, place=plan.parallel.place_batch, split=split)
    sums = [eval_step(state, batch) for batch in waits.each(batches, f"{split} data")]
    for number, part in enumerate(sums):
        with waits.waiting("the devices, to evaluate a batch", others=True, first=number == 0):
            jax.block_until_ready(part)
    total = metrics.add(jax.device_get(sums))
    if total["examples"] != examples:
        raise AssertionError(f"evaluated {total['examples']:.0f} instead of {examples} {split} examples")
    return plan.summarize(total)


class Loop:
    """Make the training steps, the evaluations and the checkpoints of a run in this process.

    Args:
      plan: model, data, optimizer and other parts of the run.
      start: the run directory, and the values that were saved together with the state to start from.
      record: object that writes the metrics of every step and evaluation to `metrics.jsonl`.
      display: object that shows the progress bar.
      stop: object that records whether a signal asked the run to stop.
      started: time at which the process started the run, in seconds of `time.perf_counter`.
      callbacks: the callbacks of the run; see `jaxcnn.train.callbacks`.
    """

    def __init__(
        self,
        plan: Plan,
        start: Start,
        record: Record | Ignored,
        display: ProgressDisplay,
        stop: StopSignals,
        started: float,
        callbacks: Sequence[Any] = (),
    ):
        meta = start.meta
        self.plan, self.folder, self.stop, self.started = plan, start.folder, stop, started - meta["seconds"]
        self.checkpoints, self.record, self.display = start.checkpoints, record, display
        self.callbacks, self.first_step = callbacks, int(start.state.step)
        rates = jax.jit(jax.vmap(plan.schedule))(jax.device_put(np.arange(plan.steps)))
        self.learning_rates: np.ndarray = jax.device_get(rates)
        self.eval_step = plan.compile_eval_step()
        # For each dispatch whose metrics are still on the devices: its last step, and its metric sums `[steps, ...]`.
        self.pending: deque[tuple[int, Sums]] = deque()
        self.epoch_total: dict[str, Any] | None = as_arrays(meta["epoch_total"])
        # Metrics of the latest state on the validation set, or else on the test set. None if no evaluation was made.
        self.evaluation: dict[str, Any] | None = meta["test"]
        self.best_score: float | None = meta["best_accuracy"]
        self.epochs_since_best: int = meta["epochs_since_best"]
        self.stopped_by: str | None = meta["stopped_by"]
        self.verifier: Verifier | None = None
        self.signal: int | None = None
        self.latest = (self.first_step, start.state)  # step and state that the callbacks' `on_end` gets
        self.watch = Stopwatch(meta["training_seconds"], meta["images_timed"])
        self.timed = self.first_step  # number of steps whose time is counted
        self.earlier_seconds = self.watch.training_seconds

    def train(self, state: TrainState) -> TrainState:
        """Make the remaining steps, and return the last state.

        The run ends early if the monitored metric has not improved for `patience` evaluations, or if a callback stops
        the run.
        """
        plan, step = self.plan, self.first_step
        train_steps = {count: plan.compile_train_steps(count) for count in (1, plan.config.steps_per_dispatch)}
        compiled = set[int]()
        if step and plan.evaluates_after(step) and self.evaluation is None:
            # The run was stopped after the last step of an epoch, before the evaluation of the epoch.
            self._end_epoch(step, state)
        if self.evaluation is not None and self.ends_early():
            return state  # the run was stopped before its result was written
        self._start_watch(step)
        self.verifier = make_verifier(plan, step, state)
        stops = functools.partial(stops_after, self.callbacks)
        calls = Calls(functools.partial(training_batches, plan, stops=stops), step)
        for count, batches in waits.each(calls, "training data"):
            if count not in compiled:
                if compiled:
                    self.watch.lap(state, images=(step - self.timed) * plan.batch_size)
                else:
                    self.watch.first_batch()
            with waits.waiting("the devices, to make a step", others=True, first=count not in compiled):
                if self.verifier is None:
                    state, sums = train_steps[count](state, batches)
                else:
                    state, sums = self.verifier.call(train_steps[count], step, count, state, batches)
            step += count
            self.latest = (step, state)
            self.pending.append((step, sums))
            self.evaluation = None
            if count not in compiled:
                self.watch.lap(state, compiling=True)
                if not compiled:
                    plan.pipeline.waited = 0.0  # do not count the wait for the first batch
                compiled.add(count)
                self.timed = step
            logs = step // plan.config.log_every > (step - count) // plan.config.log_every
            if logs:
                self._log(state, keep=self._held_back)
            self._call_on_step(step, state, sums)
            signal = self.signal = self.signal or self._asked_to_stop(logs)
            saves = plan.saves_after(step) or signal is not None or self.stopped_by is not None
            is_due = self.verifier and self.verifier.is_due(step, count, stops=saves, at_once=signal is not None)
            if is_due and (verified := self._go_back(step, state, calls)) is not None:
                step, state = verified
                continue
            if not saves or (self.verifier is not None and self.verifier.step != step):
                continue
            self.watch.lap(state, images=(step - self.timed) * plan.batch_size)
            self._log(state, keep=0)
            if signal is not None:
                # The state is not evaluated, since SIGKILL often follows soon after SIGTERM.
                self._save(step, state)
                distributed.on_first(self.checkpoints.wait)
                raise InterruptedRunError(signal, step, plan.steps, self.folder)
            if plan.evaluates_after(step) or self.stopped_by is not None:
                self._end_epoch(step, state)
                if self.ends_early():
                    break
            else:
                self._save(step, state)
            self._start_watch(step)
        return state

    def _go_back(self, step: int, state: TrainState, calls: Calls) -> tuple[int, TrainState] | None:
        """Verify the latest steps. If the steps are wrong, return the last verified step and its state, else None."""
        assert self.verifier is not None
        mismatch = self.verifier.verify(step, state)
        if mismatch is None:
            return None
        self.stopped_by = None
        self.pending = deque(x for x in self.pending if x[0] <= self.verifier.step)  # drop metrics of wrong steps
        self.record.write(self.verifier.row(mismatch, step))
        self.record.sync()
        self.latest = self.verifier.go_back(mismatch)
        calls.go_back(self.verifier.step)
        self._start_watch(self.verifier.step)
        return self.latest

    @contextlib.contextmanager
    def callbacks_open(self, state: TrainState) -> Iterator[None]:
        """Call the callbacks' `on_start` before the block, and `on_end` after it, also if the block raises an error."""
        failed = True
        try:
            call(self.callbacks, "on_start", self._view(self.first_step, state))
            yield
            failed = False
        finally:
            call(self.callbacks, "on_end", self._view(*self.latest), failed)

    def show_picture(self, name: str, png: bytes, state: TrainState) -> None:
        """Pass a picture to the callbacks, under a name such as "test/predictions"."""
        call(self.callbacks, "on_picture", self._view(int(state.step), state), name, png)

    def test(self, state: TrainState) -> tuple[int, dict[str, Any]]:
        """Return the step of the tested checkpoint, and its metrics on the test set.

        If the run has a validation set, the tested checkpoint is the checkpoint with the best evaluation, and the run
        uses the test set only once. Without a validation set, the tested checkpoint is the last checkpoint.
        """
        last = int(state.step)
        if self.plan.held_out == "test":
            assert self.evaluation is not None
            return last, self.evaluation
        distributed.on_first(self.checkpoints.wait)
        best = distributed.on_first(self.checkpoints.best_step)
        if best not in (None, last):
            mine = distributed.together(lambda: self._checkpoint(best) if distributed.is_first() else None)
            blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.plan.template)
            state = self.plan.parallel.place_state(distributed.from_first(mine or blank))
        values = evaluate(self.plan, self.eval_step, state, "test")
        row = {"split": "test", "step": last, "epoch": round(self.plan.epoch(last), 4), **numbers(values)}
        # Only the first process has `metrics.jsonl`. Its answer is sent to all processes.
        if not distributed.on_first(lambda: self._has_row("test", last)):
            self._write([row], state)
            self.record.sync()
        return best or last, values

    def _has_row(self, split: str, step: int) -> bool:
        """Return whether `metrics.jsonl` already has a row for the evaluation of a split after a step."""
        return any((row["split"], row["step"]) == (split, step) for row in read_rows(self.folder))

    def _checkpoint(self, step: int) -> TrainState:
        """Return the state in a checkpoint of this run. Only the first process may call this method."""
        found: Any = self.checkpoints.restore(step, self.plan.template)
        return found[0]

    def ends_early(self) -> bool:
        """Return whether the run must end after the latest evaluation, before its last step."""
        return self.stopped_by is not None or is_out_of_patience(self.plan.config, self.epochs_since_best)

    @property
    def _held_back(self) -> int:
        """Number of latest dispatches whose metrics are not fetched yet: all unverified dispatches, or `IN_FLIGHT`."""
        return sum(step > self.verifier.step for step, _ in self.pending) if self.verifier else IN_FLIGHT

    @property
    def data_wait(self) -> float:
        """Fraction of this process's training time that was spent waiting for data."""
        seconds = self.watch.training_seconds - self.earlier_seconds
        return min(1.0, self.plan.pipeline.waited / seconds) if seconds else 0.0

    def _asked_to_stop(self, logs: bool) -> int | None:
        """Return the signal that asks the run to stop, or None. If `logs` is False, do not ask the other processes."""
        if self.plan.parallel.share[1] == 1:
            return self.stop.received
        return distributed.first_signal(self.stop.received) if logs else None

    def _view(self, step: int, state: TrainState, fetch_metrics: Callable[[], Any] = dict) -> RunView:
        """Return the view of the run that callbacks get after `step` steps."""
        plan = self.plan
        return RunView(
            step=step,
            epoch=plan.epoch(step),
            steps=plan.steps,
            first_step=self.first_step,
            folder=self.folder,
            config=plan.config,
            fetch_state=lambda: plan.parallel.fetch_state(state),
            fetch_metrics=fetch_metrics,
            run_evaluation=lambda split: evaluate(plan, self.eval_step, state, split or plan.held_out),
            wait=lambda: jax.block_until_ready(state),
        )

    def _start_watch(self, step: int) -> None:
        """Start to count training time and training images from step `step` on."""
        self.watch.start()
        self.timed = step

    def _call_on_step(self, step: int, state: TrainState, sums: Sums) -> None:
        """Call the callbacks' `on_step` after a dispatch that ends at `step` and returned the sums `[steps, ...]`."""
        if not stops_after(self.callbacks, step):
            return
        self.watch.lap(state, images=(step - self.timed) * self.plan.batch_size)

        def metrics_of_step() -> dict[str, Any]:
            values = self.plan.summarize({name: x[-1] for name, x in jax.device_get(sums).items()})
            return {name: value for name, value in values.items() if name != "examples"}

        self._note_stop(call(self.callbacks, "on_step", self._view(step, state, metrics_of_step)))
        self.watch.skip()
        self.timed = step

    def _note_stop(self, stopping: list[Any]) -> None:
        """Store the class name of the callback that asked to stop. All processes use the name of the first process."""
        name = type(stopping[0]).__name__ if stopping else None
        self.stopped_by = self.stopped_by or distributed.gather(name)[0]

    def _write(self, rows: list[dict[str, Any]], state: TrainState) -> None:
        """Write rows to `metrics.jsonl`, and pass the rows to the callbacks."""
        for row in rows:
            self.record.write(row)
        if self.callbacks:
            call(self.callbacks, "on_rows", self._view(rows[-1]["step"], state), rows)

    def _log(self, state: TrainState, keep: int) -> None:
        """Wait for the devices, then fetch and record the metrics of all dispatches except the last `keep`."""
        fetched: list[tuple[int, dict[str, Any]]] = []
        for _, sums in [*self.pending][: len(self.pending) - min(keep, IN_FLIGHT)]:
            with waits.waiting("the devices, to make a step", others=True):
                jax.block_until_ready(sums)
        if (count := len(self.pending) - keep) < 1:
            return
        for last, sums in jax.device_get([self.pending.popleft() for _ in range(count)]):
            made = len(sums["loss"])
            fetched += [(last - made + 1 + i, {name: x[i] for name, x in sums.items()}) for i in range(made)]
        rows = []
        for step, sums in fetched:
            values = numbers(self.plan.summarize(sums))
            if not math.isfinite(values["loss"]):
                self._write(rows, state) if rows else None
                self._stop_diverged(step, f"the loss is {values['loss']}")
            values.pop("examples")
            row = {"split": "train", "step": step, "epoch": round(self.plan.epoch(step), 4), **values}
            rows.append({**row, "learning_rate": float(self.learning_rates[step - 1])})
        self._write(rows, state)
        self.record.flush()
        # Sums are added from left to right, so that a resumed run gets bitwise the same total.
        parts = [sums for _, sums in fetched]
        self.epoch_total = metrics.add([*([self.epoch_total] if self.epoch_total else []), *parts])
        self.checkpoints.check()
        last = fetched[-1][0]
        means = self.plan.summarize(metrics.add(parts))
        self.display.steps_done(last, self.plan.epoch(last), self.plan.pipeline.waited, numbers(means))

    def _end_epoch(self, step: int, state: TrainState) -> None:
        """Evaluate the model, record and print the metrics of the epoch, and save a checkpoint."""
        plan, split = self.plan, self.plan.held_out
        values = self.evaluation = evaluate(plan, self.eval_step, state, split)
        epoch, score = plan.epoch(step), plan.score(values)
        is_better = self.best_score is None or score > self.best_score
        self.best_score = score if is_better else self.best_score
        self.epochs_since_best = 0 if is_better else self.epochs_since_best + 1
        assert self.epoch_total is not None
        train, self.epoch_total = plan.summarize(self.epoch_total), None
        # The file has the row already if the process was killed after it wrote the row, before the checkpoint.
        if step != self.first_step or not distributed.on_first(lambda: self._has_row(split, step)):
            self._write([{"split": split, "step": step, "epoch": round(epoch, 4), **numbers(values)}], state)
        self.display.epoch_done(epoch, numbers(train), split, numbers(values), self.watch.rate)
        view = self._view(step, state, lambda: {"train": train, split: values})
        self._note_stop(call(self.callbacks, "on_epoch", view))
        self._save(step, state)

    def _save(self, step: int, state: TrainState) -> None:
        """Write all rows of `metrics.jsonl` up to this step to the disk, then start to save a checkpoint."""
        host = self.plan.parallel.fetch_state(state)
        bad = integrity.non_finite_leaf(host)
        if bad is not None:
            self._stop_diverged(step, f"{bad} has infinite or NaN values")
        self.record.sync()
        call(self.callbacks, "on_save", self._view(step, state))
        meta = {
            "seconds": time.perf_counter() - self.started,
            "training_seconds": self.watch.training_seconds,
            "images_timed": self.watch.images,
            "epoch_total": as_lists(self.epoch_total),
            "test": self.evaluation,
            "best_accuracy": self.best_score,
            "epochs_since_best": self.epochs_since_best,
            "stopped_by": self.stopped_by,
            "kernels": kernels.in_use(),
            "pipeline": distributed.gather(self.plan.pipeline.state_after(step)),
        }
        self.checkpoints.save(host, meta, None if self.evaluation is None else self.plan.score(self.evaluation))

    def _stop_diverged(self, step: int, what: str) -> None:
        """Raise `DivergedError` with the step of the latest checkpoint."""

        def kept_step() -> int | None:
            self.checkpoints.wait()
            return self.checkpoints.latest_step()

        kept = distributed.on_first(kept_step)
        raise integrity.diverged(step, what, self.folder, kept, self.plan.config.optimizer.learning_rate)
