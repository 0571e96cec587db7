"""The finder sees where the loss falls and where it explodes."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from jaxcnn.cli import main
from jaxcnn.data import from_arrays
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, LearningRateFinderResult, find_learning_rate
from jaxcnn.train import learning_rate_finder as finder


def test_the_command_writes_a_curve_and_a_picture_and_suggests_a_rate_that_learns(tmp_path, capsys):
    assert main(["find-lr", "--batch-size", "64", "--workdir", str(tmp_path / "found"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "found" / "find_lr.json").read_text())
    assert (tmp_path / "found" / "find_lr.png").read_bytes().startswith(b"\x89PNG")
    assert printed["suggestion"] == written["suggestion"]
    # LeNet-5 with momentum is known to learn at 0.05 and to diverge at 10.
    assert 0.002 < written["suggestion"] < 0.1
    rates, smoothed = written["learning_rates"], written["smoothed"]
    assert rates[0] == pytest.approx(1e-6)
    assert rates == sorted(rates)
    assert len(rates) == len(smoothed) == len(written["losses"])
    assert min(smoothed) < 0.9 * smoothed[0]
    assert rates[-1] < 10 or smoothed[-1] > min(smoothed)  # it ended since the loss exploded


def test_what_shows_no_curve_is_refused():
    with pytest.raises(UsageError, match="steps must be at least 20"):
        find_learning_rate(Config(), steps=5)
    with pytest.raises(UsageError, match=r"learning rates must be positive and increasing, got 1.0 to 0.1"):
        find_learning_rate(Config(), lowest=1.0, highest=0.1)


def averaged(losses):
    averages = itertools.accumulate(losses, lambda a, x: 0.9 * a + 0.1 * x, initial=0.0)
    return [a / (1 - 0.9**n) for n, a in enumerate(averages) if n]


@pytest.mark.parametrize("steps", [20, 100, 1000])
def test_noise_does_not_fall_and_learning_does(steps):
    random = np.random.default_rng(0)
    noises = 2.3 + 0.05 * random.standard_normal((200, steps))
    assert sum(finder.falls(losses, averaged(losses)) for losses in noises) <= 2
    learning = noises - 2.0 * np.linspace(0, 1, steps) ** 2
    assert all(finder.falls(losses, averaged(losses)) for losses in learning)


def test_the_command_does_not_suggest_a_rate_that_it_has_not_found(tmp_path, capsys, monkeypatch):
    rates, losses = (1e-9, 2e-9, 4e-9, 8e-9), (2.3, 2.31, 2.29, 2.3)
    flat = LearningRateFinderResult(rates, losses, losses, None)
    monkeypatch.setattr("jaxcnn.train.find_learning_rate", lambda *_, **__: flat)
    assert main(["find-lr", "--workdir", str(tmp_path / "[b]found")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "no learning rate found: the loss does not fall from 1e-09 to 8e-09" in err
    assert len(err.splitlines()) == 1
    assert (tmp_path / "[b]found" / "find_lr.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "[b]found" / "find_lr.json").read_text())["suggestion"] is None


def test_takes_the_configuration_that_a_run_on_own_data_has_recorded():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (64, 28, 28, 1), np.uint8), np.arange(64) % 4
    data = from_arrays((images, labels), test=(images, labels))
    config = Config(dataset="custom:arrays", batch_size=16, progress=False)
    found = find_learning_rate(config, steps=20, data=data)
    unnamed = dataclasses.replace(config, dataset=Config.dataset)
    assert found.losses == find_learning_rate(unnamed, steps=20, data=data).losses
    with pytest.raises(UsageError, match="mutually exclusive"):
        find_learning_rate(dataclasses.replace(config, dataset="mnist"), steps=20, data=data)
