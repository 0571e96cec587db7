"""Train a group of networks with one compiled program, and save checkpoints that contain all networks of the group."""

import dataclasses
import hashlib
import json
import math
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import struct

from jaxcnn import kernels
from jaxcnn.train import metrics
from jaxcnn.train.config import is_out_of_patience, to_dict
from jaxcnn.train.devices.dispatch import dispatches
from jaxcnn.train.many.batches import Batches
from jaxcnn.train.many.groups import Network, Plans
from jaxcnn.train.many.programs import Programs
from jaxcnn.train.many.rows import Rows, rows_of_network, track
from jaxcnn.train.metrics import as_arrays, as_lists, numbers
from jaxcnn.train.runtime import data_identity, integrity, preprocessing, workdir
from jaxcnn.train.runtime._progress import ProgressDisplay
from jaxcnn.train.runtime._stopwatch import Stopwatch
from jaxcnn.train.runtime.checkpoint import Checkpoints, to_host
from jaxcnn.train.runtime.loop import EVALUATION_BATCH, IN_FLIGHT
from jaxcnn.train.runtime.plan import Plan
from jaxcnn.train.runtime.record import Record, Row
from jaxcnn.train.runtime.signals import InterruptedRunError, StopSignals
from jaxcnn.train.state import TrainState

PREFIX = ".together-"
"""Prefix of the name of a group's folder. The folder is in the directory of the sweep."""

MEMBERS = "group.json"
ROWS = "metrics.jsonl"


@struct.dataclass
class GroupState:
    """The content of a checkpoint of a group.

    Attributes:
      step: number of steps made, int32 scalar.
      networks: training state of each network, `[networks, ...]`. A network that has stopped early keeps its last
        state.
      best: training state of each network at its best evaluation, `[networks, ...]`.
    """

    step: Any
    networks: TrainState
    best: TrainState


@dataclass
class Progress:
    """The progress of one network, as JSON values.

    Attributes:
      epoch_total: sums of the metrics over the steps of the current epoch so far.
      evaluation: metrics of the latest evaluation.
      best_score: best monitored metric so far, negated if smaller values are better.
      best_step: step of the best evaluation.
      epochs_since_best: number of evaluations since the best evaluation.
      last_step: step after which the network stopped early, or None if it has not stopped early.
      diverged: why the network diverged, or None if it has not diverged.
    """

    epoch_total: dict[str, Any] | None = None
    evaluation: dict[str, Any] | None = None
    best_score: float | None = None
    best_step: int | None = None
    epochs_since_best: int = 0
    last_step: int | None = None
    diverged: str | None = None

    @property
    def trains(self) -> bool:
        """Return whether the network still trains: it has neither stopped early nor diverged."""
        return self.last_step is None and self.diverged is None


class Group:
    """A group of networks that one compiled program trains.

    Args:
      networks: the networks, whose configurations differ only in seeds and hyperparameters.
      plans: object that makes the plan of each network, for one device.
      folder: directory of the sweep, which contains the run directories of the networks.
      devices: devices to shard the networks over.
      stop: object that records whether a signal asked to stop.
    """

    def __init__(
        self, networks: Sequence[Network], plans: Plans, folder: Path, devices: Sequence[Any], stop: StopSignals
    ):
        self.networks, self.stop = networks, stop
        self.plans = [plans.plan(network) for network in networks]
        self.plan = self.plans[0]
        self.programs = Programs(self.plans, plans.parts, devices)
        datasets = {id(plan.dataset) for plan in self.plans}
        self.has_one_dataset = len(datasets) == 1
        whole = self.plan.dataset if self.has_one_dataset else plans.whole(self.plan.config)
        self.batches = Batches(self.plans, whole, self.programs)
        self.folder = group_folder(folder, networks)
        self.started = time.perf_counter()

    def train(self, display: ProgressDisplay) -> list[Progress]:
        """Make the remaining steps, and write the run directory of each network.

        Returns:
          The progress of each network after its last step.

        Raises:
          InterruptedRunError: if a signal asked to stop. The states of all networks have been saved.
        """
        self.display = display
        self._create_folder()
        template = jax.tree.map(lambda x: np.zeros((len(self.networks), *x.shape), x.dtype), self.plan.template)
        with Checkpoints(self.folder / workdir.CHECKPOINTS) as self.checkpoints:
            wanted: Any = GroupState(np.int32(0), template, template)
            found: Any = self.checkpoints.restore_newest(wanted)
            if found is None:
                initial = self.programs.initial_state()
                found = GroupState(np.zeros((), np.int32), initial, to_host(initial)), {}
            state, meta = found
            self.shown, self.best = state.networks, to_host(state.best)
            self.progress = [Progress(**values) for values in meta.get("networks", [{}] * len(self.networks))]
            self.started -= meta.get("seconds", 0.0)
            self.watch = Stopwatch(meta.get("training_seconds", 0.0), meta.get("images_timed", 0))
            self._rows = Rows(self.folder / ROWS, int(state.step), len(self.networks), self.plan.epoch)
            with self._rows:
                self._make_steps(int(state.step))
            self.checkpoints.wait()
        for index in range(len(self.networks)):
            self._write_run(index)
        return self.progress

    def remove(self) -> None:
        """Remove the group's folder. Call this method after each network has its `result.json`."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _create_folder(self) -> None:
        """Create the group's folder and the run directories. If a run directory exists, check its run and its data."""
        known: dict[int, data_identity.Identity] = {}
        for plan in self.plans:
            with workdir.claim(plan.config) as folder:
                if id(plan.dataset) not in known:
                    known[id(plan.dataset)] = data_identity.identity(plan.dataset, plan.config)
                identity = known[id(plan.dataset)]
                data_identity.check(folder, identity, accept=plan.config.accept_changed_data)
                data_identity.write(folder, identity)
                if not (folder / preprocessing.PREPROCESSING).exists():
                    preprocessing.write(folder, plan.preprocessing)
        self.folder.mkdir(exist_ok=True)
        members = {network.name: to_dict(network.config) for network in self.networks}
        if not (self.folder / MEMBERS).exists():
            workdir.write_sealed(self.folder / MEMBERS, members)

    def _make_steps(self, step: int) -> None:
        plan = self.plan
        state = self.programs.place(self.shown)
        self.pending: deque[tuple[int, Any]] = deque()
        self.learning_rates = _learning_rates(self.plans)
        if step and plan.evaluates_after(step) and self._awaits_evaluation():
            self._end_epoch(step, state)  # the process was stopped before it evaluated this epoch
        compiled = set[int]()
        timed = step
        self.watch.start()
        for count, batches in self._calls(step):
            if not self._trains():
                break
            if count not in compiled:
                self._lap(state, step - timed) if compiled else self.watch.first_batch()
            program = self.programs.train_steps(gathers=self.batches.gathers)
            state, sums = program(state, batches, self.programs.values, self.batches.data)
            step += count
            self.pending.append((step, sums))
            if count not in compiled:
                self.watch.lap(state, compiling=True)
                compiled.add(count)
                timed = step
            if step // plan.config.log_every > (step - count) // plan.config.log_every:
                self._log(keep=IN_FLIGHT)
            signal = self.stop.received
            if not plan.saves_after(step) and signal is None:
                continue
            self._lap(state, step - timed)
            self._log(keep=0)
            if signal is not None:
                self._save(step, self._fetch(state, step))
                self.checkpoints.wait()
                raise InterruptedRunError(signal, step, plan.steps, self.folder)
            if plan.evaluates_after(step):
                self._end_epoch(step, state)
            else:
                self._save(step, self._fetch(state, step))
            self.watch.start()
            timed = step

    def _calls(self, first_step: int) -> Iterator[tuple[int, Any]]:
        """Yield the number of steps and their batches for each dispatch of the compiled program."""

        def counts() -> Iterator[int]:
            plan = self.plan
            return dispatches(first_step, plan.steps, plan.config.steps_per_dispatch, plan.saves_after)

        return zip(counts(), self.batches(first_step, counts()), strict=True)

    def _trains(self) -> bool:
        return any(progress.trains for progress in self.progress)

    def _awaits_evaluation(self) -> bool:
        return any(progress.trains and progress.evaluation is None for progress in self.progress)

    def _lap(self, state: Any, steps: int) -> None:
        # Count the images of one network, since each network has its own result.
        self.watch.lap(state, images=steps * self.plan.batch_size)

    def _log(self, keep: int) -> None:
        """Fetch and record the metrics of all dispatches except the last `keep`."""
        count = len(self.pending) - keep
        if count < 1:
            return
        logged: list[Row] = []
        for last, sums in jax.device_get([self.pending.popleft() for _ in range(count)]):
            made = len(sums["loss"])
            for place in range(made):
                of_step = jax.tree.map(lambda x, place=place: x[place], sums)
                logged.append(self._log_step(last - made + 1 + place, of_step))
        self._rows.write(logged)
        self.checkpoints.check()
        step = logged[-1]["step"]
        self.display.steps_done(
            step, self.plan.epoch(step), 0.0, _means([row for r in logged for row in r["networks"]])
        )

    def _log_step(self, step: int, sums: Any) -> Row:
        """Return the row of a step for `metrics.jsonl`, and add its sums `[networks, ...]` to the sums of the epoch."""
        values: list[dict[str, float] | None] = []
        for index, (progress, plan) in enumerate(zip(self.progress, self.plans, strict=True)):
            own = jax.tree.map(lambda x, index=index: x[index], sums)
            of_network = numbers(plan.summarize(own)) if progress.trains else {"loss": math.nan}
            progress.evaluation = None if progress.trains else progress.evaluation
            if progress.trains and not math.isfinite(of_network["loss"]):
                progress.diverged = f"the loss is {of_network['loss']} at step {step}"
            if not progress.trains:
                values.append(None)
                continue
            total = [] if progress.epoch_total is None else [as_arrays(progress.epoch_total)]
            progress.epoch_total = metrics.add([*total, own])
            of_network.pop("examples")
            values.append({**of_network, "learning_rate": float(self.learning_rates[index][step - 1])})
        return {"split": "train", "step": step, "epoch": round(self.plan.epoch(step), 4), "networks": values}

    def _end_epoch(self, step: int, state: Any) -> None:
        """Evaluate the networks, record and print the metrics of the epoch, and save a checkpoint."""
        split, epoch = self.plan.held_out, self.plan.epoch(step)
        host = self._fetch(state, step)
        evaluated = self._evaluate(state, split)
        rows: list[dict[str, float] | None] = []
        trained = []
        for index, (progress, plan) in enumerate(zip(self.progress, self.plans, strict=True)):
            if not progress.trains:
                rows.append(None)
                continue
            values = progress.evaluation = plan.summarize(evaluated[index])
            score = plan.score(values)
            is_better = progress.best_score is None or score > progress.best_score
            if is_better:
                progress.best_score, progress.best_step = score, step
                _copy_row(self.best, host, index)
            progress.epochs_since_best = 0 if is_better else progress.epochs_since_best + 1
            if is_out_of_patience(plan.config, progress.epochs_since_best):
                progress.last_step = step
            trained.append(numbers(plan.summarize(as_arrays(progress.epoch_total))))
            progress.epoch_total = None
            rows.append(numbers(values))
        self._rows.write([{"split": split, "step": step, "epoch": round(epoch, 4), "networks": rows}])
        rate = self.watch.rate * sum(row is not None for row in rows)
        self.display.epoch_done(epoch, _means(trained), split, _means(rows), rate)
        self._save(step, host)

    def _evaluate(self, state: Any, split: str) -> list[dict[str, Any]]:
        """Return the metric sums of each network over all examples of a split."""
        examples = self.plan.dataset.examples[split]
        batch_size = min(EVALUATION_BATCH, examples)
        per_network = split != "test" and not self.has_one_dataset
        program = self.programs.evaluate(per_network=per_network)
        if per_network:
            of_networks = [plan.pipeline.evaluation_batches(batch_size, split=split) for plan in self.plans]
            stacked = (jax.tree.map(lambda *x: np.stack(x), *batch) for batch in zip(*of_networks, strict=True))
            batches = map(self.programs.place, stacked)
        else:
            batches = self.plan.pipeline.evaluation_batches(batch_size, place=self.programs.replicate, split=split)
        fetched = jax.device_get([program(state, batch, self.programs.values) for batch in batches])
        totals = []
        for index in range(len(self.networks)):
            total = metrics.add([jax.tree.map(lambda x, index=index: x[index], sums) for sums in fetched])
            if total["examples"] != examples:
                raise AssertionError(f"evaluated {total['examples']:.0f} instead of {examples} {split} examples")
            totals.append(total)
        return totals

    def _fetch(self, state: Any, step: int) -> Any:
        """Copy the states `[networks, ...]` to host arrays. A network that has stopped keeps its last state."""
        host = jax.tree.map(lambda x: np.array(jax.device_get(x)[: len(self.networks)], copy=True), state)
        for index, progress in enumerate(self.progress):
            if not progress.trains:
                _copy_row(host, self.shown, index)
            elif (bad := integrity.non_finite_leaf(_row(host, index))) is not None:
                progress.diverged = f"{bad} has infinite or NaN values at step {step}"
        self.shown = host
        return host

    def _save(self, step: int, host: Any) -> None:
        """Write all rows of `metrics.jsonl` up to this step to the disk, then start to save a checkpoint."""
        self._rows.sync()
        meta = {
            "seconds": time.perf_counter() - self.started,
            "training_seconds": self.watch.training_seconds,
            "images_timed": self.watch.images,
            "networks": [as_lists(dataclasses.asdict(progress)) for progress in self.progress],
        }
        # `self.best` is copied: it may change while this checkpoint is still being written.
        state: Any = GroupState(np.asarray(step, np.int32), host, to_host(self.best))
        self.checkpoints.save(state, meta)

    def _write_run(self, index: int) -> None:
        """Write the metrics, and the last and the best checkpoint, to the run directory of a network."""
        plan, progress, folder = self.plans[index], self.progress[index], self.networks[index].folder
        if (folder / workdir.RESULT).exists():
            return
        with workdir.claim(plan.config):
            rows = list(rows_of_network(self.folder / ROWS, index))
            (folder / workdir.METRICS).unlink(missing_ok=True)
            with Record(folder, 0) as record:
                for row in rows:
                    record.write(row)
                record.sync()
            track(plan, folder, rows)
            if progress.diverged is not None:
                return
            shutil.rmtree(folder / workdir.CHECKPOINTS, ignore_errors=True)
            meta = {
                "seconds": time.perf_counter() - self.started,
                "training_seconds": self.watch.training_seconds,
                "images_timed": self.watch.images,
                "epoch_total": None,
                "best_accuracy": progress.best_score,
                "epochs_since_best": progress.epochs_since_best,
                "stopped_by": None,
                "kernels": kernels.in_use(),
                "pipeline": [None],
            }
            last, best = _row(self.shown, index), _row(self.best, index)
            with Checkpoints(folder / workdir.CHECKPOINTS) as checkpoints:
                if progress.best_step != int(last.step):
                    checkpoints.save(best, {**meta, "test": None}, progress.best_score)
                assert progress.evaluation is not None
                checkpoints.save(last, {**meta, "test": progress.evaluation}, plan.score(progress.evaluation))


def group_folder(folder: Path, networks: Sequence[Network]) -> Path:
    """Return the path of a group's folder, which depends only on `folder` and on the names of the group's networks."""
    names = json.dumps([network.name for network in networks])
    return folder / f"{PREFIX}{hashlib.sha256(names.encode()).hexdigest()[:8]}"


def _learning_rates(plans: Sequence[Plan]) -> list[np.ndarray]:
    """Return the learning rates of each network, one array `[steps]` per network."""
    known: dict[float, np.ndarray] = {}
    for plan in plans:
        peak = plan.config.optimizer.learning_rate
        if peak not in known:
            known[peak] = jax.device_get(jax.jit(jax.vmap(plan.schedule))(jax.device_put(np.arange(plan.steps))))
    return [known[plan.config.optimizer.learning_rate] for plan in plans]


def _row(stacked: Any, index: int) -> Any:
    """Return the arrays of one network from arrays that are stacked over networks."""
    return jax.tree.map(lambda x: x[index], stacked)


def _copy_row(target: Any, source: Any, index: int) -> None:
    """Copy the arrays of one network from `source` to `target`, two pytrees of arrays `[networks, ...]`."""
    jax.tree.map(lambda x, y: x.__setitem__(index, y[index]), target, source)


def _means(rows: Sequence[dict[str, float] | None]) -> dict[str, float]:
    """Return the mean of each metric over the networks."""
    known = [row for row in rows if row is not None]
    names = dict.fromkeys(name for row in known for name in row if name != "learning_rate")
    return {name: float(np.mean([row[name] for row in known if name in row])) for name in names}
