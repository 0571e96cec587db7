"""`fit_many`: each network is a run of its own, however it is trained, stopped and resumed."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_network import Tiny

from jaxcnn.errors import UsageError
from jaxcnn.train import Config, InterruptedRunError, OptimizerConfig, evaluate, fit, fit_many, load_run
from jaxcnn.train.callbacks import Callback
from jaxcnn.train.many import sweep, together
from jaxcnn.train.many.groups import Network
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime.checkpoint import Checkpoints

STEPS = 6
QUIET = Config(batch_size=64, steps=STEPS, evaluate_every=2, progress=False, augment=("flip",))
MODEL = Tiny(dropout=0.0)  # on several devices, dropout differs from that of one


def configs(*rates):
    return [dataclasses.replace(QUIET, optimizer=OptimizerConfig(learning_rate=rate)) for rate in rates]


def train(folder, chosen=None, **more):
    more = {"seeds": range(2), "together": "together", "model": MODEL, **more}
    return fit_many(configs(0.05, 0.1) if chosen is None else chosen, workdir=folder, **more)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The results of an undisturbed training of four networks in one program."""
    return train(tmp_path_factory.mktemp("straight") / "sweep")


def left_by(results):
    """Return what each network has left, without times."""
    left = {}
    for run in results.runs:
        saved = load_run(run.workdir, model=MODEL)
        rows = (run.workdir / "metrics.jsonl").read_text()
        left[run.name] = (run.values["state_sha256"], run.values["metrics"], rows, saved.step)
    return left


def parameters(run):
    return jax.tree.leaves(load_run(run.workdir, model=MODEL).variables["params"])


def assert_close(results, others, tolerance):
    """Compare the parameters, relative to the largest one of each network."""
    for one, other in zip(results.runs, others.runs, strict=True):
        assert one.name == other.name
        pairs = list(zip(parameters(one), parameters(other), strict=True))
        largest = max(np.abs(x).max() for x, _ in pairs)
        assert max(np.abs(x - y).max() for x, y in pairs) < tolerance * largest


def test_each_network_has_a_complete_run_directory(straight):
    names = [run.name for run in straight.runs]
    assert names == [f"seed={s},optimizer.learning_rate={r}" for r in (0.05, 0.1) for s in (0, 1)]
    for run in straight.runs:
        files = {path.name for path in run.workdir.iterdir()}
        assert {"config.json", "metrics.jsonl", "result.json", "curves.png", "checkpoints", "data.json"} <= files
        events = b"".join(path.read_bytes() for path in run.workdir.glob("events.out*"))
        assert events.count(b"train/loss") == STEPS
        assert events.count(b"test/accuracy") == STEPS // 2
        rows = [json.loads(line) for line in (run.workdir / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3, 4, 5, 6]
        assert [row["step"] for row in rows if row["split"] == "test"] == [2, 4, 6]
        values = evaluate(run.workdir, model=MODEL)
        assert values["test_accuracy"] == run.test_accuracy
        best = max((row for row in rows if row["split"] == "test"), key=lambda row: (row["accuracy"], row["step"]))
        found = evaluate(run.workdir, checkpoint="best", model=MODEL)
        assert found["test_accuracy"] == best["accuracy"]
        assert fit(run.config, model=MODEL).values == run.values  # it is finished
    written = json.loads((straight.workdir / "sweep.json").read_text())
    assert written["finished"]
    assert (straight.workdir / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not list(straight.workdir.glob(f"{together.PREFIX}*"))


def test_ways_agree(straight, tmp_path):
    in_turns = train(tmp_path / "turns", together="turns")
    assert_close(straight, in_turns, 1e-4)
    for one, other in zip(straight.runs, in_turns.runs, strict=True):
        assert {*one.values} == {*other.values}


@pytest.mark.slow
def test_processes_agree(straight, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[3])]))
    assert_close(straight, train(tmp_path / "processes", together="processes"), 1e-4)
    again = train(tmp_path / "processes", together="turns")  # everything is finished
    assert_close(straight, again, 1e-4)


class Kill(BaseException):
    """Ends the training as a kill would."""


def kill_at(monkeypatch, owner, name, call):
    calls, function = [0], getattr(owner, name)

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            raise Kill
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        pytest.param(together.Group, "_log", 1, marks=pytest.mark.slow),
        (together.Group, "_end_epoch", 2),
        pytest.param(Checkpoints, "save", 3, marks=pytest.mark.slow),  # of the last step
        pytest.param(Checkpoints, "save", 6, marks=pytest.mark.slow),  # of a network
        pytest.param(together.Group, "_write_run", 3, marks=pytest.mark.slow),
        pytest.param(together.Group, "remove", 1, marks=pytest.mark.slow),
    ],
)
def test_together_ends_at_the_same_bits_after_a_kill(straight, tmp_path, monkeypatch, owner, name, call):
    with monkeypatch.context() as patch:
        kill_at(patch, owner, name, call)
        with pytest.raises(Kill):
            train(tmp_path / "sweep")
    results = train(tmp_path / "sweep")
    assert left_by(results) == left_by(straight)
    assert not list(results.workdir.glob(f"{together.PREFIX}*"))


def test_changed_data_is_refused_when_a_group_resumes(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, together.Group, "_end_epoch", 2)
        with pytest.raises(Kill):
            train(tmp_path / "sweep")
    other = {"parts": {"train": {"images": 1, "sizes": "", "contents": None}}, "classes": []}
    monkeypatch.setattr(together.data_identity, "identity", lambda dataset, config: other)
    with pytest.raises(UsageError, match=r"the data of the run in .* has changed"):
        train(tmp_path / "sweep")


def test_together_stops_by_a_signal_and_resumes_within_an_epoch(straight, tmp_path, monkeypatch):
    def interrupt(self, keep):
        os.kill(os.getpid(), signal.SIGTERM)
        return log(self, keep)

    with monkeypatch.context() as patch:
        log = together.Group._log
        patch.setattr(together.Group, "_log", interrupt)
        with pytest.raises(InterruptedRunError, match="0 of 4 networks finished") as caught:
            train(tmp_path / "sweep", [dataclasses.replace(c, log_every=1) for c in configs(0.05, 0.1)])
    assert caught.value.exit_status == 143
    (group,) = (tmp_path / "sweep").glob(f"{together.PREFIX}*")
    assert [path.name for path in (group / "checkpoints").iterdir()] == ["1"]
    assert left_by(train(tmp_path / "sweep")) == left_by(straight)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["together", "turns"])
def test_a_killed_process_resumes(tmp_path, how):
    program = (
        "from jaxcnn.train import fit_many; import test_fit_many as t;"
        f"t.train({str(tmp_path / 'sweep')!r}, together={how!r})"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[3])])
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path})
    while not list((tmp_path / "sweep").glob("**/checkpoints/[0-9]*")):
        time.sleep(0.01)
        assert process.poll() is None
    process.kill()
    process.wait()
    found = train(tmp_path / "sweep", together=how)
    assert left_by(found) == left_by(train(tmp_path / "straight", together=how))


class KillAt(Callback):
    def __init__(self, step):
        self.step, self.starts = step, 0

    def on_start(self, run):
        self.starts += 1

    def on_step(self, run):
        if run.step == self.step and self.starts == 2:
            raise Kill


def test_turns_skip_finished_networks_and_resume_the_unfinished_one(tmp_path):
    with pytest.raises(Kill):
        train(tmp_path / "sweep", together="turns", callbacks=[KillAt(5)])
    written = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert not written["finished"]
    assert [bool(run["metrics"]) for run in written["runs"]] == [True, False, False, False]
    counting = KillAt(None)
    results = train(tmp_path / "sweep", together="turns", callbacks=[counting])
    assert counting.starts == 3
    assert left_by(results) == left_by(train(tmp_path / "straight", together="turns"))


@pytest.mark.parametrize("how", ["together", "turns"])
def test_a_network_that_diverges_does_not_stop_the_others(tmp_path, how):
    results = train(tmp_path / "sweep", configs(0.05, 1e38), together=how)
    good, bad = results.settings
    assert bad.diverged == 2
    assert good.diverged == 0
    assert all(run.diverged and math.isnan(run.test_accuracy) for run in bad.runs)
    assert all(run.test_accuracy > 0 for run in good.runs)
    assert "NaN" in results.table()
    assert "2 (2 diverged)" in results.table()
    written = json.loads((results.workdir / "sweep.json").read_text())
    assert written["settings"][1]["metrics"]["accuracy"]["mean"] is None
    assert "the loss is" in written["runs"][2]["diverged"]
    again = train(tmp_path / "sweep", configs(0.05, 1e38), together=how)
    assert [run.diverged for run in again.runs] == [run.diverged for run in results.runs]


def test_the_others_of_a_program_keep_their_bits_when_one_diverges(straight, tmp_path):
    # The same four places on the axis of networks: the last two diverge.
    results = train(tmp_path / "sweep", configs(0.05, 1e38))
    for one, other in zip(results.runs[:2], straight.runs[:2], strict=True):
        assert one.values["state_sha256"] == other.values["state_sha256"]


@pytest.mark.slow
def test_networks_stop_early_on_their_own(tmp_path):
    # With such a learning rate of 1e-30 nothing gets better after the first evaluation.
    patient = [dataclasses.replace(config, patience=1) for config in configs(0.05, 1e-30)]
    results = train(tmp_path / "sweep", patient, seeds=[0])
    alone = train(tmp_path / "turns", patient, seeds=[0], together="turns")
    assert [run.values["steps"] for run in results.runs] == [run.values["steps"] for run in alone.runs]
    assert results.runs[1].values["steps"] == 4
    assert results.runs[1].values["stopped"] == alone.runs[1].values["stopped"]
    assert_close(results, alone, 1e-4)


@pytest.mark.slow
def test_each_seed_holds_out_its_own_validation_images(tmp_path):
    chosen = [dataclasses.replace(QUIET, validation=0.9)]
    results = train(tmp_path / "sweep", chosen)
    alone = train(tmp_path / "turns", chosen, together="turns")
    assert_close(results, alone, 1e-4)
    for one, other in zip(results.runs, alone.runs, strict=True):
        assert one.values["validation_examples"] == other.values["validation_examples"] > 0
        assert one.values["test_step"] == other.values["test_step"]
        np.testing.assert_allclose(one.values["best_validation"], other.values["best_validation"], atol=2e-3)


@pytest.mark.slow
def test_seeds_may_be_added(straight, tmp_path, monkeypatch):
    train(tmp_path / "sweep", seeds=[0])
    first = (tmp_path / "sweep" / straight.runs[0].name / "result.json").read_text()
    results = train(tmp_path / "sweep", seeds=[0, 1])
    assert (results.runs[0].workdir / "result.json").read_text() == first
    assert len(results.settings[0].runs) == 2
    assert_close(results, straight, 1e-4)


@pytest.mark.slow
def test_networks_with_and_without_weight_decay_are_groups_of_their_own(tmp_path):
    chosen = [
        dataclasses.replace(QUIET, steps=2, optimizer=OptimizerConfig(weight_decay=decay))
        for decay in (0.0, 1e-3, 1e-2)
    ]
    results = train(tmp_path / "sweep", chosen, seeds=[0])
    assert_close(results, train(tmp_path / "turns", chosen, seeds=[0], together="turns"), 1e-5)


def bad(folder, chosen=QUIET, **more):
    with pytest.raises(UsageError) as error:
        fit_many(chosen, workdir=folder, **more)
    assert "\n" not in str(error.value)
    assert not folder.exists()
    return str(error.value)


def test_mistakes_are_one_line_and_nothing_is_written(tmp_path):
    folder = tmp_path / "sweep"
    assert "are the same run" in bad(folder, [QUIET, QUIET])
    assert "are the same run" in bad(folder, QUIET, seeds=[1, 1])
    assert "configs or seeds is empty" in bad(folder, [])
    assert "configs or seeds is empty" in bad(folder, seeds=[])
    assert "set fit_many(workdir=...)" in bad(folder, dataclasses.replace(QUIET, workdir="x"))
    assert "did you mean 'lenet5'?" in bad(folder, [QUIET, dataclasses.replace(QUIET, model="lenet6")])
    assert "seed must be" in bad(folder, seeds=[-1])
    assert "did you mean 'together'?" in bad(folder, together="togehter")
    assert "does not support callbacks" in bad(folder, together="together", callbacks=[KillAt(1)])
    assert "Give jaxcnn.train.Config objects" in bad(folder, [QUIET, "lenet5"])
    own = "a model, task, optimizer, dataset or callback cannot be sent"
    assert own in bad(folder, together="processes", loss=lambda logits, labels: logits[:, 0])


def choice(monkeypatch, *, networks, platform="cpu", devices=1, cores=2, parts=None, callbacks=()):
    """Return how networks are trained on some devices."""
    device = dataclasses.make_dataclass("Device", ["platform"])(platform)
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * devices)
    monkeypatch.setattr(sweep, "available_cores", lambda: list(range(cores)))
    made = [Network(f"n{seed}", dataclasses.replace(QUIET, seed=seed)) for seed in range(networks)]
    return sweep._choose("auto", made, parts or CustomParts(), None, callbacks)


def test_the_way_is_chosen_by_the_devices(monkeypatch):
    assert choice(monkeypatch, networks=2) == "turns"
    assert choice(monkeypatch, networks=4) == "processes"
    assert choice(monkeypatch, networks=4, cores=1) == "turns"
    assert choice(monkeypatch, networks=4, parts=CustomParts(loss=lambda logits, labels: logits[:, 0])) == "turns"
    assert choice(monkeypatch, networks=4, callbacks=(KillAt(1),)) == "turns"
    assert choice(monkeypatch, networks=2, platform="gpu") == "together"
    assert choice(monkeypatch, networks=2, devices=8) == "together"
    assert choice(monkeypatch, networks=2, platform="gpu", callbacks=(KillAt(1),)) == "turns"


def test_several_processes_of_one_job_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert "fit_many does not run in a multi-process JAX job, got 2" in bad(tmp_path / "sweep")


def test_a_directory_of_something_else_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"has no sweep\.json"):
        train(tmp_path)
    (tmp_path / "file").unlink()
    with monkeypatch.context() as patch:
        kill_at(patch, together.Group, "_end_epoch", 1)
        with pytest.raises(Kill):
            train(tmp_path)
    with pytest.raises(UsageError, match="started with together='together'"):
        train(tmp_path, together="turns")
