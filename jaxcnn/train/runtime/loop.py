"""The training loop: steps, tests and checkpoints, from a run's first step in this process to its last."""

import math
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxcnn.errors import RunError
from jaxcnn.train import metrics
from jaxcnn.train.config import Config
from jaxcnn.train.devices import distributed
from jaxcnn.train.devices.dispatch import dispatches
from jaxcnn.train.devices.distributed import Ignored
from jaxcnn.train.runtime import integrity
from jaxcnn.train.runtime._progress import ProgressDisplay
from jaxcnn.train.runtime._stopwatch import Stopwatch
from jaxcnn.train.runtime.plan import Plan
from jaxcnn.train.runtime.record import Record
from jaxcnn.train.runtime.resume import Start
from jaxcnn.train.runtime.signals import InterruptedRunError, StopSignals
from jaxcnn.train.state import TrainState

IN_FLIGHT = 2
"""Number of latest calls whose metrics stay on the devices when earlier ones are fetched, so that no device idles."""

EVALUATION_BATCH = 500


class DivergedError(RunError):
    """The loss or the state has an infinite or NaN value. Checkpoints of earlier steps are kept."""


def training_batches(plan: Plan, first_step: int) -> Iterator[tuple[int, Any]]:
    """Yield, for each call of the compiled steps from `first_step` on, its number of steps and their batches.

    The batches, `[steps, N, ...]`, are put on the devices some calls ahead.
    """

    def counts() -> Iterator[int]:
        return dispatches(first_step, plan.steps, plan.config.steps_per_dispatch, plan.saves_after)

    batches = plan.pipeline.batches(first_step, place=plan.parallel.place_batches, counts=counts())
    return zip(counts(), batches, strict=True)


def is_out_of_patience(config: Config, epochs_since_best: int) -> bool:
    """Return whether a run ends after so many epochs without a better test accuracy."""
    return config.patience is not None and epochs_since_best >= config.patience


def evaluate(plan: Plan, eval_step: Any, state: TrainState) -> dict[str, float]:
    """Return the mean `loss` and `accuracy` over every test example, and the number of `examples`."""
    devices, examples = len(plan.parallel.devices), plan.dataset.examples["test"]
    batch_size = -(-min(EVALUATION_BATCH, examples) // devices) * devices
    batches = plan.pipeline.evaluation_batches(batch_size, place=plan.parallel.place_batch)
    total = metrics.add(jax.device_get([eval_step(state, batch) for batch in batches]))
    if total["examples"] != examples:
        raise AssertionError(f"tested on {total['examples']:.0f} of {examples} examples")
    return {**metrics.means(total), "examples": int(total["examples"])}


class Loop:
    """The steps, tests and checkpoints of a run in this process.

    Args:
      plan: the run's parts.
      start: the run directory, and what was saved beside the state that the run starts from.
      record: gets the metrics of every step and test.
      display: shows the progress.
      stop: tells whether a signal asked to stop.
      started: when the process started the run, by `time.perf_counter`.
    """

    def __init__(
        self,
        plan: Plan,
        start: Start,
        record: Record | Ignored,
        display: ProgressDisplay,
        stop: StopSignals,
        started: float,
    ):
        meta = start.meta
        self.plan, self.folder, self.stop, self.started = plan, start.folder, stop, started - meta["seconds"]
        self.checkpoints, self.record, self.display = start.checkpoints, record, display
        rates = jax.jit(jax.vmap(plan.schedule))(jax.device_put(np.arange(plan.steps)))
        self.learning_rates: np.ndarray = jax.device_get(rates)
        # For each call whose metrics are still on the devices: its last step, and the metrics `[steps]`.
        self.pending: deque[tuple[int, metrics.Sums]] = deque()
        self.epoch_total: dict[str, float] | None = meta["epoch_total"]
        self.test: dict[str, float] | None = meta["test"]
        self.best_accuracy: float | None = meta.get("best_accuracy")
        self.epochs_since_best: int = meta.get("epochs_since_best", 0)
        self.watch = Stopwatch(meta["training_seconds"], meta["images_timed"])
        self.earlier_seconds = self.watch.training_seconds

    def train(self, state: TrainState, first_step: int) -> tuple[TrainState, dict[str, float]]:
        """Make the steps from `first_step` on; return the last state and its test metrics.

        The run ends early if the test accuracy has not improved for `patience` epochs.
        """
        plan, config = self.plan, self.plan.config
        train_steps = {count: plan.compile_train_steps(count) for count in (1, config.steps_per_dispatch)}
        eval_step, compiled = plan.compile_eval_step(), set[int]()
        if first_step and plan.ends_epoch(first_step) and self.test is None:
            # The run was stopped between the last step of an epoch and its test.
            self._end_epoch(first_step, state, eval_step)
        if self.test is not None and self.stops_early():
            return state, self.test  # the run was stopped before its result was written
        self.watch.start()
        step = timed = first_step
        for count, batches in training_batches(plan, first_step):
            if count not in compiled:
                if compiled:
                    self.watch.lap(state, images=(step - timed) * plan.batch_size)
                else:
                    self.watch.first_batch()
            state, sums = train_steps[count](state, batches)
            step += count
            self.pending.append((step, sums))
            self.test = None
            if count not in compiled:
                self.watch.lap(state, compiling=True)
                if not compiled:
                    plan.pipeline.waited = 0.0  # counted over the same time as the steps
                compiled.add(count)
                timed = step
            logs = step // config.log_every > (step - count) // config.log_every
            if logs:
                self._log(keep=IN_FLIGHT)
            signal = self._asked_to_stop(logs)
            if not plan.saves_after(step) and signal is None:
                continue
            self.watch.lap(state, images=(step - timed) * plan.batch_size)
            self._log(keep=0)
            if signal is not None:
                # Without a test, for which there may be no time: SIGKILL often follows soon after SIGTERM.
                self._save(step, state)
                distributed.on_first(self.checkpoints.wait)
                raise InterruptedRunError(signal, step, plan.steps, self.folder)
            if plan.ends_epoch(step):
                self._end_epoch(step, state, eval_step)
                if self.stops_early():
                    break
            else:
                self._save(step, state)
            self.watch.start()
            timed = step
        assert self.test is not None
        return state, self.test

    def stops_early(self) -> bool:
        """Return whether the test accuracy has not improved for as many epochs as the run waits for."""
        return is_out_of_patience(self.plan.config, self.epochs_since_best)

    @property
    def data_wait(self) -> float:
        """Fraction of this process's step time that was spent waiting for data."""
        seconds = self.watch.training_seconds - self.earlier_seconds
        return min(1.0, self.plan.pipeline.waited / seconds) if seconds else 0.0

    def _asked_to_stop(self, logs: bool) -> int | None:
        """Return the signal after which to stop. Several processes, which must stop together, agree on it if `logs`."""
        if self.plan.parallel.share[1] == 1:
            return self.stop.received
        return distributed.first_signal(self.stop.received) if logs else None

    def _log(self, keep: int) -> None:
        """Fetch and record the metrics of all calls but the last `keep`."""
        count = len(self.pending) - keep
        if count < 1:
            return
        fetched: list[tuple[int, dict[str, Any]]] = []
        for last, sums in jax.device_get([self.pending.popleft() for _ in range(count)]):
            made = len(sums["loss"])
            fetched += [(last - made + 1 + i, {name: x[i] for name, x in sums.items()}) for i in range(made)]
        for step, sums in fetched:
            means = metrics.means(sums)
            if not math.isfinite(means["loss"]):
                self._stop_diverged(step, f"the loss is {means['loss']}")
            row = {"split": "train", "step": step, "epoch": round(self.plan.epoch(step), 4), **means}
            self.record.write({**row, "learning_rate": float(self.learning_rates[step - 1])})
        self.record.flush()
        # Added from left to right, so that a sum that was saved and resumed has the same bits.
        parts = [sums for _, sums in fetched]
        self.epoch_total = metrics.add([*([self.epoch_total] if self.epoch_total else []), *parts])
        self.checkpoints.check()
        last = fetched[-1][0]
        self.display.steps_done(
            last, self.plan.epoch(last), self.plan.pipeline.waited, **metrics.means(metrics.add(parts))
        )

    def _end_epoch(self, step: int, state: TrainState, eval_step: Any) -> None:
        """Test the model, record and show the metrics of the epoch, and save a checkpoint."""
        self.test = evaluate(self.plan, eval_step, state)
        epoch, accuracy = self.plan.epoch(step), self.test["accuracy"]
        is_better = self.best_accuracy is None or accuracy > self.best_accuracy
        self.best_accuracy = accuracy if is_better else self.best_accuracy
        self.epochs_since_best = 0 if is_better else self.epochs_since_best + 1
        assert self.epoch_total is not None
        train, self.epoch_total = metrics.means(self.epoch_total), None
        self.record.write({"split": "test", "step": step, "epoch": round(epoch, 4), **self.test})
        self.display.epoch_done(epoch, train, self.test, self.watch.rate)
        self._save(step, state)

    def _save(self, step: int, state: TrainState) -> None:
        """Start to save a checkpoint, once all rows up to this step are on the disk."""
        host = self.plan.parallel.fetch_state(state)
        bad = integrity.non_finite_leaf(host)
        if bad is not None:
            self._stop_diverged(step, f"{bad} has infinite or NaN values")
        self.record.sync()
        meta = {
            "seconds": time.perf_counter() - self.started,
            "training_seconds": self.watch.training_seconds,
            "images_timed": self.watch.images,
            "epoch_total": self.epoch_total,
            "test": self.test,
            "best_accuracy": self.best_accuracy,
            "epochs_since_best": self.epochs_since_best,
        }
        self.checkpoints.save(host, meta, self.test["accuracy"] if self.test else None)

    def _stop_diverged(self, step: int, what: str) -> None:
        """Raise `DivergedError`, naming the last good checkpoint."""

        def kept_step() -> int | None:
            self.checkpoints.wait()
            return self.checkpoints.latest_step()

        kept = distributed.on_first(kept_step)
        where = f"the checkpoint of step {kept} in {self.folder} is kept" if kept else "there is no checkpoint yet"
        rate = self.plan.config.optimizer.learning_rate
        advice = f"try a lower learning rate (--optimizer.learning-rate {rate / 10:g})"
        if step == 1 and what.startswith("the loss"):
            advice = "no step has been made yet, so that the cause is in the model, the loss or the data"
        raise DivergedError(f"{what} at step {step}; {where}; {advice}")
