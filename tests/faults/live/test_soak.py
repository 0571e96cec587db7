"""A sample of `campaign.py soak`: kills, damage and pressure at random, and nothing that grows."""

import mmap
import os
import sys

import pytest

from live.disturbances import in_use
from live.soak import Soak, growth
from live.trials import options, run_trials


@pytest.mark.slow
def test_a_short_soak_ends_with_the_bits_of_an_undisturbed_run(tmp_path):
    words = ["--count", "12", "--seed", "3", "--lines", str(tmp_path / "lines")]
    flags = options("soak", words, 12, "epochs")
    with Soak.open(tmp_path, flags) as soak:
        straight = soak.straight()
        trials = run_trials(flags, soak.trial, lambda trial: flags.count if trial["ended"] else 0)
        assert [trial["failures"] for trial in trials if trial["failures"]] == []
        assert soak.differences(straight) == []
        assert soak.differences({**straight, "state": "another"}) == ["another state"]


def test_what_grows_is_named():
    rows = [{"memory": 2**30, "files": 9 + epoch, "threads": 20, "checkpoints": 2**20} for epoch in range(40)]
    assert growth(rows) == ["files grow by 20"]
    assert growth([{**row, "files": 9} for row in rows]) == []
    # A release of 100 MiB in epoch 25 does not hide that 1 MiB is lost in each epoch.
    memory = [2**30 + epoch * 2**20 - (epoch > 25) * 100 * 2**20 for epoch in range(40)]
    leaking = [{**row, "files": 9, "memory": value} for row, value in zip(rows, memory, strict=True)]
    assert growth(leaking) == [f"memory grow by {19 * 2**20}"]  # that epoch counts for nothing


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_counts_what_is_allocated_and_not_what_is_mapped(tmp_path):
    path = tmp_path / "mapped"
    path.write_bytes(bytes(2**26))
    before = in_use(tmp_path)["memory"]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert not any(mapped[:: mmap.PAGESIZE])
        assert in_use(tmp_path)["memory"] - before < 2**25
    allocated = bytearray(b"1") * 2**26
    assert in_use(tmp_path)["memory"] - before > 2**25, len(allocated)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_files_that_vanish_while_they_are_measured_do_not_count(tmp_path, monkeypatch):
    (tmp_path / "kept").write_bytes(bytes(10))
    (tmp_path / "gone").write_bytes(bytes(100))
    walk = os.walk

    def removing_walk(folder):
        for found in walk(folder):
            (tmp_path / "gone").unlink(missing_ok=True)
            yield found

    monkeypatch.setattr(os, "walk", removing_walk)
    assert in_use(tmp_path)["disk"] == 10
