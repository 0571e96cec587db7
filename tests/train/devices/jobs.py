"""Jobs of several processes on this machine: their start, their signals and their end."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]

# A busy machine may not run a process for a minute, which must not count as a death.
PATIENT = ("--heartbeat", "300")


def environment(**more):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **more}
    return {name: value for name, value in env.items() if name != "XLA_FLAGS"}


def start(args, env=None, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "jaxcnn.cli", "train", *args],
        env=environment(**(env or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def start_members(forks, args_of_each):
    """Start one process for each list of flags, as a scheduler does: no supervisor watches them."""
    job = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", str(len(args_of_each))]
    job += PATIENT
    return [forks.start([*args, *job, "--process-id", str(index)]) for index, args in enumerate(args_of_each)]


def start_tasks(forks, args, tasks):
    """Start the tasks of a SLURM job on one node, as far as JAX sees one: with the variables that `srun` sets."""
    job = {"SLURM_JOB_ID": str(job_with_free_port()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(tasks)}
    indices = [{"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)} for index in range(tasks)]
    return [forks.start([*args, "--distributed", *PATIENT], {**job, **index}) for index in indices]


def job_with_free_port():
    """Return the number of a job for which JAX chooses a free port: 61440 more than the number modulo 4096."""
    while True:
        number = random.randrange(10**6)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", 61440 + number % 4096))
            return number


def finish(process, seconds=600):
    """Exit status, standard output and standard error of a process, which must end within these seconds."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def process_of(supervisor, index):
    """The id of the child with this index, once it is there."""
    while supervisor.poll() is None:
        children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
        for child in children:
            arguments = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
            if "--process-id" in arguments and arguments[arguments.index("--process-id") + 1] == str(index):
                return int(child)
        time.sleep(0.01)
    raise AssertionError(f"the supervisor has ended: {finish(supervisor)}")


def wait_for_step(supervisor, folder, step):
    """Waits until the run has recorded a training step."""
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes().count(b'"train"') >= step):
        assert supervisor.poll() is None, f"the run ended too early: {finish(supervisor)}"
        time.sleep(0.005)


def result(folder):
    return json.loads((folder / "result.json").read_text())


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_together(script, folder, processes, devices, *args):
    """Run a script in several processes of one job. Each must end with status 0."""
    command = [sys.executable, str(script), f"127.0.0.1:{free_port()}", str(processes)]
    started = [
        subprocess.Popen(
            [*command, str(index), str(folder), *args],
            env=environment(JAX_NUM_CPU_DEVICES=str(devices)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]
    for process in started:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
