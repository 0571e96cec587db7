"""Runs that go on with other devices, other processes and other strategies.

    python tests/faults/campaign.py elastic --seed 0 --count 200

A trial is one run that stops up to five times, by SIGTERM or by a sudden end, and goes on with something else each
time. Devices are virtual CPU devices.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import worker as worker_module
from killing import Ended, Worker

from jaxcnn.errors import UsageError
from jaxcnn.train import Callback, Config, InterruptedRunError, OptimizerConfig, fit
from jaxcnn.train.devices import sharding
from jaxcnn.train.devices.parallel import Parallel, make_parallel
from jaxcnn.train.evaluation import evaluation
from jaxcnn.train.runtime import _pictures, plan
from live.steps import BOUNDS, comparing_steps, wrong
from live.trials import Trial, free_port, options, run_trials, write_report

TESTED = ("test_accuracy", "test_loss")
STEPS, BATCH, CHANGES, SEEDS = 26, 24, 5, 5
DEVICES = (8, 4, 2, 1, 3)
REFUSED = {5: (20, 25), 7: (21, 28)}
"""Numbers of devices that do not divide the batch, and the batch sizes that the refusal names."""

WAYS = ("pmap", "shard_map", "jit", "jit, sharded")
CONFIG = Config(
    model="smooth",
    dataset="tiny",
    batch_size=BATCH,
    steps=STEPS,
    checkpoint_every=3,
    log_every=1,
    augment=("flip",),
    progress=False,
    optimizer=OptimizerConfig("sgd", learning_rate=0.05, momentum=0.9),
)
ARGS = [
    *("train", "--model", "smooth", "--dataset", "tiny", "--batch-size", str(BATCH), "--steps", str(STEPS)),
    *("--checkpoint-every", "3", "--log-every", "1", "--augment", "flip", "--no-progress"),
    *("--optimizer.name", "sgd", "--optimizer.learning-rate", "0.05", "--optimizer.momentum", "0.9"),
]


class SuddenEnd(Exception):
    """A run ends, and saves nothing more."""


class Stop(Callback):
    """Stops a run after a step: by SIGTERM, or by an error."""

    def __init__(self, step: int, sudden: bool):
        self.step, self.sudden = step, sudden

    def on_step(self, run: Any) -> None:
        if run.step == self.step:
            if self.sudden:
                raise SuddenEnd
            os.kill(os.getpid(), signal.SIGTERM)


def main(words: list[str]) -> int:
    flags = options("elastic", words, 200, "changes")
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    with tempfile.TemporaryDirectory() as folder, Elastic.open(Path(folder)) as elastic:
        trials = run_trials(flags, elastic.trial, lambda trial: len(trial["changes"]))
        spread = elastic.spread() if trials else {}
    changes = [change for trial in trials for change in trial["changes"]]
    counts = {
        "changes": len(changes),
        "refusals": sum(trial["refusals"] for trial in trials),
        "devices": _counted(f"{change['from'][1]} -> {change['to'][1]}" for change in changes),
        "strategies": _counted(f"{change['from'][0]} -> {change['to'][0]}" for change in changes),
        "stopped": _counted(change["stopped"] for change in changes),
        "steps_compared": sum(trial["steps"] for trial in trials),
        "largest_differences": {
            part: max(trial["largest"][part] for trial in trials) for part in (trials[0]["largest"] if trials else ())
        },
        "tested": {
            name: {"range_of_seeds": spread[name], "largest_difference": max(trial["tested"][name] for trial in trials)}
            for name in spread
        },
    }
    return write_report("elastic", flags, trials, counts)


def _counted(names: Iterator[str] | Any) -> dict[str, int]:
    return dict(collections.Counter(names).most_common())


@dataclass
class Elastic:
    """Makes trials in this process, whose devices are virtual, and in the processes of two workers.

    Attributes:
      workers: started when they are needed first; `open_workers` closes them.
      seen: the steps that this process has compared since the start of a run.
      alone, batches: of runs that nobody disturbs on one device, by seed: test metrics, and a checksum of each batch.
    """

    folder: Path
    open_workers: contextlib.ExitStack
    seen: list[tuple[int, dict[str, Any]]]
    workers: list[Worker] = field(default_factory=list)
    alone: dict[int, dict[str, float]] = field(default_factory=dict)
    batches: dict[int, dict[int, int]] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path) -> "Iterator[Elastic]":
        seen: list[tuple[int, dict[str, Any]]] = []
        with (
            _small_runs(),
            comparing_steps(lambda step, found: seen.append((step, found))),
            contextlib.ExitStack() as open_workers,
        ):
            yield cls(folder, open_workers, seen)

    def trial(self, seed: int, number: int) -> Trial:
        chance = random.Random(f"elastic {seed} {number}")
        run_seed, workdir = chance.randrange(SEEDS), self.folder / "run"
        shutil.rmtree(workdir, ignore_errors=True)
        stops = sorted(chance.sample(range(1, STEPS), CHANGES))
        make = self._in_processes if number % 5 == 4 else self._on_devices
        changes, steps, failures, refusals = make(chance, workdir, run_seed, stops)
        failures += [what for step, found in steps for what in wrong(step, found)]
        trial = {
            "changes": changes,
            "refusals": refusals,
            "steps": len(steps),
            "largest": {part: max((found[part] for _, found in steps), default=0.0) for part in BOUNDS},
            "failures": failures,
        }
        if not (workdir / "result.json").exists():
            return {**trial, "tested": dict.fromkeys(TESTED, 0.0), "failures": [*failures, "the run has no result"]}
        alone, spread = self._tested(run_seed), self.spread()
        failures += [
            f"step {step}: another batch" for step, found in steps if found["batch"] != self.batches[run_seed][step]
        ]
        failures += _lost_steps(workdir)
        if {step for step, _ in steps} != {*range(1, STEPS + 1)}:
            failures.append(f"only these steps were compared: {sorted({step for step, _ in steps})}")
        result = json.loads((workdir / "result.json").read_text())
        differences = {name: abs(result[name] - alone[name]) for name in TESTED}
        failures += [
            f"{name} differs by {differences[name]:.2g}" for name in TESTED if differences[name] > spread[name]
        ]
        return {**trial, "tested": differences, "failures": failures}

    def spread(self) -> dict[str, float]:
        """Return the ranges of the results of undisturbed runs of different seeds, on one device."""
        alone = [self._tested(seed) for seed in range(SEEDS)]
        return {name: max(one[name] for one in alone) - min(one[name] for one in alone) for name in TESTED}

    def _tested(self, seed: int) -> dict[str, float]:
        if seed not in self.alone:
            with _using(1, "pmap"):
                config = dataclasses.replace(CONFIG, seed=seed, workdir=str(self.folder / f"seed{seed}"))
                self.seen.clear()
                result = fit(config)
            self.alone[seed] = {name: result.values[name] for name in TESTED}
            self.batches[seed] = {step: found["batch"] for step, found in self.seen}
            self.seen.clear()
        return self.alone[seed]

    def _on_devices(self, chance: random.Random, workdir: Path, seed: int, stops: list[int]) -> tuple[Any, ...]:
        """Make a run whose devices and strategies change in this process."""
        self.seen.clear()
        config = dataclasses.replace(CONFIG, seed=seed, workdir=str(workdir))
        changes, refusals, failures, now = [], 0, [], (chance.choice(WAYS), 8)
        for stop in stops:
            sudden = chance.random() < 0.5
            with contextlib.suppress(InterruptedRunError, SuddenEnd), _using(now[1], now[0]) as flags:
                fit(dataclasses.replace(config, **flags), callbacks=[Stop(stop, sudden)])
            after = chance.choice([(way, count) for way in WAYS for count in DEVICES if (way, count) != now])
            changes.append({"from": now, "to": after, "step": stop, "stopped": "suddenly" if sudden else "by SIGTERM"})
            now = after
            if chance.random() < 0.2:
                refusals += 1
                failures += _refuses(config, *chance.choice([*REFUSED.items()]))
        with _using(now[1], now[0]) as flags:
            fit(dataclasses.replace(config, **flags))
        return changes, [*self.seen], failures, refusals

    def _in_processes(self, chance: random.Random, workdir: Path, seed: int, stops: list[int]) -> tuple[Any, ...]:
        """Make a run that one process and two processes make in turns."""
        changes, steps, failures = [], [], []
        processes = chance.choice([1, 2])
        for stop in [*stops, None]:
            devices = chance.choice([1, 2, 4])
            now = [f"{processes} process{'es' * (processes > 1)}", processes * devices]
            if changes:
                changes[-1]["to"] = now
            when = {} if stop is None else {"at_event": chance.randrange(2, 6), "event": "training"}
            ends = self._start(workdir, seed, processes, devices, **when)
            steps += [found for end in ends for found in end.steps]
            if any(end.status not in ((0,) if stop is None else (0, 143)) for end in ends):
                return changes, steps, [*failures, *(f"status {end.status}: {end.errors.strip()}" for end in ends)], 0
            if all(end.status == 0 for end in ends):
                break
            changes.append({"from": now, "to": now, "step": stop, "stopped": "by SIGTERM"})
            processes = 3 - processes
        return changes, steps, failures, 0

    def _start(self, workdir: Path, seed: int, processes: int, devices: int, **when: Any) -> list[Ended]:
        together = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", str(processes)]
        together += ["--heartbeat", "300"]
        while len(self.workers) < processes:
            self.workers.append(self.open_workers.enter_context(Worker(self.folder / f"cache{len(self.workers)}")))

        def one(index: int) -> Ended:
            more = [*together, "--process-id", str(index)] if processes > 1 else []
            job = {"devices": devices, "compares_steps": True, "args": ARGS}
            return self.workers[index].run(
                workdir, "--seed", str(seed), *more, **job, **({"send": signal.SIGTERM, **when} if not index else {})
            )

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return [*pool.map(one, range(processes))]


@contextlib.contextmanager
def _using(count: int, way: str) -> Iterator[dict[str, Any]]:
    """Let runs in the block use this number of devices. Give the fields of their configuration."""

    def of_some(name: str, devices: Any = None, *, shard_state: bool = False) -> Parallel:
        return make_parallel(name, devices or jax.local_devices()[:count], shard_state=shard_state)

    before, plan.make_parallel = plan.make_parallel, of_some
    try:
        yield {"parallel": way.partition(",")[0], "shard_state": way.endswith("sharded")}
    finally:
        plan.make_parallel = before


def _refuses(config: Config, count: int, sizes: tuple[int, int]) -> list[str]:
    """Return what is wrong with the refusal to go on with a number of devices that does not divide the batch."""
    expected = f"batch_size {BATCH} cannot be divided over {count} devices; use {sizes[0]} or {sizes[1]}"
    try:
        with _using(count, "pmap"):
            fit(config)
    except UsageError as error:
        return [] if str(error) == expected else [f"refused by: {error}"]
    return [f"{count} devices were not refused"]


def _lost_steps(workdir: Path) -> list[str]:
    """Return a failure if `metrics.jsonl` does not have each step and each evaluation once, in order."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = {split: [row["step"] for row in rows if row["split"] == split] for split in ("train", "test")}
    found = [] if steps["train"] == [*range(1, STEPS + 1)] else [f"steps in metrics.jsonl: {steps['train']}"]
    tested = [step for step in range(1, STEPS + 1) if step == STEPS or step * BATCH // 100 > (step - 1) * BATCH // 100]
    return found if steps["test"] == tested else [*found, f"evaluations in metrics.jsonl: {steps['test']}"]


@contextlib.contextmanager
def _small_runs() -> Iterator[None]:
    """Make the small model and data known, divide small arrays too, draw nothing, and share programs between runs."""
    programs: dict[Any, Any] = {}
    owners = ((plan, "open_dataset"), (evaluation, "open_dataset"), (_pictures, "draw_curves"), (plan.Plan, "_program"))
    before = [(owner, name, getattr(owner, name)) for owner, name in owners]
    divided = sharding.SMALLEST_DIVIDED

    def shared(self: plan.Plan, name: Any, make: Any) -> Any:
        if (self.parallel, name) not in programs:
            programs[self.parallel, name] = make()
        return programs[self.parallel, name]

    worker_module.install()
    sharding.SMALLEST_DIVIDED = 64
    plan.Plan._program = shared
    _pictures.draw_curves = lambda rows, title, path, **_: path.write_bytes(worker_module.png(EMPTY))
    try:
        yield
    finally:
        sharding.SMALLEST_DIVIDED = divided
        for owner, name, function in before:
            setattr(owner, name, function)


EMPTY = worker_module.np.zeros((8, 8), worker_module.np.uint8)
