"""The finder sees where the loss falls and where it explodes."""

import json

import pytest

from jaxcnn.cli import main
from jaxcnn.errors import UsageError
from jaxcnn.train import Config, find_learning_rate


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
    with pytest.raises(UsageError, match=r"learning rates must be positive and growing, got 1.0 to 0.1"):
        find_learning_rate(Config(), lowest=1.0, highest=0.1)
