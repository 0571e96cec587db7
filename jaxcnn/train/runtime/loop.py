"""The training loop: the only one. It leaves a folder with everything about the run."""

import math
import platform
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from rich.console import Console

from jaxcnn.errors import RunError
from jaxcnn.train import metrics
from jaxcnn.train.config import Config
from jaxcnn.train.devices import distributed
from jaxcnn.train.devices.dispatch import dispatches
from jaxcnn.train.devices.distributed import Silent
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime import _curves, _tracking, integrity, workdir
from jaxcnn.train.runtime._progress import ProgressDisplay, print_summary
from jaxcnn.train.runtime._samples import draw_predictions
from jaxcnn.train.runtime._stopwatch import Stopwatch
from jaxcnn.train.runtime.checkpoint import Checkpoints
from jaxcnn.train.runtime.plan import Plan, make_plan
from jaxcnn.train.runtime.record import Record, read_rows
from jaxcnn.train.runtime.resume import Start, claimed
from jaxcnn.train.runtime.signals import InterruptedRunError, StopSignals
from jaxcnn.train.state import TrainState
from jaxcnn.version import __version__

# Calls whose metrics stay on the devices when earlier ones are fetched, so that fetching leaves no device idle.
IN_FLIGHT = 2
EVALUATION_BATCH = 500


class DivergedError(RunError):
    """The loss is no longer a finite number; checkpoints of earlier steps have been kept."""


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      config: what was run.
      workdir: the run's folder.
      state: the state after the last step.
      test_accuracy: share of right answers on all of the `test_examples`.
      test_loss: mean cross-entropy on them, in nats.
      values: everything in `result.json`.
    """

    config: Config
    workdir: Path
    state: TrainState
    test_accuracy: float
    test_loss: float
    test_examples: int
    values: dict[str, Any]


def fit(
    config: Config,
    *,
    model: nn.Module | None = None,
    loss: Callable[..., Any] | None = None,
    augment: Callable[..., Any] | None = None,
    optimizer: Any = None,
    console: Console | None = None,
) -> Result:
    """Trains as `config` says, in the run's folder, and returns what it came to.

    The folder (`config.workdir`) then holds `config.json`, `metrics.jsonl` (a line for each step and test),
    TensorBoard events, `checkpoints/`, `_curves.png` and `result.json`. If it already holds a part of this very
    run, the run goes on from its latest sound checkpoint, to the same end, to the last bit, as if it had never
    stopped.

    SIGTERM and SIGINT (Ctrl-C) let the step end and the state be saved; a second Ctrl-C stops at once.

    After `distributed.initialize` every process has to call this with the same configuration. The first one alone
    writes and prints; the result is that of all.

    Args:
      config: what to train, on what, and how.
      model: a Linen module to train in place of the named one: `model(x, train=...) -> logits`.
      loss: a function in place of the named one: `(logits [N, classes], labels [N]) -> [N]`.
      augment: a function in place of the named ones: `(key, image [H, W, C]) -> [H, W, C]`.
      optimizer: an optax transformation in place of the named one, or a function `schedule -> transformation`.
      console: where to print; standard output if not given.

    Raises:
      UsageError: a configuration that cannot work, before anything is written, or a folder that another process
        is training in.
      DivergedError: the loss or the state became infinite or NaN.
      SaveError: a checkpoint could not be written.
      InterruptedRunError: a signal asked to stop.
    """
    started = time.perf_counter()
    console = console or Console()
    if config.wandb:
        _tracking.check_installed()
    parts = CustomParts(model, loss, augment, optimizer)
    plan = distributed.together(lambda: make_plan(config, parts))
    config = plan.config
    shows = config.progress and distributed.is_first()
    with StopSignals() as stop, claimed(plan) as start:
        first_step = int(start.state.step)
        if start.continued and shows:
            console.print(
                f"{start.folder} holds {first_step:,} of {plan.steps:,} steps of this run; going on from there"
            )
        state = plan.parallel.place_state(start.state)
        if first_step < plan.steps or not start.finished:
            for note in plan.notes() if shows else ():
                console.print(note, highlight=False)
            with (
                _open_record(start.folder, first_step, config) as record,
                ProgressDisplay(
                    console,
                    steps=plan.steps,
                    first_step=first_step,
                    batch_size=plan.batch_size,
                    enabled=shows,
                ) as display,
            ):
                run = _Run(plan, start, record, display, stop, started)
                state, test = run.train(state, first_step)
                host = plan.parallel.fetch_state(state)
                if config.tensorboard_images and distributed.is_first():
                    picture = draw_predictions(plan, host, config.tensorboard_images)
                    record.write_picture("test/predictions", plan.steps, picture)
            distributed.check_equal("the state", integrity.sha256(host))
            distributed.on_first(lambda: _write_result(run, host, test))
    values = distributed.on_first(lambda: workdir.read_json(start.folder / workdir.RESULT))
    if shows:
        print_summary(console, values, start.folder)
        # A result of an earlier version has no such value.
        if advice := plan.pipeline.advice(values.get("data_wait", 0.0)):
            console.print(advice, highlight=False)
    return Result(
        config, start.folder, state, values["test_accuracy"], values["test_loss"], values["test_examples"], values
    )


def _open_record(folder: Path, first_step: int, config: Config) -> Record | nullcontext[Silent]:
    if not distributed.is_first():
        return nullcontext(Silent())
    return Record(folder, first_step, _tracking.WeightsAndBiases(folder, config) if config.wandb else None)


def evaluate(plan: Plan, eval_step: Any, state: TrainState) -> dict[str, float]:
    """Mean `loss` and `accuracy` over every test example, and how many `examples` they were."""
    devices, examples = len(plan.parallel.devices), plan.dataset.examples["test"]
    batch_size = -(-min(EVALUATION_BATCH, examples) // devices) * devices
    batches = plan.pipeline.evaluation_batches(batch_size)
    total = metrics.add(jax.device_get([eval_step(state, plan.parallel.place_batch(batch)) for batch in batches]))
    if total["examples"] != examples:
        raise AssertionError(f"tested on {total['examples']:.0f} of {examples} examples")
    return {**metrics.means(total), "examples": int(total["examples"])}


def evaluate_run(folder: Path, **custom: Any) -> dict[str, Any]:
    """Tests the latest checkpoint of the run in `folder` on every test example.

    Parts of the run that are no names (`model`, `loss`, `augment`, `optimizer`) are given as to `fit`.

    Returns:
      `model`, `dataset`, `step`, `test_accuracy`, `test_loss` and `test_examples`.

    Raises:
      UsageError: no run there, no checkpoint yet, or none that is sound.
    """
    plan = make_plan(workdir.read_config(folder), CustomParts(**custom))
    with Checkpoints(folder / workdir.CHECKPOINTS, read_only=True) as checkpoints:
        state, _ = checkpoints.existing(plan.template)
    test = evaluate(plan, plan.compile_eval_step(), plan.parallel.place_state(state))
    return {
        "model": plan.config.model,
        "dataset": plan.config.dataset,
        "step": int(state.step),
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
        "test_examples": test["examples"],
    }


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return {"jaxcnn": __version__, "python": platform.python_version(), **packages}


def _write_result(run: "_Run", state: TrainState, test: dict[str, float]) -> None:
    """Writes `_curves.png` and, as the last thing that a run does, `result.json`."""
    run.checkpoints.wait()
    config, folder, rows = run.plan.config, run.folder, read_rows(run.folder)
    with workdir.writing(folder):
        with workdir.replacing(folder / workdir.CURVES) as picture:
            title = f"{config.model} on {config.dataset}"
            _curves.draw(rows, title, picture, label_smoothing=config.label_smoothing)
        values = _result_values(run, state, test, train=_curves.epoch_means(rows)[0][-1])
        workdir.write_json(folder / workdir.RESULT, values)


def _result_values(run: "_Run", state: TrainState, test: dict[str, float], train: dict[str, Any]) -> dict[str, Any]:
    """The values of `result.json`; `train` has the means of the last epoch's steps."""
    plan = run.plan
    return {
        "model": plan.config.model,
        "dataset": plan.config.dataset,
        "steps": plan.steps,
        "epochs": plan.epoch(plan.steps),
        "batch_size": plan.batch_size,
        "seed": plan.config.seed,
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
        "test_examples": test["examples"],
        "train_accuracy": train["accuracy"],
        "train_loss": train["loss"],
        "params": sum(x.size for x in jax.tree.leaves(plan.template.params)),
        "seconds": time.perf_counter() - run.started,
        "first_batch_seconds": run.watch.first_batch_seconds,
        "compile_seconds": run.watch.compile_seconds,
        "images_per_second": run.watch.images / run.watch.training_seconds if run.watch.images else 0.0,
        "data_wait": run.data_wait,
        "data_residence": plan.pipeline.residence,
        "devices": len(plan.parallel.devices),
        "device_kind": plan.parallel.devices[0].device_kind,
        "parallel": plan.parallel.name,
        "processes": plan.parallel.share[1],
        "state_sha256": integrity.sha256(state),
        "versions": versions(),
    }


class _Run:
    """The steps, tests and checkpoints of a run, from its first step in this process to its last."""

    def __init__(
        self,
        plan: Plan,
        start: Start,
        record: Record | Silent,
        display: ProgressDisplay,
        stop: StopSignals,
        started: float,
    ):
        meta = start.meta
        self.plan, self.folder, self.stop, self.started = plan, start.folder, stop, started - meta["seconds"]
        self.checkpoints, self.record, self.display = start.checkpoints, record, display
        self.learning_rates = np.asarray(jax.vmap(plan.schedule)(np.arange(plan.steps)))
        # Of each call whose metrics are still on the devices: its last step, and the metrics `[steps]`.
        self.pending: deque[tuple[int, metrics.Sums]] = deque()
        self.epoch_total: dict[str, float] | None = meta["epoch_total"]
        self.test: dict[str, float] | None = meta["test"]
        self.watch = Stopwatch(meta["training_seconds"], meta["images_timed"])
        self.earlier_seconds = self.watch.training_seconds

    def train(self, state: TrainState, first_step: int) -> tuple[TrainState, dict[str, float]]:
        """Makes the steps from `first_step` on; returns the last state and its test."""
        plan, config = self.plan, self.plan.config
        train_steps = {count: plan.compile_train_steps(count) for count in (1, config.steps_per_dispatch)}
        eval_step, compiled = plan.compile_eval_step(), set[int]()
        batches = plan.pipeline.batches(first_step)
        if first_step and plan.ends_epoch(first_step) and self.test is None:
            # The run was stopped between the last step of an epoch and its test.
            self._end_epoch(first_step, state, eval_step)
        self.watch.start()
        step = timed = first_step
        for count in dispatches(first_step, plan.steps, config.steps_per_dispatch, plan.saves_after):
            batch = plan.parallel.place_batches([next(batches) for _ in range(count)])
            if count not in compiled:
                if compiled:
                    self.watch.lap(state, images=(step - timed) * plan.batch_size)
                else:
                    self.watch.first_batch()
            state, sums = train_steps[count](state, batch)
            step += count
            self.pending.append((step, sums))
            self.test = None
            if count not in compiled:
                self.watch.lap(state, compiling=True)
                if not compiled:
                    plan.pipeline.waited = 0.0  # counts from where the time of steps does
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
                # Without a test, for which there may be no time: whoever sends SIGTERM soon sends SIGKILL.
                self._save(step, state)
                distributed.on_first(self.checkpoints.wait)
                raise InterruptedRunError(signal, step, plan.steps, self.folder)
            if plan.ends_epoch(step):
                self._end_epoch(step, state, eval_step)
            else:
                self._save(step, state)
            self.watch.start()
            timed = step
        assert self.test is not None
        return state, self.test

    @property
    def data_wait(self) -> float:
        """The share of the time of steps, in this process, in which they waited for data."""
        seconds = self.watch.training_seconds - self.earlier_seconds
        return min(1.0, self.plan.pipeline.waited / seconds) if seconds else 0.0

    def _asked_to_stop(self, logs: bool) -> int | None:
        """The signal after which to stop. Many processes have to stop after the same step: they agree when they log."""
        if self.plan.parallel.share[1] == 1:
            return self.stop.received
        return distributed.first_signal(self.stop.received) if logs else None

    def _log(self, keep: int) -> None:
        """Fetches and records the metrics of all calls but the last `keep`."""
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
        # Added up from left to right, so that a sum that was saved and goes on is the same to the last bit.
        parts = [sums for _, sums in fetched]
        self.epoch_total = metrics.add([*([self.epoch_total] if self.epoch_total else []), *parts])
        self.checkpoints.check()
        last = fetched[-1][0]
        self.display.steps_done(
            last, self.plan.epoch(last), self.plan.pipeline.waited, **metrics.means(metrics.add(parts))
        )

    def _end_epoch(self, step: int, state: TrainState, eval_step: Any) -> None:
        """Tests, records and shows the test and the training before it, and saves a checkpoint."""
        self.test = evaluate(self.plan, eval_step, state)
        epoch = self.plan.epoch(step)
        assert self.epoch_total is not None
        train, self.epoch_total = metrics.means(self.epoch_total), None
        self.record.write({"split": "test", "step": step, "epoch": round(epoch, 4), **self.test})
        self.display.epoch_done(epoch, train, self.test, self.watch.rate)
        self._save(step, state)

    def _save(self, step: int, state: TrainState) -> None:
        """Starts to save a checkpoint, behind all the rows up to this step."""
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
        }
        self.checkpoints.save(host, meta, self.test["accuracy"] if self.test else None)

    def _stop_diverged(self, step: int, what: str) -> None:
        def kept_step() -> int | None:
            self.checkpoints.wait()
            return self.checkpoints.latest_step()

        kept = distributed.on_first(kept_step)
        where = f"the checkpoint of step {kept} in {self.folder} is kept" if kept else "there is no checkpoint yet"
        rate = self.plan.config.optimizer.learning_rate
        raise DivergedError(
            f"{what} at step {step}; {where}; try a lower learning rate (--optimizer.learning-rate {rate / 10:g})"
        )
