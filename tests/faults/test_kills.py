"""A run that is killed at any moment, and continued, ends as one that nobody disturbed: to the last bit."""

import pytest
from killing import Campaign


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing_and_lose_nothing(worker, tmp_path):
    campaign = Campaign(worker, tmp_path, seed=1)
    campaign.straight()
    while len(campaign.kills) < 8:
        campaign.kill_until_done(3)
    assert campaign.differences == []
    assert any("half-written" in kill["fell"] for kill in campaign.kills)


@pytest.mark.slow
def test_a_state_that_is_not_the_same_would_be_noticed(worker, tmp_path):
    campaign = Campaign(worker, tmp_path, seed=1)
    campaign.straight()
    campaign.state = "another"
    campaign.expected = {**campaign.expected, "metrics": "others"}
    campaign.kill_until_done(1)
    assert campaign.differences == ["run 0: another state", "run 0: other metrics"]
