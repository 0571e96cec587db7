"""A sample of `campaign.py storage`, and what a slow disk makes a run wait for."""

import errno
import shutil
import sys
import time

import numpy as np
import pytest

from jaxcnn.train import SaveError, TrainState
from jaxcnn.train.runtime.checkpoint import Checkpoints
from storage import campaign

SAMPLE = 8


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    with campaign.bench_in(tmp_path_factory.mktemp("storage")) as bench:
        yield bench


@pytest.mark.slow
def test_a_run_on_storage_that_fails_says_so_in_one_line_and_goes_on_from_there(bench):
    step = len(campaign.KINDS) // SAMPLE + 1  # each kind in some of the trials of two samples
    trials = [campaign.run_trial(bench, 1, number * step) for number in range(SAMPLE)]
    assert [trial for trial in trials if trial.failures] == []
    assert len({trial.fault for trial in trials}) >= SAMPLE // 2


@pytest.mark.slow
def test_a_fault_that_the_run_hides_would_be_a_failure(bench, monkeypatch):
    monkeypatch.setattr(campaign, "KINDS", ("failing_call",))
    monkeypatch.setattr(bench, "state", "another")
    failures = campaign.run_trial(bench, 0, 0).failures
    assert any("ended in another state" in failure for failure in failures)


@pytest.mark.slow
def test_the_shim_fails_the_calls_of_its_plan_and_no_others(bench):
    run = bench.folder / "planned"
    bench.shim.plan(str(run), "metrics", "write", error=errno.EIO)
    ended = bench.worker.run(run)
    bench.shim.reset()
    assert (ended.status, bench.shim.hits) == (1, 0)
    assert ended.errors == f"jaxcnn: {run}/metrics.jsonl cannot be written: Input/output error. Checkpoints are kept.\n"
    assert bench.worker.run(run).states == [bench.state]
    bench.shim.plan(str(run), ".lock", "lock", error=errno.ENOLCK)  # such as a network's file system without locks
    ended = bench.worker.run(run)
    bench.shim.reset()
    assert (ended.status, ended.errors) == (2, f"jaxcnn: workdir {run} cannot be written: No locks available\n")


def state_of(step):
    kernel = np.full(1000, step, np.float32)
    rest = {"batch_stats": {}, "opt_state": {}, "ema": {}, "key": np.zeros(2, np.uint32)}
    return TrainState(step=np.int32(step), params={"kernel": kernel}, **rest)


def test_a_save_on_a_slow_disk_lets_the_next_one_wait_so_that_at_most_one_state_is_kept(tmp_path, monkeypatch):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        arrived, save = [], checkpoints._manager.save

        def saving(step, **more):
            arrived.append(checkpoints.steps())
            return save(step, **more)

        monkeypatch.setattr(checkpoints._manager, "save", saving)
        for step in (1, 2, 3):
            checkpoints.save(state_of(step), {})
        # Each save begins when the one before is complete on the disk.
        assert arrived == [[], [1], [1, 2]]
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]


def test_a_folder_that_was_moved_is_not_created_again(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state_of(1), {})
        checkpoints.wait()
        (tmp_path / "checkpoints").rename(tmp_path / "moved")
        with pytest.raises(SaveError, match=r"has been moved or removed, or its disk is gone\. The"):
            checkpoints.save(state_of(2), {})
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]
    assert [path.name for path in (tmp_path / "moved").iterdir()] == ["1"]


def test_another_folder_at_the_place_of_a_moved_one_stays_empty(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        (tmp_path / "checkpoints").rename(tmp_path / "moved")
        other = tmp_path / "checkpoints"
        other.mkdir()
        (other / "theirs").touch()
        with pytest.raises(SaveError, match="has been moved"):
            checkpoints.save(state_of(2), {})
    assert [path.name for path in other.iterdir()] == ["theirs"]


def test_a_clock_that_steps_by_a_year_during_a_save_does_not_end_it(tmp_path, monkeypatch):
    now, asked = time.time, []

    def stepping():
        """The time of day, a year ahead where Orbax asks how long it has waited for the arrays."""
        is_late = sys._getframe(1).f_code.co_name == "get_remaining_time"
        asked.append(is_late)
        return now() + 365 * 86_400 * is_late

    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        monkeypatch.setattr(time, "time", stepping)
        checkpoints.save(state_of(1), {})
        checkpoints.wait()
        assert checkpoints.steps() == [1]
    assert any(asked)
