"""A sample of `campaign.py damage`: what is read of a damaged run is right, or a line names the file."""

import damage
import pytest

from jaxcnn.train.runtime import sealed

SAMPLE = 24


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with damage.quick_runs():
        runs = damage.Runs(tmp_path_factory.mktemp("damage") / "runs")
        runs.prepare()
        yield runs


@pytest.mark.slow
def test_nothing_wrong_is_read_without_a_line_that_says_so(runs, tmp_path):
    trials = [damage.run_trial(runs, 1, number, tmp_path / "run") for number in range(SAMPLE)]
    assert [trial for trial in trials if trial.failures] == []
    assert {name for trial in trials for name in trial.damages} >= {"flip", "remove"}


@pytest.mark.slow
def test_damage_that_nobody_notices_would_be_a_failure(runs, tmp_path, monkeypatch):
    def change(folder, chance, other):
        path = folder / "preprocessing.json"
        path.write_text(path.read_text().replace("0.4", "0.6"))
        return [path]

    monkeypatch.setattr(damage, "DAMAGES", {"change": change})
    assert not damage.run_trial(runs, 0, 0, tmp_path / "run").failures
    monkeypatch.setattr(sealed, "_sha256", lambda values: "always the same")
    for name in ("stopped", "finished"):  # sealed again, so that each has this checksum
        copy = damage.shutil.copytree(runs.folder / name, tmp_path / "runs" / name)
        for path in copy.glob("*.json"):
            values = damage.json.loads(path.read_text())
            path.write_text(damage.json.dumps({**values, "sha256": "always the same"}, indent=2))
    others = damage.Runs(tmp_path / "runs", runs.truth)
    failures = damage.run_trial(others, 0, 0, tmp_path / "run").failures
    assert any("what was read of step" in failure for failure in failures)
    assert any("preprocessing.json is not named" in failure for failure in failures)
