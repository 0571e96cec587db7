"""A sample of `campaign.py injection`: each flipped bit is undone, or has changed nothing."""

import dataclasses

import pytest

from corruption import injection
from jaxcnn.train.runtime.verification.verifier import Verifier

SAMPLE = 40


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with injection.open_runs(tmp_path_factory.mktemp("injection")) as runs:
        yield runs


@pytest.mark.slow
def test_each_flipped_bit_is_undone_or_has_changed_nothing(runs):
    trials = [injection.run_trial(runs, 1, number) for number in range(SAMPLE)]
    assert [trial for trial in trials if trial.failures] == []
    undone = [trial for trial in trials if trial.outcome == "undone"]
    assert len(undone) > SAMPLE / 3
    assert all(0 <= trial.delay < injection.EVERY for trial in undone)


@pytest.mark.slow
def test_a_flip_that_nobody_undoes_would_be_a_failure(runs, monkeypatch):
    monkeypatch.setattr(Verifier, "_find", lambda self, state, hashes: None)
    trials = [injection.run_trial(runs, 1, number) for number in range(len(injection.SETTINGS))]
    assert {trial.mode for trial in trials} == {"interval"}
    assert any("all steps were made again" in failure for trial in trials for failure in trial.failures)


@pytest.mark.slow
def test_a_wrong_name_of_a_device_would_be_a_failure(runs):
    trial = injection.run_trial(runs, 1, 2)
    setting = injection.SETTINGS[2]
    plan = runs.plans[setting, "interval"]
    named = dataclasses.replace(trial, found=[{"device": str(plan.parallel.devices[0])}], failures=[])
    named.fault["device"] = 1
    injection.judge(named, False, plan)
    assert any("was named, not" in failure for failure in named.failures)
