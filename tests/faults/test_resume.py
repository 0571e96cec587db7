"""A run continued in the middle of an epoch, and on other devices, and what its folder then says."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from killing import complete_checkpoints, outcome
from live.elastic import Stop
from worker import fingerprint

from jaxcnn.data.pipeline import Pipeline
from jaxcnn.errors import UsageError
from jaxcnn.train import InterruptedRunError, SaveError, TrainState, evaluate, fit
from jaxcnn.train.runtime import loop, plan
from jaxcnn.train.runtime.checkpoint import Checkpoints
from jaxcnn.train.runtime.record import Record, read_rows
from jaxcnn.train.runtime.workdir import exclusive

# Steps 7, 13, 19 and 25 end an epoch: 9 is in the middle of one.
MIDDLE, END_OF_EPOCH = 9, 13


@pytest.fixture(scope="module")
def compiled_once(tiny):
    """Programs are the same in all these runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("compile_train_step", "compile_eval_step"):
            function, kept = getattr(plan.Plan, name), {}

            def once(self, *args, _function=function, _kept=kept, **kwargs):
                key = (len(self.parallel.devices), args, tuple(kwargs.items()))
                if key not in _kept:
                    _kept[key] = _function(self, *args, **kwargs)
                return _kept[key]

            patch.setattr(plan.Plan, name, once)
        yield


class Means:
    """What a person sees of each epoch."""

    def __init__(self, monkeypatch):
        self.shown = []
        monkeypatch.setattr(
            loop.ProgressDisplay,
            "epoch_done",
            lambda _, epoch, train, split, test, rate: self.shown.append((train, test)),
        )


class Died(Exception):
    pass


def stop_behind(monkeypatch, step):
    """The run dies as soon as the checkpoint of this step is written."""
    save = Checkpoints.save

    def dying(self, state, *args, **kwargs):
        save(self, state, *args, **kwargs)
        if int(state.step) == step:
            self.wait()
            raise Died

    monkeypatch.setattr(Checkpoints, "save", dying)


@pytest.fixture(scope="module")
def straight(tiny, compiled_once, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        means = Means(patch)
        run = fit(dataclasses.replace(tiny, checkpoint_every=3, workdir=str(tmp_path_factory.mktemp("straight"))))
    return fingerprint(run.state), outcome(run.workdir), means.shown


def differences(config, straight, workdir, monkeypatch, stop, change=lambda state, meta: (state, meta)):
    """In what a run that died behind step `stop`, and went on from what `change` made of it, differs."""
    config = dataclasses.replace(config, checkpoint_every=3, workdir=str(workdir))
    means = Means(monkeypatch)
    with monkeypatch.context() as patch:
        stop_behind(patch, stop)
        with pytest.raises(Died):
            fit(config)
    restore = Checkpoints.restore
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "restore", lambda *args: change(*restore(*args)))
        try:
            end = fit(config)
        except SaveError as error:  # a step that exists cannot be saved again
            return [str(error)]
    state, left, shown = straight
    found = ["state"] if fingerprint(end.state) != state else []
    found += [name for name, value in outcome(workdir).items() if value != left[name]]
    return found + (["epoch means"] if means.shown != shown else [])


@pytest.mark.parametrize("stop", [MIDDLE, END_OF_EPOCH])
def test_a_run_that_went_on_is_the_run_that_never_stopped_to_the_last_bit(tiny, straight, tmp_path, monkeypatch, stop):
    assert differences(tiny, straight, tmp_path, monkeypatch, stop) == []


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_that_sigterm_stops_at_the_end_of_an_epoch_is_that_run_too(tiny, straight, tmp_path, monkeypatch, killed):
    """The stopped run saves this step before its evaluation, and the one that goes on saves it after."""
    config = dataclasses.replace(tiny, checkpoint_every=3, workdir=str(tmp_path))
    with pytest.raises(InterruptedRunError):
        fit(config, callbacks=[Stop(END_OF_EPOCH, sudden=False)])
    assert complete_checkpoints(tmp_path)[-1] == END_OF_EPOCH
    if killed:  # while it saves this step again
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "wait", dying_at(END_OF_EPOCH))
            with pytest.raises(Died):
                fit(config)
    end = fit(config)
    state, left, _ = straight
    assert fingerprint(end.state) == state
    assert outcome(tmp_path) == left


def dying_at(step):
    """Return a method in place of `Checkpoints.wait`, which dies while this step is saved."""
    wait = Checkpoints.wait

    def dying(self):
        if self._saving == step:
            self._manager.wait_until_finished()
            shutil.rmtree(self._directory / str(step))  # as if it had not arrived
            self._saving = None
            raise Died
        wait(self)

    return dying


COMPONENTS = [field.name for field in dataclasses.fields(TrainState)]


@pytest.mark.parametrize("component", COMPONENTS)
def test_without_any_one_component_of_the_state_it_would_not_be(tiny, straight, tmp_path, monkeypatch, component):
    empty = dataclasses.replace(tiny, workdir=None)
    fresh = jax.device_get(plan.make_plan(empty).initial_state())
    if not jax.tree.leaves(getattr(fresh, component)):
        pytest.skip(f"this run has no {component}")

    def leave_out(state, meta):
        # What a run starts with; but the key, which is the seed's and the same all along, is left out as zeros.
        start = np.zeros_like(fresh.key) if component == "key" else getattr(fresh, component)
        return dataclasses.replace(state, **{component: start}), meta

    found = differences(tiny, straight, tmp_path, monkeypatch, MIDDLE, leave_out)
    assert "state" in found or (component == "step" and "already exists" in found[0])


def test_without_the_epochs_metrics_so_far_it_would_not_be(tiny, straight, tmp_path, monkeypatch):
    def leave_out(state, meta):
        return state, {**meta, "epoch_total": None}

    assert differences(tiny, straight, tmp_path, monkeypatch, MIDDLE, leave_out) == ["epoch means"]


def test_with_the_data_in_another_order_it_would_not_be(tiny, straight, tmp_path, monkeypatch):
    batches = Pipeline.batches
    monkeypatch.setattr(Pipeline, "batches", lambda self, first_step, **how: batches(self, 0, **how))
    assert "state" in differences(tiny, straight, tmp_path, monkeypatch, MIDDLE)


def test_a_checkpoint_goes_from_8_devices_to_4_to_1_and_back(tiny, straight, compiled_once, tmp_path, monkeypatch):
    config = dataclasses.replace(tiny, checkpoint_every=3, workdir=str(tmp_path))
    make_parallel, restore = plan.make_parallel, Checkpoints.restore
    saved, restored = [], []

    def noted(self, *args):
        found = restore(self, *args)
        restored.append(fingerprint(found[0]))
        return found

    save = Checkpoints.save

    def noted_save(self, state, *args, **kwargs):
        saved.append(fingerprint(state))
        save(self, state, *args, **kwargs)

    monkeypatch.setattr(Checkpoints, "restore", noted)
    monkeypatch.setattr(Checkpoints, "save", noted_save)
    for devices, stop in ((8, 3), (4, 9), (1, 15), (8, None)):
        with monkeypatch.context() as patch:
            some = jax.local_devices()[:devices]
            patch.setattr(plan, "make_parallel", lambda name, *_, some=some, **more: make_parallel(name, some, **more))
            if stop is None:
                end = fit(config)
            else:
                stop_behind(patch, stop)
                with pytest.raises(Died):
                    fit(config)
        if restored:
            assert restored[-1] in saved
    assert len(restored) == 3
    # Every step once; the same to the last bit as long as the devices are (each has dropout masks of its own).
    rows = [json.loads(line) for line in straight[1]["metrics"].splitlines()]
    rows = [{name: value for name, value in row.items() if name != "crc32"} for row in rows]
    for ours, theirs in zip(read_rows(end.workdir), rows, strict=True):
        assert (ours["step"], ours["split"]) == (theirs["step"], theirs["split"])
        assert ours == theirs or ours["step"] > 3


def state_of(step):
    return TrainState(step=np.int32(step), params={}, batch_stats={}, opt_state={}, ema={}, key=np.zeros(2, np.uint32))


def test_the_best_and_the_two_latest_checkpoints_are_kept_over_restarts(tmp_path):
    accuracies = {1: 0.5, 2: 0.9, 3: None, 4: 0.9, 5: 0.2, 6: None, 7: 0.3, 8: None}
    kept = []
    for step, accuracy in accuracies.items():
        with Checkpoints(tmp_path / "checkpoints") as checkpoints:
            checkpoints.save(state_of(step), {}, accuracy)
            checkpoints.wait()
            kept.append(checkpoints.steps())
    assert kept == [[1], [1, 2], [2, 3], [3, 4], [4, 5], [4, 5, 6], [4, 6, 7], [4, 7, 8]]


def row(step, split="train"):
    return {"split": split, "step": step, "epoch": step / 10, "loss": 1.0, "accuracy": 0.5}


def test_metrics_have_each_step_once_whatever_was_left_behind_the_checkpoint(tmp_path, caplog):
    lines = [json.dumps(row(step)) for step in (1, 2, 3, 4)]
    torn = "\n".join([*lines, json.dumps(row(5))[:20]])
    for step, left in ((4, torn), (4, torn + "\xff"), (2, torn), (2, "\n".join([*lines, ""]))):
        (tmp_path / "metrics.jsonl").write_text(left)
        with Record(tmp_path, step) as record:
            for next_step in range(step + 1, 7):
                record.write(row(next_step))
            record.flush()
            assert [r["step"] for r in read_rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert not caplog.records


def test_rows_that_are_gone_are_missed_in_one_warning(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row(1)) + "\nrubbish\n" + json.dumps(row(3)))
    with Record(tmp_path, 3):
        pass
    (said,) = [record.getMessage() for record in caplog.records]
    assert "metrics.jsonl has no rows for 1 of the 3 steps of the run so far (2). For these steps, rows" in said


def test_only_sync_waits_for_the_disk(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr("os.fsync", waited.append)
    with Record(tmp_path, 0) as record:
        waited.clear()
        record.write(row(1))
        record.flush()
        assert not waited
        record.sync()
        assert len(waited) == 1


def test_two_runs_in_one_folder_are_refused_and_eval_is_not(tiny, straight, compiled_once, tmp_path):
    import os

    config = dataclasses.replace(tiny, checkpoint_every=3, steps=3, workdir=str(tmp_path))
    fit(config)
    with exclusive(tmp_path):
        with pytest.raises(
            UsageError,
            match=rf"is in use by process {os.getpid()} on .*. "
            "Wait until that process ends, or",
        ):
            fit(config)
        assert evaluate(tmp_path)["step"] == 3
    assert fit(config).values["steps"] == 3
    assert not (tmp_path / ".lock").exists()


def test_a_lock_whose_holder_died_holds_nobody_up(worker, tmp_path):
    import signal

    ended = worker.run(tmp_path / "run", at_event=5)
    assert ended.status == -signal.SIGKILL
    assert (tmp_path / "run" / ".lock").exists()
    with exclusive(tmp_path / "run"):
        pass
