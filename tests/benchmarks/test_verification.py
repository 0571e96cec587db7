"""The benchmark of verification: two runs train in turns, and each turn's time counts once."""

import dataclasses

import numpy as np
import pytest

from benchmarks.verification.__main__ import interval_of_median
from benchmarks.verification.turns import seconds_of_turns
from jaxcnn.errors import UsageError
from jaxcnn.layers import Dense, Flatten, Sequential
from jaxcnn.train import Config, Verification
from jaxcnn.train.parts import CustomParts
from jaxcnn.train.runtime.plan import make_plan


@pytest.fixture
def plans():
    config = Config(steps=12, batch_size=64, evaluate_every=12, progress=False)
    plain = make_plan(config, CustomParts(model=Sequential([Flatten(), Dense(10)])))
    verified = dataclasses.replace(plain.config, verify_every=4, verify=Verification(replay="last"))
    return [plain, dataclasses.replace(plain, config=verified)]


def test_two_runs_take_turns(plans):
    off, on = seconds_of_turns(plans, 4)
    assert len(off) == len(on) == 2  # steps 2 to 6 and 6 to 10
    assert min(off + on) > 0


def test_an_error_of_one_run_ends_both(plans, monkeypatch):
    monkeypatch.setattr("jaxcnn.train.runtime.loop.make_verifier", lambda plan, *_: fail(plan.config))
    with pytest.raises(UsageError, match="of the second run"):
        seconds_of_turns(plans, 4)


def fail(config):
    if config.verify_every is not None:
        raise UsageError("an error of the second run")


def test_the_interval_of_the_median_contains_it_and_is_narrower_than_the_samples():
    samples = np.random.default_rng(1).normal(1.0, 0.1, 100)
    low, high = interval_of_median(samples)
    assert samples.min() < low < np.median(samples) < high < samples.max()
    assert high - low < 0.1
