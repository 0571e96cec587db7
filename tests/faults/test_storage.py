"""Disks that are full or cannot be written, and numbers that are not finite: one line, and the old state is kept."""

import contextlib
import dataclasses
import errno
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from killing import complete_checkpoints, outcome
from storage import disks

from jaxcnn import _scoped, cli
from jaxcnn.errors import RunError
from jaxcnn.train import DivergedError, OptimizerConfig, SaveError, TrainState, fit
from jaxcnn.train.runtime import workdir
from jaxcnn.train.runtime.checkpoint import Checkpoints, _errors
from jaxcnn.train.runtime.record import Record


def state(step, floats=1000):
    # Random bits, which do not compress.
    bits = np.random.default_rng(step).random(floats, np.float32)
    return TrainState(
        step=np.int32(step),
        params={"kernel": bits},
        batch_stats={},
        opt_state={},
        ema={},
        key=np.zeros(2, np.uint32),
    )


@contextlib.contextmanager
def small_disk(folder, megabytes):
    """A file system of its own in this folder."""
    with disks.small_disk(folder, f"size={megabytes}m") as is_mounted:
        if not is_mounted:
            pytest.skip("mounting a small disk is not allowed here")
        yield


def save_and_wait(checkpoints, *args):
    checkpoints.save(*args)
    checkpoints.wait()


def test_a_save_without_the_space_for_it_says_what_it_needs_and_keeps_the_one_before(tmp_path):
    with small_disk(tmp_path / "disk", 4), Checkpoints(tmp_path / "disk" / "checkpoints") as checkpoints:
        checkpoints.save(state(1, 500_000), {"n": 1})
        checkpoints.wait()
        with pytest.raises(
            SaveError,
            match=r"step 2 could not be written to .*: "
            r"the checkpoint needs 3\.0 MB of disk space, but 2\.\d MB are free; .* step 1 is kept",
        ):
            checkpoints.save(state(2, 500_000), {"n": 2})
        assert checkpoints.steps() == [1]
        assert checkpoints.restore_newest(state(1, 500_000))[1] == {"n": 1}


def test_a_disk_that_fills_up_during_an_asynchronous_save_is_an_error_of_that_save(tmp_path, monkeypatch):
    # As if somebody else took the space between the look and the save.
    monkeypatch.setattr(Checkpoints, "_check_disk", lambda *_: None)
    with small_disk(tmp_path / "disk", 3):
        with Checkpoints(tmp_path / "disk" / "checkpoints") as checkpoints:
            checkpoints.save(state(1, 600_000), {"n": 1})
            checkpoints.wait()
            with pytest.raises(SaveError, match=r"the checkpoint of step 2 could not be written .* step 1 is kept"):
                save_and_wait(checkpoints, state(2, 600_000), {"n": 2})
        # What was half written takes no space, and a smaller one can be saved.
        with Checkpoints(tmp_path / "disk" / "checkpoints") as checkpoints:
            checkpoints.save(state(3), {"n": 3})
            checkpoints.wait()
            assert checkpoints.steps() == [1, 3]
            assert checkpoints.restore(1, state(1, 600_000))[1] == {"n": 1}
            assert checkpoints.restore(3, state(3))[1] == {"n": 3}


def test_a_run_on_a_full_disk_ends_in_one_line_and_goes_on_when_there_is_space(worker, tmp_path):
    straight = worker.run(tmp_path / "straight")
    assert straight.status == 0
    with small_disk(tmp_path / "disk", 4):
        run, ballast = tmp_path / "disk" / "run", tmp_path / "disk" / "ballast"
        # The first checkpoints have the megabyte that a save wants to see, later ones do not.
        ballast.write_bytes(bytes(2_900_000))
        ended = worker.run(run)
        assert ended.status == 1, ended
        (line,) = ended.errors.splitlines()
        assert line.startswith("jaxcnn: ")
        assert "MB are free; the checkpoint of step" in line
        assert line.endswith("is kept")
        assert complete_checkpoints(run)
        ballast.unlink()
        ended = worker.run(run)
        assert (ended.status, ended.states, ended.errors) == (0, straight.states, "")
        assert outcome(run) == outcome(tmp_path / "straight")


@pytest.mark.parametrize("method", ["write", "flush", "sync"])
def test_metrics_that_cannot_be_written_are_one_line_and_nothing_hangs(tmp_path, method):
    row = {"split": "train", "step": 1, "epoch": 0.1, "loss": 1.0, "accuracy": 0.5}
    with small_disk(tmp_path / "disk", 1), Record(tmp_path / "disk", 0) as record:
        with contextlib.suppress(OSError), (tmp_path / "disk" / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))

        def use():
            for _ in range(100_000 if method == "write" else 1):  # until what is buffered goes to the disk
                record.write(row)
            getattr(record, method)(*([row] if method == "write" else []))

        with pytest.raises(RunError, match=r"metrics.jsonl cannot be written: No space left on device"):
            use()


def test_a_folder_that_becomes_read_only_is_an_error_and_what_is_in_it_stays(worker, tmp_path):
    with small_disk(tmp_path / "disk", 20):
        folder = tmp_path / "disk" / "checkpoints"
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(state(1), {"n": 1})
            checkpoints.wait()
            remount(tmp_path / "disk", "ro")
            with pytest.raises(SaveError, match=r"step 2 could not be written .*read-only.*step 1 is kept"):
                checkpoints.save(state(2), {"n": 2})
            assert checkpoints.restore_newest(state(1))[1] == {"n": 1}
        # Such a folder can still be read by those who only read.
        with Checkpoints(folder, read_only=True) as checkpoints:
            assert checkpoints.restore_newest(state(1))[1] == {"n": 1}
        ended = worker.run(tmp_path / "disk" / "run")
        assert ended.status == 2
        assert ended.errors == f"jaxcnn: workdir {tmp_path}/disk/run cannot be written: Read-only file system\n"


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def test_files_are_replaced_in_one_stroke(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    workdir.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        workdir.write_json(path, {"a": object()})
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        workdir.write_json(path, {"a": 2})
    assert workdir.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EIO, "Input/output error", "/data/a\x1b.bin"), "jaxcnn: /data/a\\x1b.bin: Input/output error\n"),
        (OSError(errno.ENOSPC, "No space left"), "jaxcnn: output cannot be written: No space left\n"),
        (OSError(errno.EINVAL, "a mistake of the program"), None),
    ],
)
def test_an_error_of_a_disk_that_no_command_expects_is_one_line(error, says, monkeypatch, capsys):
    def fail(*args):
        raise error

    monkeypatch.setattr(cli, "_run_command", fail)
    if says is None:
        with pytest.raises(OSError, match="a mistake"):
            cli.main(["train"])
    else:
        assert cli.main(["train"]) == 1
        assert capsys.readouterr().err == says


def test_the_lock_of_another_run_at_the_place_of_a_moved_folder_stays(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with workdir.exclusive(folder):
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        (folder / ".lock").touch()
    assert (folder / ".lock").exists()
    assert (tmp_path / "moved" / ".lock").exists()
    with workdir.exclusive(tmp_path / "moved"):  # nobody holds it
        pass


def spoiled_after(step, value):
    """An optimizer whose update number `step` writes `value` into the parameters."""

    def update(updates, count, params=None):
        wrong = jax.tree.map(lambda u: jnp.where(count + 1 == step, value, 0.01 * u), updates)
        return wrong, count + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_never_saved(tiny, tmp_path, value):
    with pytest.raises(
        DivergedError, match=r"params/\S+ has infinite or NaN values at step 8; the checkpoint of step 7"
    ):
        fit(
            dataclasses.replace(tiny, workdir=str(tmp_path), optimizer=OptimizerConfig()),
            optimizer=spoiled_after(8, value),
        )
    assert complete_checkpoints(tmp_path) == [6, 7]
    assert not (tmp_path / "result.json").exists()


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step_and_keeps_the_good_checkpoint(tiny, tmp_path):
    with pytest.raises(DivergedError, match=r"the loss is nan at step 10; the checkpoint of step 8 in .* is kept"):
        fit(
            dataclasses.replace(tiny, workdir=str(tmp_path), optimizer=OptimizerConfig()),
            optimizer=spoiled_after(9, np.nan),
        )
    assert complete_checkpoints(tmp_path)[-1] == 8
    assert not (tmp_path / "result.json").exists()


class Straggler:
    """Fails in its destructor, as a write of Orbax does whose event loop is closed."""

    def __init__(self, says):
        self.says = says

    def __del__(self):
        raise RuntimeError(self.says)


class Later:
    """A timer that rings when it is told to."""

    rings = None

    def __init__(self, seconds, do):
        Later.rings = do

    def start(self):
        pass


def test_writes_that_end_long_after_a_failed_one_print_nothing(monkeypatch):
    printed = []
    # Other tests may still drop what their own writes print.
    monkeypatch.setattr(_scoped, "_hook_filters", _scoped._filters())
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: printed.append(str(unraisable.exc_value)))
    monkeypatch.setattr(sys, "excepthook", lambda kind, value, trace: printed.append(str(value)))
    monkeypatch.setattr(_errors.threading, "Timer", Later)
    with pytest.raises(OSError, match="disk"), _errors.quiet_stragglers():
        raise OSError("disk")
    Straggler("Event loop is closed")
    Straggler("another")
    assert printed == ["another"]
    print_of_callback("Event loop is closed")
    print_of_callback("another")
    Later.rings()
    Straggler("Event loop is closed")
    assert printed == ["another", "another", "Event loop is closed"]


def print_of_callback(says):
    """Print an exception as C++ does whose callback has raised one (PyErr_Print): TensorStore's do."""
    error = RuntimeError(says)
    sys.excepthook(type(error), error, None)
