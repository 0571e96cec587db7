"""Jobs of two to eight processes that are stopped, go on with fewer processes, or do not belong together."""

import fcntl
import json
import os
import signal
import time

import numpy as np
import pytest
from forks import Forks
from jobs import PATIENT, environment, finish, process_of, result, start, start_members, start_tasks, wait_for_step
from PIL import Image

from jaxcnn.train import evaluate, load_run
from jaxcnn.train.runtime.integrity import named_leaves

# They take minutes each on two cores, and their bounds on time need a machine that does nothing else.
pytestmark = pytest.mark.exhaustive

STEPS = 60
# Epochs of 39 steps.
RUN = f"--steps {STEPS} --batch-size 256 --checkpoint-every 20 --log-every 5 --no-progress".split()
# After the signal: at most five steps, a save, and the end of all processes, on a machine that does other work.
BOUND = 300


def supervised(processes, devices, folder, *more):
    flags = ["--processes", str(processes), "--devices-per-process", str(devices), "--workdir", str(folder)]
    return start([*RUN, *flags, *(more or PATIENT)])


def members(forks, processes, folder):
    return start_members(forks, [[*RUN, "--workdir", str(folder)]] * processes)


def checkpoints(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


def training_rows(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == "train"]


@pytest.fixture(scope="module")
def forks():
    with Forks(environment(JAX_NUM_CPU_DEVICES="1")) as forks:
        yield forks


@pytest.fixture(scope="module")
def undisturbed(forks, tmp_path_factory, worker_id):
    """Return a function of the number of processes: the folder of their undisturbed run, on one device each."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent

    def folder_of(processes):
        folder = shared / f"undisturbed-{processes}"
        with (shared / f"undisturbed-{processes}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "result.json").exists():
                for status, _, err in [*map(finish, members(forks, processes, folder))]:
                    assert status == 0, err
        return folder

    return folder_of


@pytest.mark.slow
@pytest.mark.exhaustive
def test_eight_processes_go_on_as_four_and_as_one(tmp_path):
    straight, folder = tmp_path / "straight", tmp_path / "run"
    status, _, err = finish(supervised(1, 8, straight))
    assert status == 0, err
    for processes, devices, step in ((8, 1, 10), (4, 2, 30)):
        supervisor = supervised(processes, devices, folder)
        wait_for_step(supervisor, folder, step)
        supervisor.send_signal(signal.SIGTERM)
        status, _, err = finish(supervisor, BOUND)
        assert status == 143, err
        assert "stopped by SIGTERM at step" in err
        assert step <= checkpoints(folder)[-1] < STEPS
        assert not (folder / "result.json").exists()
    status, _, err = finish(supervised(1, 8, folder))
    assert status == 0, err
    found, expected = result(folder), result(straight)
    assert (found["test_examples"], found["processes"], found["devices"]) == (2000, 1, 8)
    rows, expected_rows = training_rows(folder), training_rows(straight)
    assert [row["step"] for row in rows] == [*range(1, STEPS + 1)]
    # Sums are in another order. Other examples would change the first digits.
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in expected_rows], rtol=1e-3)
    assert found["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-3)
    for path in (folder, straight):
        again = evaluate(path)
        assert again["test_examples"] == 2000
        assert again["test_loss"] == pytest.approx(result(path)["test_loss"], rel=1e-5)
    ours, theirs = (named_leaves(load_run(path).variables) for path in (folder, straight))
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], atol=1e-3, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "stopped"),
    [
        (4, [2]),
        (4, [0]),
        (4, [0, 1, 2, 3]),
        pytest.param(8, [5], marks=pytest.mark.exhaustive),
        pytest.param(8, [*range(8)], marks=pytest.mark.exhaustive),
    ],
)
def test_sigterm_to_any_processes_stops_all_which_go_on_to_the_same_bits(
    forks, undisturbed, tmp_path, processes, stopped
):
    expected = undisturbed(processes)
    job = members(forks, processes, tmp_path)
    wait_for_step(job[0], tmp_path, 10)
    for index in stopped:
        job[index].send_signal(signal.SIGTERM)
    before = time.monotonic()
    ends = [finish(process, BOUND) for process in job]
    assert time.monotonic() - before < BOUND
    assert [status for status, _, _ in ends] == [143] * processes, ends
    for _, out, err in ends:
        assert out == ""
        assert "stopped by SIGTERM at step" in err
    saved = checkpoints(tmp_path)[-1]
    assert 10 <= saved < STEPS
    assert [row["step"] for row in training_rows(tmp_path)] == [*range(1, saved + 1)]
    for status, _, err in [*map(finish, members(forks, processes, tmp_path))]:
        assert status == 0, err
    assert result(tmp_path)["state_sha256"] == result(expected)["state_sha256"]
    assert training_rows(tmp_path) == training_rows(expected)


@pytest.mark.slow
def test_tasks_of_slurm_find_each_other_and_a_requeued_job_goes_on(forks, undisturbed, tmp_path):
    flags = [*RUN, "--workdir", str(tmp_path)]
    job = start_tasks(forks, flags, 4)
    wait_for_step(job[0], tmp_path, 10)
    for task in job:
        task.send_signal(signal.SIGTERM)
    assert [finish(task, BOUND)[0] for task in job] == [143] * 4
    for status, _, err in [finish(task) for task in start_tasks(forks, flags, 4)]:
        assert status == 0, err
    assert result(tmp_path)["processes"] == 4
    assert result(tmp_path)["state_sha256"] == result(undisturbed(4))["state_sha256"]


@pytest.mark.slow
def test_a_supervisor_starts_all_again_if_one_process_alone_gets_sigterm(undisturbed, tmp_path):
    supervisor = supervised(4, 1, tmp_path)
    child = process_of(supervisor, 2)
    wait_for_step(supervisor, tmp_path, 10)
    os.kill(child, signal.SIGTERM)
    status, _, err = finish(supervisor)
    assert status == 0, err
    assert "all 4 start again from the checkpoint of step" in err
    assert result(tmp_path)["state_sha256"] == result(undisturbed(4))["state_sha256"]


@pytest.mark.slow
def test_a_supervisor_ends_in_time_although_one_process_hangs(tmp_path):
    supervisor = supervised(4, 1, tmp_path, "--heartbeat", "6")
    child = process_of(supervisor, 2)
    wait_for_step(supervisor, tmp_path, 10)
    os.kill(child, signal.SIGSTOP)
    supervisor.send_signal(signal.SIGTERM)
    status, _, err = finish(supervisor, BOUND)
    assert status == 143, err
    assert not os.path.exists(f"/proc/{child}")


@pytest.mark.slow
def test_processes_with_other_flags_are_refused_by_all(forks, tmp_path):
    flags = ["--steps", "4", "--batch-size", "66", "--no-progress", "--workdir", str(tmp_path / "run")]
    job = start_members(forks, [flags, [*flags, "--log-every", "7"], flags])
    for status, out, err in [*map(finish, job)]:
        assert (status, out) == (2, "")
        assert err.endswith(
            "process 1 differs from process 0: log_every: 20 -> 7. Start all processes with the same flags and the "
            "same data.\n"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_prepare_one_folder_of_images_together_and_refuse_another(forks, tmp_path):
    random = np.random.default_rng(0)
    for folder, count in (("one", 41), ("other", 40)):
        for index in range(count):
            path = tmp_path / folder / ("cat", "dog")[index % 2] / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (28, 28), np.uint8)).save(path)
    flags = ["--steps", "4", "--batch-size", "8", "--no-progress", "--data-dir", str(tmp_path / "prepared")]

    def of(name, folder):
        return [*flags, "--dataset", f"imagefolder:{tmp_path / name}", "--workdir", str(tmp_path / folder)]

    for status, _, err in [*map(finish, start_members(forks, [of("one", "together")] * 4))]:
        assert status == 0, err
    found = result(tmp_path / "together")
    assert (found["processes"], found["test_examples"]) == (4, 8)
    for status, _, err in [*map(finish, start_members(forks, [of("one", "mixed"), of("other", "mixed")]))]:
        assert status == 2
        assert "process 1 differs from process 0: the training images of class 'cat'" in err, err
