"""A checkpoint counts only under the name of its own step, in the directory of its own run."""

import dataclasses
import logging
import shutil

import numpy as np
import pytest
from worker import fingerprint

from jaxcnn.errors import UsageError
from jaxcnn.train import TrainState, evaluate, fit
from jaxcnn.train.config import Config
from jaxcnn.train.runtime import workdir
from jaxcnn.train.runtime.checkpoint import Checkpoints, DamagedError


def state_of(step, number=0.0):
    return TrainState(
        step=np.int32(step),
        params={"kernel": np.full(3, number, np.float32)},
        batch_stats={},
        opt_state={},
        ema={},
        key=np.zeros(2, np.uint32),
    )


def save(folder, steps, number=0.0):
    with Checkpoints(folder) as checkpoints:
        for step in steps:
            checkpoints.save(state_of(step, number), {}, score=1.0 / step)
            checkpoints.wait()


@pytest.fixture
def folder(tmp_path):
    """The checkpoints of steps 160 and 200 of a run."""
    with workdir.claim(Config(workdir=str(tmp_path / "run"))) as run:
        save(run / "checkpoints", [160, 200])
    return run / "checkpoints"


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_copy_under_a_later_name_is_put_aside_and_the_run_goes_on(folder, caplog):
    shutil.copytree(folder / "160", folder / "240")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.best_step() == 160
        state, _ = checkpoints.restore_newest(state_of(0))
        assert state.step == 200
        checkpoints.save(state_of(240), {})
        checkpoints.wait()
        assert checkpoints.restore(240, state_of(0))[0].step == 240
    assert warnings(caplog) == [
        f"checkpoint {folder}/240 is damaged: the checkpoint holds the state of step 160; returning to step 200"
    ]
    assert (folder.parent / "damaged_checkpoints" / "240").is_dir()


def test_swapped_checkpoints_are_both_damaged(folder):
    (folder / "160").rename(folder / "0")
    (folder / "200").rename(folder / "160")
    (folder / "0").rename(folder / "200")
    with Checkpoints(folder, read_only=True) as checkpoints:
        with pytest.raises(
            UsageError, match=r"200 is damaged: .*160; .*160 is damaged: the checkpoint holds the state of step 200"
        ):
            checkpoints.restore_newest(state_of(0))
        with pytest.raises(DamagedError, match="state of step 160"):
            checkpoints.verify(200)


def test_the_step_of_the_state_counts_where_no_step_is_recorded(folder, monkeypatch):
    from jaxcnn.train.runtime.checkpoint import _description

    describe = _description.describe
    monkeypatch.setattr(_description, "describe", lambda *args: {**describe(*args), "step": 300})
    save(folder, [280])
    (folder / "280").rename(folder / "300")
    with Checkpoints(folder) as checkpoints:
        for read in (lambda: checkpoints.restore(300, state_of(0)), lambda: checkpoints.verify(300)):
            with pytest.raises(DamagedError, match="the checkpoint holds the state of step 280"):
                read()


def test_a_checkpoint_of_another_run_is_damaged(folder, tmp_path, caplog):
    with workdir.claim(Config(workdir=str(tmp_path / "other"), seed=1)) as other:
        save(other / "checkpoints", [240], number=1.0)
    shutil.copytree(other / "checkpoints" / "240", folder / "240")
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.restore_newest(state_of(0))[0].step == 200
        with pytest.raises(UsageError, match=r"240 is damaged: the checkpoint belongs to another run\. Choose another"):
            checkpoints.chosen(240, state_of(0))
    assert warnings(caplog) == [
        f"checkpoint {folder}/240 is damaged: the checkpoint belongs to another run; returning to step 200"
    ]


@pytest.mark.parametrize("name", ["２４０", "٢٤٠", "0240", "240 ", "240.old"])
def test_other_names_are_no_checkpoints(folder, name, caplog):
    shutil.copytree(folder / "160", folder / name)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [160, 200]
        assert checkpoints.restore_newest(state_of(0))[0].step == 200
        checkpoints.save(state_of(240), {})
        checkpoints.wait()
        assert checkpoints.latest_step() == 240
    assert warnings(caplog) == []


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "checkpoints").touch()
    for read_only in (False, True):
        with pytest.raises(UsageError, match="is a file, not the folder of checkpoints"):
            Checkpoints(tmp_path / "checkpoints", read_only=read_only)


def test_a_file_in_place_of_a_checkpoint_is_put_aside(folder):
    for _ in range(2):
        (folder / "240").write_text("no checkpoint")
        with Checkpoints(folder) as checkpoints:
            assert checkpoints.restore_newest(state_of(0))[0].step == 200
        assert (folder.parent / "damaged_checkpoints" / "240").exists()
    shutil.copytree(folder / "160", folder / "240")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore_newest(state_of(0))[0].step == 200
    assert (folder.parent / "damaged_checkpoints" / "240").is_dir()


def test_a_file_in_place_of_the_folder_of_damaged_checkpoints_is_one_line(folder):
    (folder / "240").write_text("no checkpoint")
    (folder.parent / "damaged_checkpoints").touch()
    with Checkpoints(folder) as checkpoints, pytest.raises(UsageError, match="damaged_checkpoints is a file"):
        checkpoints.restore_newest(state_of(0))


def test_a_renamed_checkpoint_neither_ends_a_run_nor_is_tested(tiny, tmp_path, caplog):
    whole = fit(dataclasses.replace(tiny, steps=5, workdir=str(tmp_path / "whole")))
    run = shutil.copytree(whole.workdir, tmp_path / "run")
    (run / "result.json").unlink()
    (run / "checkpoints" / "5").rename(tmp_path / "5")
    shutil.copytree(run / "checkpoints" / "4", run / "checkpoints" / "5")
    assert evaluate(run)["step"] == 4
    assert warnings(caplog) == [
        f"checkpoint {run}/checkpoints/5 is damaged: the checkpoint holds the state of step 4; returning to step 4"
    ]
    again = fit(dataclasses.replace(whole.config, workdir=str(run)))
    assert fingerprint(again.state) == fingerprint(whole.state)
    assert (run / "metrics.jsonl").read_text() == (whole.workdir / "metrics.jsonl").read_text()


def test_evaluation_of_a_run_whose_last_checkpoint_is_gone_says_so(tiny, tmp_path, caplog):
    whole = fit(dataclasses.replace(tiny, steps=5, workdir=str(tmp_path / "whole")))
    (whole.workdir / "checkpoints" / "5").rename(tmp_path / "5")
    assert evaluate(whole.workdir)["step"] == 4
    assert warnings(caplog) == [f"the last checkpoint of the run is missing: {whole.workdir}/checkpoints/5"]
