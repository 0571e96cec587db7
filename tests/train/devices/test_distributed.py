"""Several processes learn what one process learns, and survive the death of any of them."""

import fcntl
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jobs import environment, finish, free_port, process_of, result, run_together, start, wait_for_step

from jaxcnn.errors import RunError, UsageError
from jaxcnn.train.devices import distributed
from jaxcnn.train.runtime.integrity import named_leaves

ONE_OF_MANY = Path(__file__).with_name("one_of_many.py")
FIT_OF_MANY = Path(__file__).with_name("fit_of_many.py")
STEPS = 100
# Epochs of 39 steps: the run is saved within epochs and at their ends.
RUN = f"--steps {STEPS} --batch-size 256 --checkpoint-every 10 --log-every 5 --no-progress".split()
TWO = ["--processes", "2", "--devices-per-process", "2"]


# The numbers


def start_together(folder, processes, devices, ways):
    """For each way, the states that each of the processes ended with."""
    run_together(ONE_OF_MANY, folder, processes, devices, *ways)
    return {way: [dict(np.load(folder / f"{way}-{index}.npz")) for index in range(processes)] for way in ways}


def differences(a, b):
    return max(float(np.abs(a[name].astype(np.float64) - b[name]).max()) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "devices", "ways"),
    [
        (2, 2, ["auto", "jit", "sharded", "groups"]),
        (4, 1, ["auto"]),
        pytest.param(8, 1, ["auto", "jit", "sharded", "groups"], marks=pytest.mark.exhaustive),
    ],
)
def test_many_processes_learn_what_one_process_learns(tmp_path, processes, devices, ways):
    train, local = runpy.run_path(str(ONE_OF_MANY))["train"], jax.devices()[: processes * devices]
    alone = {}
    for way in {"pmap", *ways} & {"pmap", "groups"}:
        state, parallel = train(way, local)
        alone[way] = named_leaves(parallel.fetch_state(state))
    for way, states in start_together(tmp_path, processes, devices, ways).items():
        for other in states[1:]:
            assert differences(states[0], other) == 0.0
        assert states[0].keys() == alone["pmap"].keys()
        assert differences(states[0], alone["groups" if way == "groups" else "pmap"]) < 1e-5
    if "groups" in alone:
        assert differences(alone["groups"], alone["pmap"]) > 1e-4


@pytest.mark.slow
def test_callbacks_of_all_processes_get_the_same_rows(tmp_path):
    run_together(FIT_OF_MANY, tmp_path, 2, 1)
    first, second = (json.loads((tmp_path / f"rows-{index}.json").read_text()) for index in range(2))
    assert first == second
    recorded = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert first == [[row["split"], row["step"]] for row in recorded]
    assert first[-1] == ["test", 4]


# The launcher


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, worker_id):
    """The result of two processes with two devices each that nothing happened to; one run for all test workers."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    folder = shared / "undisturbed"
    with (shared / "undisturbed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            status, out, err = finish(start([*RUN, *TWO, "--workdir", str(folder), "--json"]))
            assert status == 0, err
            assert json.loads(out)["state_sha256"] == result(folder)["state_sha256"]  # and nothing else is printed
    return result(folder)


@pytest.mark.slow
def test_a_run_of_two_processes_tests_every_image_and_says_what_it_was(undisturbed):
    assert undisturbed["test_examples"] == 2000
    assert (undisturbed["processes"], undisturbed["devices"], undisturbed["parallel"]) == (2, 4, "shard_map")


@pytest.mark.slow
def test_killing_a_process_at_a_random_step_changes_nothing_in_the_end(undisturbed, tmp_path):
    step, index = random.randint(12, 60), random.randint(0, 1)
    print(f"process {index} is killed after step {step}")  # shown if the test fails
    supervisor = start([*RUN, *TWO, "--workdir", str(tmp_path)])
    child = process_of(supervisor, index)
    wait_for_step(supervisor, tmp_path, step)
    os.kill(child, signal.SIGKILL)
    status, _, err = finish(supervisor)
    assert status == 0, err
    assert f"process {index} was ended by SIGKILL; all 2 start again from the checkpoint of step" in err
    assert result(tmp_path)["state_sha256"] == undisturbed["state_sha256"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "train"] == [*range(1, STEPS + 1)]


@pytest.mark.slow
def test_a_process_that_hangs_is_noticed_by_its_missing_heartbeat(undisturbed, tmp_path):
    supervisor = start([*RUN, *TWO, "--workdir", str(tmp_path), "--heartbeat", "6"])
    child = process_of(supervisor, 1)
    wait_for_step(supervisor, tmp_path, 20)
    os.kill(child, signal.SIGSTOP)
    status, _, err = finish(supervisor)
    assert status == 0, err
    assert "all 2 start again from the checkpoint of step" in err
    assert result(tmp_path)["state_sha256"] == undisturbed["state_sha256"]


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(undisturbed, tmp_path):
    command = [*RUN, *TWO, "--workdir", str(tmp_path)]
    supervisor = start(command)
    wait_for_step(supervisor, tmp_path, 12)
    supervisor.send_signal(signal.SIGTERM)
    status, _, err = finish(supervisor)
    assert status == 143, err
    assert "stopped by SIGTERM at step" in err
    assert f"jaxcnn train {' '.join(command)}" in err
    assert not (tmp_path / "result.json").exists()
    status, _, err = finish(start(command))
    assert status == 0, err
    assert result(tmp_path)["state_sha256"] == undisturbed["state_sha256"]


def test_a_mistake_that_only_the_processes_can_see_is_one_line_and_is_not_tried_again(tmp_path):
    status, out, err = finish(start([*TWO, "--batch-size", "66"], cwd=tmp_path))
    assert (status, out) == (2, "")
    assert err == "jaxcnn: batch_size 66 cannot be divided over 4 devices; use 64 or 68\n"
    assert not list(tmp_path.iterdir())


# In one process


TERMINATED = """
import os, signal, sys
from jaxcnn.train.devices import distributed
distributed.initialize(sys.argv[1], 1, 0)
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_process_that_prepares_its_data_is_ended_by_sigterm():
    # JAX's own handler would swallow the signal, and nobody would ask for it.
    command = [sys.executable, "-c", TERMINATED, f"127.0.0.1:{free_port()}"]
    assert subprocess.run(command, env=environment(), capture_output=True, timeout=100).returncode == -signal.SIGTERM


def test_a_port_that_is_in_use_is_one_line():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = rf"--coordinator 127\.0\.0\.1:{port}: port {port} cannot be used"
        with pytest.raises(distributed.PortError, match=said):
            distributed.initialize(f"127.0.0.1:{port}", 2, 0)


def test_alone_a_process_agrees_with_itself():
    assert distributed.gather({"a": 1}) == [{"a": 1}]
    assert distributed.on_first(lambda: 2) == 2
    assert distributed.first_signal(None) is None
    with pytest.raises(UsageError, match=r"^no$"):
        distributed.together(lambda: (_ for _ in ()).throw(UsageError("no")))
    with pytest.raises(RunError, match=r"^full$"):
        distributed.on_first(lambda: (_ for _ in ()).throw(RunError("full")))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("localhost:1234", 2, None, 30), "must be given together"),
        (("localhost", 2, 0, 30), "HOST:PORT"),
        (("localhost:99999", 2, 0, 30), "HOST:PORT"),
        (("localhost:1234", 0, 0, 30), "--num-processes must be at least 1"),
        (("localhost:1234", 2, 2, 30), "--process-id must be from 0 to 1, got 2"),
        (("localhost:1234", 2, 0, 0), "--heartbeat must be at least 1"),
    ],
)
def test_an_address_a_count_or_an_index_that_cannot_be_is_refused(flags, says):
    with pytest.raises(UsageError, match=says):
        distributed.check_flags(*flags)
