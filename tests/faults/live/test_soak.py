"""A sample of `campaign.py soak`: kills, damage and pressure at random, and nothing that grows."""

import pytest

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
