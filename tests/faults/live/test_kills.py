"""A sample of `campaign.py kills`: a killed run that goes on ends as one that nobody disturbed, to the last bit."""

import dataclasses

import pytest

from live.kills import KINDS, Kills

SEED = 1


@pytest.fixture(scope="module")
def kills(tmp_path_factory):
    with Kills.open(tmp_path_factory.mktemp("kills")) as kills:
        yield kills


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [0, 1, *(pytest.param(number, marks=pytest.mark.exhaustive) for number in range(2, len(KINDS)))],
    ids=KINDS,
)
def test_kills_at_random_moments_change_nothing_and_lose_nothing(kills, number):
    trial = kills.trial(SEED, number)
    assert trial["kind"] == KINDS[number]
    assert trial["failures"] == []
    assert trial["kills"]
    if number == 1:
        assert all("half-written" in kill["fell"] or "saving" in kill["fell"] for kill in trial["kills"])


@pytest.mark.slow
def test_a_state_that_is_not_the_same_would_be_noticed(kills, monkeypatch):
    straight = kills._straight(KINDS[0])
    other = dataclasses.replace(straight, state="another", outcome={**straight.outcome, "metrics": "others"})
    monkeypatch.setitem(kills.straight, KINDS[0], other)
    monkeypatch.setattr("live.kills.MOST", 1)
    assert kills.trial(SEED, 0)["failures"] == ["another state", "other metrics"]
