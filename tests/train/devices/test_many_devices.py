"""64 and 256 devices, simulated in one process: steps, batches, statistics, evaluation, and a run that goes on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jobs import environment

MANY_DEVICES = Path(__file__).with_name("many_devices.py")
FIT_ON_DEVICES = Path(__file__).with_name("fit_on_devices.py")


def run_on(devices, script, *args):
    """Run a script on so many devices. Return what it prints."""
    env = environment() | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, str(script), *map(str, args)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("devices", [64, pytest.param(256, marks=pytest.mark.slow)])
def test_batches_and_groups_of_many_devices(devices):
    said = run_on(devices, MANY_DEVICES, "order", "epochs", "refusals", "groups")
    assert said.count("checked: ") == 4


@pytest.mark.slow
@pytest.mark.parametrize("checks", [["steps-pmap", "evaluation"], ["steps-shard_map"], ["steps-jit", "sharded"]])
@pytest.mark.parametrize("devices", [64, pytest.param(256, marks=pytest.mark.exhaustive)])
def test_many_devices_learn_and_evaluate_as_one(devices, checks):
    said = run_on(devices, MANY_DEVICES, *checks)
    print(said)
    assert said.count("checked: ") == len(checks)


def fit_on(devices, folder, stop_at=None):
    run_on(devices, FIT_ON_DEVICES, folder, *([] if stop_at is None else [stop_at]))


def outcome(folder):
    """The result, the training rows and the last state of a run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    state = dict(np.load(folder.with_suffix(".npz")))
    return json.loads((folder / "result.json").read_text()), [row for row in rows if row["split"] == "train"], state


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_run_that_sigterm_stops_on_64_devices_goes_on_there_on_256_and_on_one(tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    fit_on(64, straight)
    fit_on(64, stopped, stop_at=5)  # in the middle of an epoch, which is 7.8 steps
    assert not (stopped / "result.json").exists()
    saved = sorted(int(path.name) for path in (stopped / "checkpoints").iterdir() if path.name.isdigit())
    assert saved == [5]
    expected, expected_rows, expected_state = outcome(straight)
    assert (expected["test_examples"], expected["devices"]) == (391, 64)
    for devices in (64, 256, 1):
        folder = tmp_path / f"on-{devices}"
        shutil.copytree(stopped, folder)
        fit_on(devices, folder)
        found, rows, state = outcome(folder)
        assert found["devices"] == devices
        assert found["test_examples"] == 391
        assert [row["step"] for row in rows] == [*range(1, 17)]
        if devices == 64:
            assert found["state_sha256"] == expected["state_sha256"]
            assert rows == expected_rows
        assert rows[:5] == expected_rows[:5]
        # Another order of examples would change the losses in the second digit.
        np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in expected_rows], rtol=1e-5)
        for name, array in state.items():
            np.testing.assert_allclose(
                array, expected_state[name], atol=1e-5 * max(1, np.abs(array).max()), err_msg=name
            )
        assert found["test_accuracy"] == pytest.approx(expected["test_accuracy"], abs=1e-9)
