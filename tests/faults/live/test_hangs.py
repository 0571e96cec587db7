"""A sample of `campaign.py hangs`: nobody waits for ever, and one line says who waits for what."""

import pytest

from live import hangs
from live.hangs import KINDS, Hangs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with Hangs.open(tmp_path_factory.mktemp("hangs"), cuts=False) as runs:
        yield runs


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [*KINDS[:2], *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in KINDS[2:5])]
)
def test_a_run_that_hangs_ends_with_a_line_and_goes_on_to_the_same_bits(runs, kind):
    trial = runs.trial(1, 0, kind)
    assert trial["failures"] == []


@pytest.mark.slow
def test_a_process_that_waits_for_ever_is_a_failure(runs, monkeypatch):
    monkeypatch.setattr(hangs, "PATIENCE", 15.0)
    monkeypatch.setattr(hangs, "TIMEOUT", 0)  # never
    failures = runs.trial(1, 0, KINDS[0])["failures"]
    assert failures[0] == "a process still waited after 15 s"
    assert failures[1].startswith("no line says who waits: statuses [-9]")
