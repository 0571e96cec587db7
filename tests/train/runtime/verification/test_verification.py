"""Verified runs: corruption is found, named and undone, and verification changes no bit of a run."""

import dataclasses
import itertools
import json
import logging
import signal

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxcnn import layers
from jaxcnn.data import from_arrays, from_batches
from jaxcnn.errors import UsageError
from jaxcnn.train import (
    Config,
    CorruptDeviceError,
    DivergedError,
    InterruptedRunError,
    OptimizerConfig,
    Verification,
    fit,
)
from jaxcnn.train.api import train_plan
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime import integrity
from jaxcnn.train.runtime.loop import Loop
from jaxcnn.train.runtime.plan import Plan, make_plan
from jaxcnn.train.runtime.record import read_lines, read_rows
from jaxcnn.train.runtime.verification.bounds import FEWEST, Bounds
from jaxcnn.train.runtime.verification.replay import Replayer

STEPS = 8


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


class Net(nn.Module):
    """Parameters and statistics; small."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = layers.BatchNorm()(layers.Conv(4, (3, 3))(x), train=train)
        return layers.Dense(3)(layers.Dropout(0.2)(nn.relu(x).mean((1, 2)), train=train))


def arrays(count):
    random = np.random.default_rng(count)
    labels = random.integers(0, 3, count)
    return (random.normal(size=(count, 6, 6, 1)) + labels[:, None, None, None]).astype(np.float32), labels


DATA = from_arrays(train=arrays(48), test=arrays(12), class_names=("a", "b", "c"))


def plan_of(data=DATA, devices=2, **options):
    options = {"steps": STEPS, "batch_size": 8, "evaluate_every": STEPS, "log_every": 3, "progress": False} | options
    return make_plan(Config(augment=(), **options), CustomParts(Net()), data=data, devices=jax.devices()[:devices])


def run(plan, folder):
    config = dataclasses.replace(plan.config, workdir=str(folder))
    result = train_plan(dataclasses.replace(plan, config=config))
    rows = read_rows(folder)
    found = [row for row in rows if row["split"] == "verify"]
    return integrity.sha256(jax.device_get(result.state)), [row for row in rows if row not in found], found


def flip(array, device, bit):
    """Return an array with a flipped bit in the copy of one device."""
    held = {shard.device: np.array(shard.data) for shard in array.addressable_shards}
    held[device].reshape(-1).view(np.uint32)[0] ^= np.uint32(1 << bit)
    parts = [jax.device_put(held[device], device) for device in array.sharding.mesh.devices.flat]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)


@pytest.fixture
def corrupt(monkeypatch):
    """A function that lets steps, given by the number of steps before them, begin with a flipped bit on a device."""
    compiled, again, is_replay = Plan.compile_train_steps, Replayer.again, []

    def replayed(*args, **kwargs):
        is_replay.append(True)
        try:
            return again(*args, **kwargs)
        finally:
            is_replay.pop()

    def set_up(plan, *steps, device=1, once=True, bit=20):
        left = list(steps)

        def compile_(self, count, parallel=None):
            program = compiled(self, count, parallel)

            def call(state, batches):
                step = int(state.step)
                if not is_replay and step in left:
                    if once:
                        left.remove(step)
                    kernel = flip(state.params["Dense_0"]["kernel"], plan.parallel.devices[device], bit)
                    params = {**state.params, "Dense_0": {**state.params["Dense_0"], "kernel": kernel}}
                    state = dataclasses.replace(state, params=params)
                return program(state, batches)

            return call

        monkeypatch.setattr(Plan, "compile_train_steps", compile_)
        monkeypatch.setattr(Replayer, "again", replayed)
        return plan

    return set_up


def text_of(plan):
    steps = plan.compile_train_steps(1)
    batches = plan.parallel.place_batches([jax.tree.map(lambda x: np.zeros((8, *x.shape[1:]), x.dtype), plan.example)])
    return steps.lower(plan.parallel.place_state(plan.initial_state()), batches).as_text()


def test_the_program_is_the_same_text_unless_norms_are_bounded():
    off = text_of(plan_of())
    assert text_of(plan_of(verify_every=2)) == off
    bounded = text_of(plan_of(verify_every=2, verify=Verification(bounds=5.0)))
    assert bounded != off
    assert text_of(plan_of(verify=Verification(bounds=5.0))) == off


@pytest.mark.parametrize(
    ("devices", "options"),
    [
        (1, {"verify": Verification(replay="last", bounds=50.0)}),
        slow(2, {"verify": Verification(replay="interval"), "steps_per_dispatch": 2}),
        slow(2, {"verify": Verification(replicas=True, replay="off"), "parallel": "shard_map"}),
        slow(2, {"verify": Verification(), "parallel": "jit", "shard_state": True, "checkpoint_every": 5}),
    ],
)
def test_verification_changes_no_bit(tmp_path, devices, options):
    plain = {name: value for name, value in options.items() if name != "verify"}
    expected = run(plan_of(devices=devices, **plain), tmp_path / "plain")
    found = run(plan_of(devices=devices, verify_every=3, **options), tmp_path / "verified")
    assert found == expected
    assert len(found[1]) == STEPS + 1


@pytest.mark.parametrize(
    ("mode", "devices", "steps"),
    [slow("last", 2, (1,)), ("off", 4, (4,)), slow("interval", 4, (0, 7)), ("interval", 1, (2,))],
)
def test_a_flipped_bit_is_found_named_and_undone(tmp_path, corrupt, caplog, mode, devices, steps):
    # Rows of verified steps are not written yet when a later step is found to be wrong.
    options = {"devices": devices, "verify_every": 3, "log_every": 20, "verify": Verification(replay=mode)}
    expected = run(plan_of(**options), tmp_path / "expected")
    plan = plan_of(**options)
    end, rows, found = run(corrupt(plan, *steps, device=devices - 1), tmp_path / "corrupt")
    assert (end, rows) == expected[:2]
    # Of two copies that differ, nobody knows the right one.
    device = None if devices == 2 else str(plan.parallel.devices[devices - 1])
    assert [row["device"] for row in found] == [device] * len(steps)
    assert devices == 1 or all(row["leaf"].endswith("Dense_0/kernel") for row in found)  # or its momentum
    assert [(row["step"], row["found_at"]) for row in found] == [
        (step // 3 * 3, min(STEPS, step // 3 * 3 + 3)) for step in steps
    ]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum(f"silent data corruption on {device or 'an unknown device'}" in line for line in said) == len(steps)


@pytest.mark.slow
def test_nothing_is_found_without_a_check_that_sees_it(tmp_path, corrupt):
    options = {"devices": 1, "verify_every": 4, "verify": Verification(replay="last")}
    expected = run(plan_of(**options), tmp_path / "expected")
    end, _, found = run(corrupt(plan_of(**options), 1, device=0), tmp_path / "corrupt")
    assert not found
    assert end != expected[0]  # step 4 was made again, and step 2 was wrong


@pytest.mark.parametrize("is_local", [True, slow(False)])
def test_a_device_that_is_wrong_three_times_ends_the_run(tmp_path, corrupt, monkeypatch, is_local):
    options = {"devices": 4, "verify_every": 3, "checkpoint_every": 3, "verify": Verification(replay="interval")}
    plan = corrupt(plan_of(**options), 4, once=False)
    mine = [device for device in jax.local_devices() if is_local or device != plan.parallel.devices[1]]
    monkeypatch.setattr(jax, "local_devices", lambda: mine)  # used when the run ends
    with pytest.raises(CorruptDeviceError, match=r"wrong values 3 times, most recently of .*kernel") as error:
        run(plan, tmp_path)
    assert str(plan.parallel.devices[1]) in str(error.value)
    assert (error.value.exit_status, error.value.elsewhere) == (71, not is_local)
    rows = read_rows(tmp_path)
    assert [row["step"] for row in rows if row["split"] == "verify"] == [3, 3, 3]
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()] == ["3"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_undone_unless_it_comes_again(tmp_path, corrupt):
    options = {"devices": 1, "verify_every": 4}
    expected = run(plan_of(**options), tmp_path / "expected")
    end, rows, found = run(corrupt(plan_of(**options), 1, device=0, bit=30), tmp_path / "corrupt")
    assert (end, rows) == expected[:2]
    assert [row["check"] for row in found] == ["bounds"]
    diverging = plan_of(**options, optimizer=OptimizerConfig("sgd", learning_rate=1e30))
    with pytest.raises(DivergedError):
        run(diverging, tmp_path / "diverged")
    assert not [row for row in read_rows(tmp_path / "diverged") if row["split"] == "verify"]


@pytest.mark.slow
def test_a_signal_stops_after_a_verified_step(tmp_path, corrupt, monkeypatch):
    plan = corrupt(plan_of(devices=1, verify_every=7), 3, device=0)

    def asked(self, logs):
        return signal.SIGTERM if self.latest[0] >= 3 else None

    monkeypatch.setattr(Loop, "_asked_to_stop", asked)
    with pytest.raises(InterruptedRunError, match="step"):
        run(plan, tmp_path)
    # Step 4, made after the signal, was wrong. The run went back to its start, and made a step and a verified one.
    assert [row["found_at"] for row in read_rows(tmp_path) if row["split"] == "verify"] == [4]
    assert [row["step"] for row in read_rows(tmp_path) if row["split"] == "train"] == [1, 2]
    monkeypatch.undo()
    assert run(plan_of(devices=1), tmp_path)[0] == run(plan_of(devices=1), tmp_path / "expected")[0]


@pytest.mark.slow
def test_a_run_of_an_iterator_goes_back(tmp_path, corrupt):
    images, labels = arrays(48)

    def batches(epoch):
        for rows in np.random.default_rng(epoch).permutation(48).reshape(6, 8):
            yield {"image": images[rows], "label": labels[rows]}

    data = from_batches(batches, batches, examples=48, class_names=("a", "b", "c"))
    options = {"data": data, "devices": 2, "verify_every": 3}
    expected = run(plan_of(**options), tmp_path / "expected")
    end, rows, found = run(corrupt(plan_of(**options), 5), tmp_path / "corrupt")
    assert (end, rows) == expected[:2]
    assert len(found) == 1
    with pytest.raises(UsageError, match="random access"):
        run(plan_of(**options, verify=Verification(replay="interval")), tmp_path / "interval")


@pytest.mark.slow
def test_a_callback_that_stops_between_verifications_has_its_state_verified(tmp_path, corrupt):
    class Stop:
        def on_step(self, run):
            return run.step == 5

    # No check but the replay sees it, and step 5 is no verification.
    options = {"steps": STEPS, "batch_size": 8, "augment": (), "progress": False, "verify_every": 4}
    corrupt(plan_of(devices=8), 4)
    config = Config(workdir=str(tmp_path), **options, verify=Verification(replicas=False))
    result = fit(config, data=DATA, model=Net(), callbacks=[Stop()])
    assert int(result.state.step) == 5
    assert [row["found_at"] for row in read_rows(tmp_path) if row["split"] == "verify"] == [5]


@pytest.mark.slow
def test_a_platform_that_is_not_deterministic_gets_a_bound(tmp_path, monkeypatch, corrupt, caplog):
    compiled, noise = Plan.compile_train_steps, itertools.count(1)

    def noisy(self, *args):
        program = compiled(self, *args)

        def call(state, batches):
            state, sums = program(state, batches)
            scale = 1 + 1e-6 * (next(noise) % 7)
            return dataclasses.replace(state, params=jax.tree.map(lambda x: x * scale, state.params)), sums

        return call

    monkeypatch.setattr(Plan, "compile_train_steps", noisy)
    _, rows, found = run(plan_of(verify_every=3, devices=1), tmp_path / "noisy")
    assert not found
    assert len(rows) == STEPS + 1
    assert "repeated steps are not bitwise equal on this platform" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(Plan, "compile_train_steps", noisy)
    assert run(corrupt(plan_of(verify_every=3, devices=1), 2, device=0), tmp_path / "corrupt")[2]


def test_bounds_compare_with_the_running_median():
    bounds = Bounds(5.0)
    sums = {"loss": np.array([2.0]), "examples": np.array([2.0]), "gradient_norm": np.array([0.5])}
    for _ in range(FEWEST):
        assert "gradient_norm" not in bounds.watch(sums)
    assert bounds.exceeded() is None
    bounds.accept()
    bounds.watch({**sums, "gradient_norm": np.array([2.6])})
    assert bounds.exceeded() == "gradient_norm"
    bounds.forget()
    bounds.watch({**sums, "gradient_norm": np.array([2.4])})
    assert bounds.exceeded() is None
    bounds.watch({**sums, "loss": np.array([np.nan])})
    assert bounds.exceeded() == "loss"
    assert Bounds(0.0).exceeded() is None


def test_rows_on_corruption_are_read_and_others_are_damaged(tmp_path):
    row = {"split": "verify", "step": 0, "found_at": 3, "time": 1.5, "check": "replay", "device": None, "leaf": "a"}
    other = {**row, "time": 2.5}
    lines = [row, other, row, {**row, "found_at": "3"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_lines(tmp_path)
    assert read.rows == [row, other]
    assert read.damaged == [3, 4]


def test_a_verification_without_a_check_is_refused(tmp_path):
    config = Config(verify_every=3, verify=Verification(replicas=False, replay="off"), workdir=str(tmp_path))
    with pytest.raises(UsageError, match="verify_every is 3, but all checks are turned off"):
        fit(config)
