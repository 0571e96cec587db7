"""A sample of `campaign.py elastic`: runs that go on with other devices, strategies and processes."""

import pytest

from jaxcnn.data.pipeline import Pipeline
from live import elastic
from live.steps import wrong


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with elastic.Elastic.open(tmp_path_factory.mktemp("elastic")) as runs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(elastic, "CHANGES", 2)
        patch.setattr(elastic, "SEEDS", 2)
        patch.setattr(elastic, "DEVICES", (8, 3))
        yield runs


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [0, pytest.param(4, marks=pytest.mark.exhaustive)], ids=["other devices", "other processes"]
)
def test_a_run_goes_on_with_other_devices_step_by_step_as_on_one(runs, number):
    trial = runs.trial(1, number)
    assert trial["failures"] == []
    assert trial["changes"]
    assert trial["steps"] >= elastic.STEPS


@pytest.mark.slow
def test_other_examples_after_a_change_would_be_noticed(runs, monkeypatch):
    indices = Pipeline.indices

    def other_indices(self, step):
        # As if the order of the data depended on where a run went on.
        return indices(self, step + 1 if step >= 20 else step)

    runs._tested(0), runs._tested(1)
    monkeypatch.setattr(Pipeline, "indices", other_indices)
    assert "step 21: another batch" in runs.trial(1, 0)["failures"]


def test_a_step_that_differs_is_named():
    same = {"params": 1e-7, "opt_state": 1e-7, "batch_stats": 1e-6, "same_batch": True}
    assert wrong(3, same) == []
    assert wrong(3, {**same, "params": 2e-6}) == ["step 3: params differ by 2.0e-06"]
    assert wrong(3, {**same, "opt_state": float("nan")}) == ["step 3: opt_state differ by nan"]
    assert wrong(3, {**same, "same_batch": False}) == ["step 3: other examples"]
