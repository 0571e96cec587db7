"""Single flipped bits in the memory and in the computations of a training run, and what comes of them.

The library has no code for this. A trial replaces the compiled steps of a plan by ones that flip one bit: of an array
that goes into a step, on one device, or of a value within the step, chosen by an argument of the program.
"""

import contextlib
import dataclasses
import io
import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import worker
from flax import linen as nn
from PIL import Image

from jaxcnn import layers
from jaxcnn.errors import RunError
from jaxcnn.train import Config, OptimizerConfig, Verification, device_index
from jaxcnn.train import step as step_module
from jaxcnn.train.api import train_plan
from jaxcnn.train.devices import distributed
from jaxcnn.train.devices.sharding import whole
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime import _pictures
from jaxcnn.train.runtime.plan import Plan, make_plan
from jaxcnn.train.runtime.record import read_rows
from jaxcnn.train.runtime.verification.replay import Replayer

STEPS, EVERY = 12, 4
"""Steps of a run, and steps between verifications."""

IN_MEMORY = {
    "parameter": "params",
    "optimizer slot": "opt_state",
    "batch statistic": "batch_stats",
    "moving average": "ema",
    "random key": "key",
}
"""Kinds of faults in the state before a step, with the field of the state."""

KINDS = (*IN_MEMORY, "batch", "gradient", "collective")
WITHIN_STEP = ("gradient", "collective")
"""Kinds of faults within a step: the gradient of one device, and the mean over all devices as one device gets it."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a run is distributed, and its precision."""

    parallel: Any
    devices: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.parallel} x {self.devices} {self.dtype}"


SETTINGS = (
    Setting("pmap", 1, "float32"),
    Setting("pmap", 1, "bfloat16"),
    Setting("pmap", 4, "float32"),
    Setting("shard_map", 2, "bfloat16"),
    Setting("jit", 2, "float32"),
)


class Small(nn.Module):
    """Everything that a state can hold: parameters, statistics, and randomness in training."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = layers.Conv(4, (3, 3), strides=(2, 2), dtype=self.dtype)(x)
        x = nn.relu(layers.BatchNorm(dtype=self.dtype)(x, train=train)).reshape(len(x), -1)
        x = nn.relu(layers.Dense(16, dtype=self.dtype)(x))
        return layers.Dense(4)(layers.Dropout(0.2)(x, train=train).astype(jnp.float32))


MODES = ("interval", "last")
"""What is made again in a verification."""

LAST_IN = 4
"""One in this number of trials has the mode "last"."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """One flipped bit.

    Attributes:
      kind: one of `KINDS`.
      step: steps made before the step in which it comes.
      device: position of the device.
      leaf: name of the array, and its position in the tree.
      place: position of the value in the (part of the) array on the device.
      bit: position of the bit in the value.
    """

    kind: str
    step: int
    device: int
    leaf: str
    leaf_index: int
    place: int
    bit: int


class Injector:
    """Replaces the compiled steps of plans by ones that make a fault, once."""

    def __init__(self):
        self.fault: Fault | None = None
        self.replays = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Let all plans have faulty steps."""
        again, injector = Replayer.again, self

        def replayed(*args: Any, **kwargs: Any) -> Any:
            injector.replays = True
            try:
                return again(*args, **kwargs)
            finally:
                injector.replays = False

        compiled = mock.patch.object(Plan, "compile_train_steps", lambda *args: injector.compile(*args))
        with compiled, mock.patch.object(Replayer, "again", replayed):
            yield

    def compile(self, plan: Plan, count: int, parallel: Any = None) -> Any:
        """Return the compiled steps of a plan, as `Plan.compile_train_steps` does."""
        where = parallel or plan.parallel
        make = lambda: where.compile(_faulty_step(plan), donate_state=True, several=True)  # noqa: E731
        program = plan._program(("faulty", count, parallel), make)

        def call(state: Any, batches: Any) -> Any:
            fault, aim = self.fault, np.full(5, 2**32 - 1, np.uint32)
            if fault is not None and not self.replays and int(state.step) == fault.step:
                self.fault = None
                if fault.kind in WITHIN_STEP:
                    kind = WITHIN_STEP.index(fault.kind)
                    aim = np.array([kind, fault.device, fault.leaf_index, fault.place, fault.bit], np.uint32)
                elif fault.kind == "batch":
                    batches = _with_flip(batches, fault)
                else:
                    field = IN_MEMORY[fault.kind]
                    state = dataclasses.replace(state, **{field: _with_flip(getattr(state, field), fault)})
            placed = jnp.array(jax.device_put(aim, whole(where.mesh)), copy=True)
            (state, _), sums = program((state, placed), batches)
            return state, sums

        return call


def _with_flip(tree: Any, fault: Fault) -> Any:
    """Return a tree of arrays with a flipped bit in the memory of one device."""
    leaves, treedef = jax.tree.flatten(tree)
    array = leaves[fault.leaf_index]
    order = {shard.device: shard.data for shard in array.addressable_shards}
    device = array.sharding.mesh.devices.flat[fault.device]
    if device in order:  # it is of this process
        part = np.array(order[device])
        bits = part.reshape(-1).view(_unsigned(part.dtype))
        bits[fault.place] ^= bits.dtype.type(1 << fault.bit)
        order[device] = jnp.array(jax.device_put(part, device), copy=True)
    parts = [order[device] for device in array.sharding.mesh.devices.flat if device in order]
    leaves[fault.leaf_index] = jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)
    return treedef.unflatten(leaves)


def _unsigned(dtype: Any) -> Any:
    return np.dtype(f"uint{8 * np.dtype(dtype).itemsize}")


def _faulty_step(plan: Plan) -> Any:
    """Return the step of a plan on a state and an aim: `[kind, device, leaf, place, bit]` of a bit to flip."""

    def step(pair: Any, batch: Any) -> Any:
        state, aim = pair
        reduce = step_module.reduce_over_devices

        def gradient(*args: Any) -> Any:
            gradients, aux = plan.gradient(*args)
            return _flipped(gradients, aim, "gradient"), aux

        def reduced(means: Any, sums: Any) -> Any:
            means, sums = reduce(means, sums)
            return _flipped(means, aim, "collective"), sums

        with mock.patch.object(step_module, "reduce_over_devices", reduced):
            faulty = dataclasses.replace(plan, gradient=gradient).train_step(norms=plan.verifies_norms)
            state, sums = faulty(state, batch)
        return (state, aim), sums

    return step


def _flipped(tree: Any, aim: jax.Array, kind: str) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    hit = (aim[0] == WITHIN_STEP.index(kind)) & (aim[1] == jnp.uint32(device_index()))
    for index, leaf in enumerate(leaves):
        bits = jax.lax.bitcast_convert_type(leaf, _unsigned(leaf.dtype))
        places = jax.lax.iota(jnp.uint32, leaf.size).reshape(leaf.shape)
        here = hit & (aim[2] == index) & (places == aim[3])
        mask = jnp.where(here, bits.dtype.type(1) << aim[4].astype(bits.dtype), bits.dtype.type(0))
        leaves[index] = jax.lax.bitcast_convert_type(bits ^ mask, leaf.dtype)
    return treedef.unflatten(leaves)


@dataclasses.dataclass
class Trial:
    """One run with one flipped bit.

    Attributes:
      seed, number: of the trial.
      setting, mode: of the run.
      fault: what was flipped.
      outcome: "undone" (found, and the end is that of the undisturbed run), "harmless" (not found, and the end is that
        of the undisturbed run), or "missed".
      found: the rows of `metrics.jsonl` on it.
      delay: steps from the end of the step with the fault to the verification that has found it.
      failures: what must not happen.
      seconds: of the run.
    """

    seed: int
    number: int
    setting: str
    mode: str
    fault: dict[str, Any]
    outcome: str = ""
    found: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    delay: int | None = None
    failures: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


@dataclasses.dataclass
class Runs:
    """Plans of all settings, which compile their programs once, and the ends of their undisturbed runs."""

    folder: Path
    injector: Injector = dataclasses.field(default_factory=Injector)
    plans: dict[Any, Plan] = dataclasses.field(default_factory=dict)
    ends: dict[Any, Any] = dataclasses.field(default_factory=dict)

    def prepare(self, setting: Setting, mode: str) -> None:
        """Make a plan, and note the end of its undisturbed run."""
        if (setting, mode) in self.plans:
            return
        other = self.plans.get((setting, MODES[1 - MODES.index(mode)]))
        model = CustomParts(Small(jnp.dtype(setting.dtype)))
        plan = make_plan(
            _config(setting, mode), model, data=worker.TinyData(), devices=jax.devices()[: setting.devices]
        )
        # The programs do not depend on the mode.
        self.plans[setting, mode] = dataclasses.replace(plan, programs={} if other is None else other.programs)
        self.ends[setting, mode] = self.end(setting, mode)[:2]

    def end(self, setting: Setting, mode: str) -> tuple[str, list[Any], list[Any]]:
        """Return the state that a run ends in, as a hash, its rows, and those of them on corruption."""
        plan, folder = self.plans[setting, mode], self.folder / "run"
        distributed.on_first(lambda: shutil.rmtree(folder, ignore_errors=True))
        run = dataclasses.replace(plan, config=dataclasses.replace(plan.config, workdir=str(folder)))
        result = train_plan(run)
        rows = distributed.on_first(lambda: read_rows(folder))
        of_steps = [row for row in rows if row["split"] != "verify"]
        return worker.fingerprint(result.state), of_steps, [row for row in rows if row["split"] == "verify"]


@contextlib.contextmanager
def open_runs(folder: Path) -> Iterator[Runs]:
    """Give runs with faults. Let them use one picture, and share the programs of a setting."""
    picture = io.BytesIO()
    Image.new("L", (8, 8)).save(picture, "PNG")
    runs = Runs(folder)
    drawn = mock.patch.object(
        _pictures, "draw_curves", lambda rows, title, path, **_: path.write_bytes(picture.getvalue())
    )
    with drawn, runs.injector.installed():
        yield runs


def _config(setting: Setting, mode: Any) -> Config:
    options = {"batch_size": 16, "steps": STEPS, "evaluate_every": STEPS, "log_every": 3, "progress": False}
    parts = {"augment": ("flip",), "optimizer": OptimizerConfig("adam", 0.01)}
    return Config(
        **parts,
        **options,
        parallel=setting.parallel,
        ema_decay=0.9,
        verify_every=EVERY,
        verify=Verification(replay=mode),
    )


def draw_fault(plan: Plan, setting: Setting, chance: random.Random) -> Fault:
    """Return a fault: of each kind equally often, then of each array, value and bit."""
    kinds = [kind for kind in KINDS if kind != "collective" or (setting.parallel != "jit" and setting.devices > 1)]
    kind, step, device = chance.choice(kinds), chance.randrange(STEPS), chance.randrange(setting.devices)
    if kind == "batch":
        rows = plan.batch_size // setting.devices
        tree: Any = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), plan.example)
    elif kind == "gradient":
        tree = plan.template.params
        device = 0 if setting.parallel == "jit" else device  # one gradient for all devices
    elif kind == "collective":
        tree = (plan.template.params, plan.template.batch_stats)
    else:
        tree = getattr(plan.template, IN_MEMORY[kind])
    leaves = [(jax.tree_util.keystr(path), x) for path, x in jax.tree_util.tree_leaves_with_path(tree)]
    index = chance.randrange(len(leaves))
    name, leaf = leaves[index]
    bit = chance.randrange(8 * np.dtype(leaf.dtype).itemsize)
    return Fault(kind, step, device, name, index, chance.randrange(max(1, leaf.size)), bit)


def run_trial(runs: Runs, seed: int, number: int) -> Trial:
    """Make a run with one flipped bit, and compare its end with that of the undisturbed run."""
    chance = random.Random(f"{seed} {number}")
    setting, mode = SETTINGS[number % len(SETTINGS)], MODES[number // len(SETTINGS) % LAST_IN == LAST_IN - 1]
    runs.prepare(setting, mode)
    plan = runs.plans[setting, mode]
    fault = draw_fault(plan, setting, chance)
    trial = Trial(seed, number, str(setting), mode, dataclasses.asdict(fault))
    inject(runs, trial, fault, setting, mode)
    return trial


def inject(runs: Runs, trial: Trial, fault: Fault, setting: Setting, mode: str) -> None:
    """Make a run with a fault, and note in the trial what came of it."""
    plan = runs.plans[setting, mode]
    started, runs.injector.fault = time.perf_counter(), fault
    expected, rows_expected = runs.ends[setting, mode]
    try:
        end, rows, trial.found = runs.end(setting, mode)
    except RunError as error:
        end, rows = str(error), []
    if runs.injector.fault is not None:
        trial.failures.append("the fault was not made")
    runs.injector.fault = None
    trial.seconds = round(time.perf_counter() - started, 2)
    is_equal = end == expected
    trial.outcome = ("undone" if trial.found else "harmless") if is_equal else "missed"
    if trial.found:
        trial.delay = trial.found[0]["found_at"] - fault.step - 1
    judge(trial, is_equal and json.dumps(rows) != json.dumps(rows_expected), plan)


def judge(trial: Trial, other_rows: bool, plan: Plan) -> None:
    """Note what must not happen: a miss though all steps were made again, a wrong device, a lost or repeated row."""
    if trial.mode == "interval" and trial.outcome == "missed":
        trial.failures.append("all steps were made again, and the state is another one")
    if trial.found and trial.outcome == "missed":
        trial.failures.append("found, but not undone")
    if other_rows:
        trial.failures.append("other rows of metrics")
    right = str(plan.parallel.devices[trial.fault["device"]])
    for row in trial.found:
        if row["device"] not in (None, right):
            trial.failures.append(f"{row['device']} was named, not {right}")
